/**
 * Caisson against Debian's containerd with runc and with crun, through the same gRPC client, in one run: medians and ratios. Absolute
 * times on a shared machine are noise; the ratio within one run is what counts.
 *   scripts/bench [--rounds N] [--json FILE]
 */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { CriClient, Message } from "../helpers/cri-client.ts";
import { bridgeConflist } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage, startRegistry } from "../helpers/registry.ts";
import { processesOf, pssKiB, startContainerd } from "./containerd.ts";

const { values } = parseArgs({ options: { rounds: { type: "string", default: "20" }, json: { type: "string" } } });
const rounds = Number(values.rounds);

interface Contender {
  readonly name: string;
  readonly client: CriClient;
  readonly image: string;
  readonly logs: string;
  podProcesses(): number[];
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
const percentile = (numbers: readonly number[], p: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor((numbers.length * p) / 100))] ?? Number.NaN;
const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const began = performance.now();
  await work();
  return performance.now() - began;
};

function podConfig(contender: Contender, network: "NODE" | "POD"): Message {
  const name = `bench-${randomUUID().slice(0, 8)}`;
  return {
    metadata: { name, uid: randomUUID(), namespace: "default", attempt: 0 },
    // containerd's runc refuses a name of its own for a pod that shares the node's.
    hostname: network === "NODE" ? "" : name,
    log_directory: join(contender.logs, name),
    linux: {
      cgroup_parent: "/caisson-bench",
      security_context: { namespace_options: { network, pid: "CONTAINER", ipc: "POD" } },
    },
  };
}

function containerConfig(contender: Contender, network: "NODE" | "POD"): Message {
  return {
    metadata: { name: "main", attempt: 0 },
    image: { image: contender.image },
    command: ["/bin/sleep", "1000"],
    log_path: "main.log",
    linux: {
      resources: { memory_limit_in_bytes: 256 << 20, cpu_shares: 512 },
      security_context: {
        namespace_options: { network, pid: "CONTAINER", ipc: "POD" },
        seccomp: { profile_type: "RuntimeDefault" },
        masked_paths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
      },
    },
  };
}

interface Sample {
  readonly sandbox: number;
  readonly create: number;
  readonly start: number;
  readonly podStart: number;
  readonly execSync: number;
  readonly takeDown: number;
}

async function podRound(contender: Contender, network: "NODE" | "POD"): Promise<Sample> {
  const { client } = contender;
  const config = podConfig(contender, network);
  let podId = "";
  let id = "";
  const sandbox = await timed(async () => {
    podId = (await client.runtime("RunPodSandbox", { config })).pod_sandbox_id;
  });
  const create = await timed(async () => {
    const request = { pod_sandbox_id: podId, config: containerConfig(contender, network), sandbox_config: config };
    id = (await client.runtime("CreateContainer", request)).container_id;
  });
  const start = await timed(() => client.runtime("StartContainer", { container_id: id }));
  const execs: number[] = [];
  for (let i = 0; i < 5; i++)
    execs.push(await timed(() => client.runtime("ExecSync", { container_id: id, cmd: ["/bin/true"], timeout: 10 })));
  const takeDown = await timed(async () => {
    await client.runtime("StopContainer", { container_id: id, timeout: 0 });
    await client.runtime("RemoveContainer", { container_id: id });
    await client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
    await client.runtime("RemovePodSandbox", { pod_sandbox_id: podId });
  });
  return { sandbox, create, start, podStart: sandbox + create + start, execSync: median(execs), takeDown };
}

/** Memory of ten pods with one container each: PSS of all that is not the container, per pod. */
async function memoryPerPod(contender: Contender): Promise<number> {
  const { client } = contender;
  const pods: string[] = [];
  for (let i = 0; i < 10; i++) {
    const config = podConfig(contender, "NODE");
    const { pod_sandbox_id } = await client.runtime("RunPodSandbox", { config });
    const request = { pod_sandbox_id, config: containerConfig(contender, "NODE"), sandbox_config: config };
    const { container_id } = await client.runtime("CreateContainer", request);
    await client.runtime("StartContainer", { container_id });
    pods.push(pod_sandbox_id);
  }
  const total = contender.podProcesses().reduce((sum, pid) => sum + pssKiB(pid), 0);
  for (const pod_sandbox_id of pods) {
    await client.runtime("StopPodSandbox", { pod_sandbox_id });
    await client.runtime("RemovePodSandbox", { pod_sandbox_id });
  }
  return total / 10;
}

/** p99 of Status and ListContainers while an image is pulled, over the idle median. */
async function latencyWhilePulling(contender: Contender, bigImage: string): Promise<{ idle: number; p99: number }> {
  const { client } = contender;
  const call = (): Promise<number> =>
    timed(() => Promise.all([client.runtime("Status", {}), client.runtime("ListContainers", {})]));
  const idle: number[] = [];
  for (let i = 0; i < 200; i++) idle.push(await call());
  const busy: number[] = [];
  let done = false;
  const pull = client.image("PullImage", { image: { image: bigImage } }).finally(() => {
    done = true;
  });
  while (!done) busy.push(await call());
  await pull;
  await client.image("RemoveImage", { image: { image: bigImage } });
  return { idle: median(idle), p99: percentile(busy, 99) };
}

const scratch = mkdtempSync(join(tmpdir(), "caisson-bench-"));
const registry = await startRegistry();
const small = await pushImage(
  registry,
  "bench/busybox",
  "1",
  buildBusyboxImage(join(scratch, "busybox"), { config: { Cmd: ["/bin/sleep", "100000"] } }),
);
const noise = Buffer.alloc(48 << 20);
for (let i = 0; i < noise.length; i += 4) noise.writeUInt32LE((Math.imul(i, 2654435761) ^ (i << 7)) >>> 0, i);
const big = await pushImage(
  registry,
  "bench/big",
  "1",
  buildBusyboxImage(join(scratch, "big"), {
    layers: [0, 1, 2].map((n) => ({ content: [{ name: `blob${n}`, content: Buffer.concat([Buffer.from([n]), noise]) }] })),
  }),
);

const stack = new AsyncDisposableStack();
const contenders: Contender[] = [];
async function enter(name: string, client: CriClient, cniConf: string, podProcesses: () => number[]): Promise<void> {
  const { image_ref } = await client.image("PullImage", { image: { image: small } });
  writeFileSync(join(cniConf, "10-bench.conflist"), bridgeConflist("caissonb0", "10.211.9.0/24"));
  contenders.push({ name, client, image: image_ref, logs: join(scratch, name), podProcesses });
}
try {
  const daemon = stack.use(await Daemon.start({ logLevel: "info" }));
  await enter("caisson", daemon.client, daemon.cniConf, () => processesOf((cmdline) => cmdline.startsWith("caisson-shim")));
  for (const binary of ["runc", "crun"]) {
    const rival = stack.use(await startContainerd(`/usr/bin/${binary}`, small));
    // The pause process of a rival is the image's own command.
    const pauses = (): number[] =>
      processesOf((cmdline) => cmdline.includes("containerd-shim") || cmdline.startsWith("/bin/sleep\x00100000"));
    await enter(`containerd-${binary}`, rival.client, rival.cniConf, pauses);
  }

  const report: Record<string, Record<string, number>> = {};
  const put = (row: string, name: string, value: number): void => {
    report[row] ??= {};
    report[row][name] = value;
  };
  for (const network of ["NODE", "POD"] as const) {
    const samples = new Map<string, Sample[]>(contenders.map((c) => [c.name, []]));
    // Rounds alternate between the contenders, so that a slow moment of the machine meets all of them.
    for (let i = 0; i < rounds + 1; i++) {
      for (const contender of contenders) {
        const sample = await podRound(contender, network);
        if (i > 0) samples.get(contender.name)?.push(sample);
      }
    }
    for (const key of ["podStart", "sandbox", "create", "start", "execSync", "takeDown"] as const) {
      for (const [name, list] of samples)
        put(`${network === "NODE" ? "host network" : "CNI bridge"}: ${key} (ms)`, name, median(list.map((s) => s[key])));
    }
  }
  for (const contender of contenders)
    put("memory per pod beside the container (KiB PSS)", contender.name, await memoryPerPod(contender));
  for (const contender of contenders) {
    const { idle, p99 } = await latencyWhilePulling(contender, big);
    put("Status + ListContainers, idle median (ms)", contender.name, idle);
    put("Status + ListContainers, p99 while pulling, over idle median", contender.name, p99 / idle);
  }

  const names = contenders.map((c) => c.name);
  const line = (cells: readonly string[]): string =>
    `${(cells[0] ?? "").padEnd(62)}${cells
      .slice(1)
      .map((c) => c.padStart(24))
      .join("")}`;
  console.log(line(["", ...names]));
  for (const [row, byName] of Object.entries(report)) {
    const own = byName.caisson ?? Number.NaN;
    console.log(
      line([
        row,
        ...names.map((n) => {
          const value = byName[n] ?? Number.NaN;
          return n === "caisson" ? value.toFixed(2) : `${value.toFixed(2)} (${(value / own).toFixed(1)}x)`;
        }),
      ]),
    );
  }
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(report, null, 2));
} finally {
  await stack.disposeAsync();
  await registry.stop();
  rmSync(scratch, { recursive: true, force: true });
}
