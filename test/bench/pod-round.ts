/** One pod's life as a kubelet goes through it, timed call by call, and the images for it. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { CriClient, Message } from "../helpers/cri-client.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage, type Registry } from "../helpers/registry.ts";

export interface Contender {
  readonly name: string;
  readonly client: CriClient;
  readonly image: string;
  readonly logs: string;
}

export type Network = "NODE" | "POD";

export const percentile = (numbers: readonly number[], p: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor((numbers.length * p) / 100))] ?? Number.NaN;
export const median = (numbers: readonly number[]): number => percentile(numbers, 50);

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const began = performance.now();
  await work();
  return performance.now() - began;
};

export function podConfig(contender: Contender, network: Network): Message {
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

export function containerConfig(contender: Contender, network: Network): Message {
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

export interface Sample {
  readonly sandbox: number;
  readonly create: number;
  readonly start: number;
  readonly podStart: number;
  readonly execSync: number;
  readonly stopContainer: number;
  readonly removeContainer: number;
  readonly stopSandbox: number;
  readonly removeSandbox: number;
  readonly takeDown: number;
}

/** Milliseconds of each call; execSync is the median of five. */
export async function podRound(contender: Contender, network: Network): Promise<Sample> {
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
  const stopContainer = await timed(() => client.runtime("StopContainer", { container_id: id, timeout: 0 }));
  const removeContainer = await timed(() => client.runtime("RemoveContainer", { container_id: id }));
  const stopSandbox = await timed(() => client.runtime("StopPodSandbox", { pod_sandbox_id: podId }));
  const removeSandbox = await timed(() => client.runtime("RemovePodSandbox", { pod_sandbox_id: podId }));
  const takeDown = stopContainer + removeContainer + stopSandbox + removeSandbox;
  const podStart = sandbox + create + start;
  const execSync = median(execs);
  return { sandbox, create, start, podStart, execSync, stopContainer, removeContainer, stopSandbox, removeSandbox, takeDown };
}

/** Status and ListContainers together: milliseconds idle, and while the image is pulled, five times. */
export async function listLatency(client: CriClient, bigImage: string): Promise<{ idle: number[]; busy: number[] }> {
  const call = (): Promise<number> =>
    timed(() => Promise.all([client.runtime("Status", {}), client.runtime("ListContainers", {})]));
  const idle: number[] = [];
  // Until the code is compiled, here and there: who is asked first would pay for this client.
  for (let i = 0; i < 1000; i++) await call();
  for (let i = 0; i < 200; i++) idle.push(await call());
  const busy: number[] = [];
  // One pull alone has some twenty calls beyond the 99th percentile: too few to tell two runs apart.
  for (let pulls = 0; pulls < 5; pulls++) {
    let done = false;
    const pull = client.image("PullImage", { image: { image: bigImage } }).finally(() => {
      done = true;
    });
    while (!done) busy.push(await call());
    await pull;
    await client.image("RemoveImage", { image: { image: bigImage } });
  }
  return { idle, busy };
}

export async function pushSmallImage(registry: Registry, scratch: string): Promise<string> {
  const image = buildBusyboxImage(join(scratch, "busybox"), { config: { Cmd: ["/bin/sleep", "100000"] } });
  return await pushImage(registry, "bench/busybox", "1", image);
}

/** Three layers of 48 MiB that hardly compress. */
export async function pushBigImage(registry: Registry, scratch: string): Promise<string> {
  const noise = Buffer.alloc(48 << 20);
  for (let i = 0; i < noise.length; i += 4) noise.writeUInt32LE((Math.imul(i, 2654435761) ^ (i << 7)) >>> 0, i);
  const layers = [0, 1, 2].map((n) => ({ content: [{ name: `blob${n}`, content: Buffer.concat([Buffer.from([n]), noise]) }] }));
  return await pushImage(registry, "bench/big", "1", buildBusyboxImage(join(scratch, "big"), { layers }));
}
