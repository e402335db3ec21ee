/**
 * The root, state and log filesystems full, each alone: exits are reported, Stop and Remove work and free space, containers neither
 * block nor die of it. And a log on a frozen filesystem: the sibling's exec, exit and log go on.
 */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let base: string;
let before: Inventory;
const mounted: string[] = [];
beforeEach(() => {
  before = takeInventory();
  base = mkdtempSync("/tmp/caisson-full-");
});
afterEach(async () => {
  for (const path of mounted.splice(0).toReversed()) execFileSync("umount", [path]);
  rmSync(base, { recursive: true, force: true });
  await expectNoLeaks(before);
});

function tmpfs(path: string, size: string): void {
  mkdirSync(path, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "caisson-test-full", path]);
  mounted.push(path);
}

/** Writes until the filesystem has no byte left; returns the file that holds the space. */
function fill(directory: string): string {
  const path = join(directory, "filler");
  const file = openSync(path, "w");
  for (const size of [1 << 20, 4096, 1]) {
    const block = Buffer.alloc(size, 1);
    try {
      for (;;) writeSync(file, block);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes("ENOSPC")) throw error;
    }
  }
  closeSync(file);
  return path;
}

const talkative = [
  "/bin/sh",
  "-c",
  "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo line $i; echo $i > /dev/shm/progress; sleep 0.01; done",
];

describe.each(["root", "state", "logs"] as const)("with the %s filesystem full", (which) => {
  it("exits are told, containers go on, stop and remove work and free space", async () => {
    if (which !== "logs") tmpfs(join(base, which), "48m");
    const node = await CriNode.start({ base });
    try {
      const logs = join(base, "logs");
      if (which === "logs") tmpfs(logs, "1m");
      else mkdirSync(logs);
      const pod = node.podConfig("full", { log_directory: logs });
      const podId = await node.runPod(pod);
      const steady = await node.run(podId, pod, node.containerConfig("steady", talkative));
      const ends = await node.run(
        podId,
        pod,
        node.containerConfig("ends", ["/bin/sh", "-c", "while [ ! -e /dev/shm/end ]; do sleep 0.02; done; exit 9"]),
      );
      const filler = fill(join(base, which));
      const progress = async (): Promise<number> => Number((await node.exec(steady, ["/bin/cat", "/dev/shm/progress"])).stdout);
      const first = await progress();
      await node.exec(steady, ["/bin/touch", "/dev/shm/end"]);
      expect(await node.exited(ends)).toMatchObject({ exit_code: 9, reason: "Error" });
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(await progress()).toBeGreaterThan(first + 10);
      await node.client.runtime("StopContainer", { container_id: steady, timeout: 10 });
      expect(await node.status(steady)).toMatchObject({ exit_code: 7 });
      if (which === "logs") {
        const text = readFileSync(join(logs, "steady/0.log"), "utf8");
        // A record that did not fit is gone as a whole: no torn line.
        for (const line of text.split("\n").slice(0, -1)) expect(line).toMatch(/^\S+ stdout F line \d+$/);
        expect(text.endsWith("\n") || text === "").toBe(true);
      }
      await node.client.runtime("RemoveContainer", { container_id: steady });
      await node.client.runtime("RemoveContainer", { container_id: ends });
      await node.removePod(podId);
      expect(existsSync(filler)).toBe(true);
      // Nothing is half gone after a restart on the full disk either.
      await node.daemon.kill();
      await node.daemon.launch();
      expect((await node.client.runtime("ListContainers", {})).containers).toEqual([]);
      rmSync(filler);
      const again = await node.runPod(pod);
      await node.removePod(again);
    } finally {
      rmSync(join(base, which, "filler"), { force: true });
      const daemonBase = node.daemon.base;
      // The mounts below it are ours: the daemon's directories are removed after them.
      expect(daemonBase).toBe(base);
      await node.daemon.stop().catch(() => undefined);
      await node.daemon.launch().catch(() => undefined);
      for (const { id } of (await node.client.runtime("ListPodSandbox", {})).items) await node.removePod(id);
      await node.daemon.stop();
      node.client.close();
      await node.stopRegistry();
      node.removeCgroups();
    }
  });
});

it("a frozen log filesystem stops nobody but the one who logs there", async () => {
  const node = await CriNode.start();
  const pod = node.podConfig("frozen");
  const image = join(base, "disk");
  writeFileSync(image, "");
  truncateSync(image, 16 << 20);
  execFileSync("mkfs.ext4", ["-q", "-F", image]);
  const cold = join(pod.log_directory, "cold");
  mkdirSync(cold, { recursive: true });
  execFileSync("mount", ["-o", "loop", image, cold]);
  mounted.push(cold);
  const podId = await node.runPod(pod);
  const stuck = await node.run(podId, pod, { ...node.containerConfig("stuck", talkative), log_path: "cold/0.log" });
  const sibling = await node.run(podId, pod, node.containerConfig("sibling", talkative));
  await new Promise((resolve) => setTimeout(resolve, 100));
  execFileSync("fsfreeze", ["-f", cold]);
  try {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const lines = (): number => node.log("frozen", "sibling").split("\n").length;
    const first = lines();
    expect((await node.exec(sibling, ["/bin/echo", "hello"])).stdout).toBe("hello\n");
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(lines()).toBeGreaterThan(first + 10);
    const short = await node.run(podId, pod, node.containerConfig("short", ["/bin/sh", "-c", "echo bye; exit 4"]));
    expect(await node.exited(short)).toMatchObject({ exit_code: 4 });
    expect(node.log("frozen", "short")).toBe("stdout F bye\n");
    await node.client.runtime("StopContainer", { container_id: sibling, timeout: 10 });
    expect(await node.status(sibling)).toMatchObject({ exit_code: 7 });
    // The one that logs there can be ended too.
    await node.client.runtime("StopContainer", { container_id: stuck, timeout: 1 });
    expect((await node.status(stuck)).state).toBe("CONTAINER_EXITED");
  } finally {
    execFileSync("fsfreeze", ["-u", cold]);
  }
  await node.removePod(podId);
  await new Promise((resolve) => setTimeout(resolve, 200));
  execFileSync("umount", [cold]);
  mounted.splice(mounted.indexOf(cold), 1);
  await node[Symbol.asyncDispose]();
});
