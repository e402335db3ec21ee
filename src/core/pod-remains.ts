/** Takes down what a pod left on the host when its shim is gone: mounts and directories. Idempotent. */
import { join } from "node:path/posix";
import { removeStateTree } from "../lib/state-files.ts";
import { addon, isErrno } from "../native/addon.ts";
import { unmountFlag } from "../native/constants.ts";
import { podProcPath } from "./proc-source.ts";
import type { PodSpec } from "./runtime.ts";

export function shmPathOf(runDir: string): string {
  return join(runDir, "shm");
}

export async function removePodRemains(spec: PodSpec): Promise<void> {
  await Promise.all([unmountAll(shmPathOf(spec.runDir)), unmountAll(podProcPath(spec.runDir))]);
  if (spec.netnsPath !== null) {
    await unmountAll(spec.netnsPath);
    await removeStateTree(spec.netnsPath);
  }
  await removeStateTree(spec.runDir);
}

/** A start that was cut short may have mounted twice; EINVAL: nothing is mounted there any more. */
async function unmountAll(path: string): Promise<void> {
  for (;;) {
    try {
      await addon.umount2(path, unmountFlag.detach | unmountFlag.noFollow);
    } catch (error) {
      if (isErrno(error, "EINVAL", "ENOENT")) return;
      throw error;
    }
  }
}
