/**
 * Caisson against Debian's containerd with runc and with crun, through the same gRPC client, in one run: medians and ratios. Absolute
 * times on a shared machine are noise; the ratio within one run is what counts.
 *   scripts/bench [--rounds N] [--json FILE]
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { CriClient } from "../helpers/cri-client.ts";
import { bridgeConflist } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { startRegistry } from "../helpers/registry.ts";
import { processesOf, pssKiB, startContainerd } from "./containerd.ts";
import {
  type Contender,
  containerConfig,
  listLatency,
  median,
  percentile,
  podConfig,
  podRound,
  pushBigImage,
  pushSmallImage,
  type Sample,
} from "./pod-round.ts";

const { values } = parseArgs({ options: { rounds: { type: "string", default: "20" }, json: { type: "string" } } });
const rounds = Number(values.rounds);
/** Not counted: a node's daemon has been at it for days, its code is compiled. */
const warmUpRounds = 10;

interface Rated extends Contender {
  podProcesses(): number[];
}

/** Memory of ten pods with one container each: PSS of all that is not the container, per pod. */
async function memoryPerPod(contender: Rated): Promise<number> {
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

const scratch = mkdtempSync(join(tmpdir(), "caisson-bench-"));
const registry = await startRegistry();
const small = await pushSmallImage(registry, scratch);
const big = await pushBigImage(registry, scratch);

const stack = new AsyncDisposableStack();
const contenders: Rated[] = [];
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
    for (let i = 0; i < warmUpRounds + rounds; i++) {
      for (const contender of contenders) {
        const sample = await podRound(contender, network);
        if (i >= warmUpRounds) samples.get(contender.name)?.push(sample);
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
    const { idle, busy } = await listLatency(contender.client, big);
    put("Status + ListContainers, idle median (ms)", contender.name, median(idle));
    put("Status + ListContainers, p99 while pulling, over idle median", contender.name, percentile(busy, 99) / median(idle));
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
