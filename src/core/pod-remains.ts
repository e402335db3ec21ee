/** Takes down what a pod left on the host when its shim is gone: mounts and directories. Idempotent. */
import { join } from "node:path/posix";
import { setTimeout as sleep } from "node:timers/promises";
import { removeStateTree } from "../lib/state-files.ts";
import { addon, isErrno } from "../native/addon.ts";
import { unmountFlag } from "../native/constants.ts";
import { holdersOfMount } from "./holders.ts";
import { podProcPath } from "./proc-source.ts";
import type { Leftover, PodSpec } from "./runtime.ts";

/** Somebody may just be looking; whoever stays longer keeps the mount for itself. */
const busyPausesMs = [5, 20, 100];

export function shmPathOf(runDir: string): string {
  return join(runDir, "shm");
}

/** Tells which mounts were in use: they are gone from the tree, and the kernel frees them with their last holder. */
export async function removePodRemains(spec: PodSpec): Promise<readonly Leftover[]> {
  const paths = [shmPathOf(spec.runDir), podProcPath(spec.runDir), ...(spec.netnsPath === null ? [] : [spec.netnsPath])];
  const left = await Promise.all(paths.map(unmountAll));
  if (spec.netnsPath !== null) await removeStateTree(spec.netnsPath);
  await removeStateTree(spec.runDir);
  return left.flat();
}

/** A start that was cut short may have mounted twice; EINVAL: nothing is mounted there any more. */
async function unmountAll(path: string): Promise<readonly Leftover[]> {
  const left: Leftover[] = [];
  for (let tries = 0; ; ) {
    try {
      await addon.umount2(path, unmountFlag.noFollow);
    } catch (error) {
      if (isErrno(error, "EINVAL", "ENOENT")) return left;
      if (!isErrno(error, "EBUSY")) throw error;
      const pauseMs = busyPausesMs[tries++];
      if (pauseMs === undefined) left.push(await letGo(path));
      else await sleep(pauseMs);
    }
  }
}

async function letGo(path: string): Promise<Leftover> {
  const holders = await holdersOfMount(path);
  await addon.umount2(path, unmountFlag.detach | unmountFlag.noFollow);
  return { path, holders };
}
