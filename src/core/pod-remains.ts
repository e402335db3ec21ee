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

export function removePodRemains(spec: PodSpec): void {
  unmountAll(shmPathOf(spec.runDir));
  unmountAll(podProcPath(spec.runDir));
  if (spec.netnsPath !== null) {
    unmountAll(spec.netnsPath);
    removeStateTree(spec.netnsPath);
  }
  removeStateTree(spec.runDir);
}

/** A start that was cut short may have mounted twice; EINVAL: nothing is mounted there any more. */
function unmountAll(path: string): void {
  for (;;) {
    try {
      addon.umount2(path, unmountFlag.detach | unmountFlag.noFollow);
    } catch (error) {
      if (isErrno(error, "EINVAL", "ENOENT")) return;
      throw error;
    }
  }
}
