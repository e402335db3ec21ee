/** The database deleted, truncated or replaced by an older copy under live pods; and two daemons where there should be one. */
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

const top = join(import.meta.dirname, "../..");
let node: CriNode;
let before: Inventory;
beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

const steady = ["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"];
/** Pid of the shim of a pod. */
const shimOf = (podId: string): number => {
  const found = readdirSync("/proc").find((name) => {
    try {
      return readFileSync(`/proc/${name}/cmdline`, "utf8").startsWith(`caisson-shim\0--pod\0${podId}`);
    } catch {
      return false;
    }
  });
  if (found === undefined) throw new Error(`pod ${podId} has no shim`);
  return Number(found);
};
const database = (): string => join(node.daemon.root, "caisson.db");
const removeDatabase = (): void => {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(`${database()}${suffix}`, { force: true });
};

const damages: [string, () => void][] = [
  ["deleted", removeDatabase],
  ["truncated", () => truncateSync(database(), 5000)],
  ["emptied", () => truncateSync(database(), 0)],
];
describe.each(damages)("the database is %s while the daemon is away", (what, damage) => {
  it("running pods are known again from their shims, with everything the kubelet told", async () => {
    const pod = node.podConfig(`lost-${what}`);
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", steady));
    const was = await node.status(id);
    const { status: podWas } = await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId });
    const { pid } = await node.info(id);
    await node.daemon.kill();
    damage();
    await node.daemon.launch();
    const { status: podIs } = await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId });
    expect(podIs).toEqual(podWas);
    const is = await node.status(id);
    expect({ ...is, image: was.image, image_ref: was.image_ref }).toEqual(was);
    expect((await node.info(id)).pid).toBe(pid);
    expect((await node.exec(id, ["/bin/echo", "still"])).stdout).toBe("still\n");
    await node.client.runtime("StopContainer", { container_id: id, timeout: 10 });
    expect(await node.status(id)).toMatchObject({ exit_code: 7 });
    await node.removePod(podId);
    // The image's records went with the database: a kubelet pulls again.
    await node.client.image("PullImage", { image: { image: node.image } });
  });
});

it("an older copy of the database does not bring back what is gone, nor hide what is there", async () => {
  const gonePod = node.podConfig("gone");
  const goneId = await node.runPod(gonePod);
  await node.daemon.stop();
  const copy = join(node.daemon.base, "older.db");
  copyFileSync(database(), copy);
  await node.daemon.launch();
  await node.removePod(goneId);
  const pod = node.podConfig("newer");
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", steady));
  await node.daemon.kill();
  removeDatabase();
  copyFileSync(copy, database());
  await node.daemon.launch();
  expect(await node.status(id)).toMatchObject({ state: "CONTAINER_RUNNING" });
  const { items } = await node.client.runtime("ListPodSandbox", {});
  for (const item of items) if (item.id === goneId) expect(item.state).toBe("SANDBOX_NOTREADY");
  await node.removePod(goneId);
  await node.removePod(podId);
});

it("a reboot (run directory and processes gone) leaves records as exited and not ready, and removal cleans everything", async () => {
  const pod = node.podConfig("reboot");
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", steady));
  const { pid } = await node.info(id);
  await node.daemon.kill();
  process.kill(shimOf(podId), "SIGKILL");
  process.kill(pid, "SIGKILL");
  // What a reboot takes from the run directory, and what it leaves mounted: nothing.
  execFileSync("umount", ["-R", join(node.daemon.state, "pods", podId, "shm")]);
  rmSync(node.daemon.state, { recursive: true });
  await node.daemon.launch();
  expect(await node.status(id)).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 255, reason: "Unknown" });
  expect(existsSync((await node.status(id)).log_path)).toBe(true);
  await node.removePod(podId);
  expect((await node.client.runtime("ListContainers", {})).containers).toEqual([]);
});
describe("a second daemon", () => {
  it("on the same directories is refused with a sentence", async () => {
    const { root, state, pid, base } = node.daemon;
    const directories = [
      ["--root", root, "--state", join(base, "other-state")],
      ["--root", join(base, "other-root"), "--state", state],
    ];
    for (const flags of directories) {
      const second = spawnSync(join(top, "scripts/caissond"), [...flags, "--listen", join(base, "second.sock")], {
        encoding: "utf8",
      });
      expect(second.status).toBe(1);
      expect(second.stderr).toContain(`another caissond (pid ${pid}) uses ${flags.includes(root) ? root : state}`);
    }
    await node.client.runtime("Status", {});
  });

  it("on other directories lives beside this one and touches nothing of it", async () => {
    const pod = node.podConfig("first");
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", steady));
    const scratch = mkdtempSync(join(tmpdir(), "caisson-second-"));
    const second = await Daemon.start({ base: scratch });
    await second.client.image("PullImage", { image: { image: node.image } });
    const config: Message = { ...pod, linux: { ...pod.linux, cgroup_parent: `${node.cgroupParent}/second` } };
    const { pod_sandbox_id } = await second.client.runtime("RunPodSandbox", { config });
    expect((await second.client.runtime("ListContainers", {})).containers).toEqual([]);
    await second.kill();
    await second.launch();
    await second.client.runtime("RemovePodSandbox", { pod_sandbox_id });
    await second[Symbol.asyncDispose]();
    expect(await node.status(id)).toMatchObject({ state: "CONTAINER_RUNNING" });
    expect((await node.exec(id, ["/bin/true"])).exitCode).toBe(0);
    await node.removePod(podId);
  });
});
