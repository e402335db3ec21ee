/**
 * A node with 100 pods: the daemon goes away and comes back, then the machine is "booted": run directory, processes, namespaces, cgroups
 * and the boot's id are others, disks are as they were. How long recovery takes is printed, not asserted.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { isRunning } from "../helpers/process-state.ts";

const podCount = 100;
/** Every fourth has a second container, which ends while nobody looks. */
const endsAway = (index: number): boolean => index % 4 === 0;
/** Every fifth has one that had ended before. */
const endedBefore = (index: number): boolean => index % 5 === 0;
const bridge = "caissonr0";
const ipam = `/tmp/${bridge}-ipam/${bridge}`;

interface Pod {
  readonly name: string;
  readonly config: Message;
  id: string;
  main: string;
  leaver: string;
  ended: string;
  pids: number[];
}

let node: CriNode;
let pods: readonly Pod[];

const steady = (code: number): string[] => [
  "/bin/sh",
  "-c",
  `echo began; trap 'exit ${code}' TERM; while :; do sleep 1000 & wait; done`,
];
const leaverCode = (index: number): number => 10 + index;

async function startPod(index: number): Promise<Pod> {
  const name = `crowd-${index}`;
  // One pod has a network, whose removal is still owed after a boot.
  const namespaces = { namespace_options: index === 0 ? network.pod : network.host };
  const config = node.podConfig(name, { linux: { security_context: namespaces } });
  const id = await node.runPod(config);
  const run = (container: string, command: readonly string[]): Promise<string> =>
    node.run(id, config, node.containerConfig(container, command));
  const main = await run("main", steady(7));
  const leaver = endsAway(index) ? await run("leaver", steady(leaverCode(index))) : "";
  const ended = endedBefore(index) ? await run("ended", ["/bin/sh", "-c", "exit 3"]) : "";
  const pids = await Promise.all(
    [main, leaver].filter((known) => known !== "").map(async (known) => (await node.info(known)).pid),
  );
  return { name, config, id, main, leaver, ended, pids };
}

beforeAll(async () => {
  node = await CriNode.start({ logLevel: "info" });
  node.enableNetwork(bridge, "10.211.14.0/24");
  await node.networkReady();
  const made: Promise<Pod>[] = [];
  for (let from = 0; from < podCount; from += 5) {
    const some = Array.from({ length: 5 }, (_, n) => startPod(from + n));
    made.push(...some);
    await Promise.all(some);
  }
  pods = await Promise.all(made);
  await Promise.all(pods.filter(({ ended }) => ended !== "").map(({ ended }) => node.exited(ended)));
}, 240_000);
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

/** Containers by id as ListContainers has them. */
async function containers(): Promise<Map<string, Message>> {
  const { containers: listed } = await node.client.runtime("ListContainers", {});
  return new Map(listed.map((container: Message) => [container.id, container]));
}

/** From the daemon's last log line "ready". */
const readyMs = (): string => [...node.daemon.log().matchAll(/"ms":(\d+),"msg":"ready"/g)].at(-1)?.[1] ?? "?";

it("100 pods are as they were after the daemon was killed, and exits meanwhile are known", async () => {
  await node.daemon.kill();
  const leavers = pods.filter(({ leaver }) => leaver !== "");
  for (const { pids } of leavers) process.kill(pids[1] ?? 0, "SIGTERM");
  await expect.poll(() => leavers.filter(({ pids }) => isRunning(pids[1] ?? 0)).length, { timeout: 30_000 }).toBe(0);
  await node.daemon.launch();
  console.log(`${podCount} pods, ${podCount * 1.45} containers: ready ${readyMs()} ms after its start`);

  const { items } = await node.client.runtime("ListPodSandbox", {});
  expect(items.map((item: Message) => [item.id, item.state]).sort()).toEqual(pods.map(({ id }) => [id, "SANDBOX_READY"]).sort());
  const listed = await containers();
  expect(listed.size).toBe(pods.flatMap(({ main, leaver, ended }) => [main, leaver, ended]).filter((id) => id !== "").length);
  for (const [index, pod] of pods.entries()) {
    expect(listed.get(pod.main)).toMatchObject({
      state: "CONTAINER_RUNNING",
      pod_sandbox_id: pod.id,
      metadata: { name: "main" },
    });
    expect((await node.info(pod.main)).pid).toBe(pod.pids[0]);
    if (pod.leaver !== "") {
      expect(await node.status(pod.leaver)).toMatchObject({
        state: "CONTAINER_EXITED",
        exit_code: leaverCode(index),
        reason: "Error",
      });
    }
    if (pod.ended !== "") expect(await node.status(pod.ended)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 3 });
  }
  expect((await node.exec(pods[50]?.main ?? "", ["/bin/echo", "still"])).stdout).toBe("still\n");
}, 120_000);

/** The rules of the one pod with a network. The plugin of a later boot has no reason to look for them. */
function forgetMasquerade(): void {
  const rules = execFileSync("iptables-save", ["-t", "nat"], { encoding: "utf8" }).split("\n");
  const jump = rules.find((rule) => rule.startsWith("-A POSTROUTING ") && rule.includes(pods[0]?.id ?? "?"));
  const chain = jump?.split(" ").at(-1) ?? "";
  const nat = (...args: string[]) => execFileSync("iptables", ["-t", "nat", ...args]);
  const number = rules.filter((rule) => rule.startsWith("-A POSTROUTING ")).indexOf(jump ?? "") + 1;
  nat("-D", "POSTROUTING", String(number));
  nat("-F", chain);
  nat("-X", chain);
}

/** What a power cut takes: every process, every mount, pin and cgroup, the run directory; and the next boot has another id. */
async function boot(): Promise<void> {
  await node.daemon.kill();
  const shims = readdirSync(join(node.daemon.state, "pods")).map((id) => {
    const { pid } = JSON.parse(readFileSync(join(node.daemon.state, "pods", id, "shim.json"), "utf8")) as { pid: number };
    return pid;
  });
  const processes = [...shims, ...pods.flatMap(({ pids }) => pids)].filter(isRunning);
  for (const pid of processes) process.kill(pid, "SIGKILL");
  await expect.poll(() => processes.filter(isRunning).length, { timeout: 30_000 }).toBe(0);
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const place = line.split(" ")[4] ?? "";
    if (place.startsWith(`${node.daemon.state}/`) || place === `/run/netns/caisson-${pods[0]?.id}`)
      execFileSync("umount", ["-l", place]);
  }
  rmSync(`/run/netns/caisson-${pods[0]?.id}`);
  forgetMasquerade();
  rmSync(node.daemon.state, { recursive: true });
  await expect.poll(() => cgroupsOfContainers(), { timeout: 30_000 }).toEqual([]);
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  using database = new DatabaseSync(join(node.daemon.root, "caisson.db"));
  const changed = database
    .prepare("UPDATE documents SET json = replace(json, ?, ?)")
    .run(bootId, "00000000-0000-4000-8000-000000000000");
  expect(changed.changes).toBeGreaterThan(podCount);
}

/** Removes what is empty and returns what is not. */
function cgroupsOfContainers(): string[] {
  node.removeCgroups();
  return execFileSync("find", ["/sys/fs/cgroup", "-path", `*${node.cgroupParent}/*`, "-type", "d"], { encoding: "utf8" })
    .split("\n")
    .filter((line) => line !== "");
}

it("after a boot they are records with their logs, and removal leaves nothing of them", async () => {
  await boot();
  await node.daemon.launch();
  await node.networkReady();
  console.log(`after a boot: ready ${readyMs()} ms after its start`);
  const { items } = await node.client.runtime("ListPodSandbox", {});
  expect(items.map((item: Message) => [item.id, item.state]).sort()).toEqual(
    pods.map(({ id }) => [id, "SANDBOX_NOTREADY"]).sort(),
  );
  for (const [index, pod] of pods.entries()) {
    const main = await node.status(pod.main);
    expect(main).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 255, reason: "Unknown" });
    expect(main.message).toContain("rebooted");
    expect(readFileSync(main.log_path, "utf8")).toContain("stdout F began");
    if (pod.leaver !== "") expect(await node.status(pod.leaver)).toMatchObject({ exit_code: leaverCode(index), reason: "Error" });
    if (pod.ended !== "") expect(await node.status(pod.ended)).toMatchObject({ exit_code: 3 });
  }
  // A node goes on with new pods before the old ones are cleared away.
  const fresh = node.podConfig("fresh");
  const freshId = await node.runPod(fresh);
  expect((await node.exited(await node.run(freshId, fresh, node.containerConfig("main", ["/bin/true"])))).exit_code).toBe(0);
  await node.removePod(freshId);

  for (const { id } of pods) await node.removePod(id);
  expect((await node.client.runtime("ListPodSandbox", {})).items).toEqual([]);
  expect((await containers()).size).toBe(0);
  const left = (path: string): string[] => (existsSync(path) ? readdirSync(path) : []);
  const kept = ["state/pods", "state/containers", "root/containers"].flatMap((path) => left(join(node.daemon.base, path)));
  expect(kept).toEqual([]);
  expect(left(ipam).filter((name) => /^[0-9]/.test(name))).toEqual([]);
  expect(left("/run/netns").filter((name) => pods.some(({ id }) => name.includes(id)))).toEqual([]);
}, 120_000);
