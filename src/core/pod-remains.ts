/** Takes down what a pod left on the host when its shim is gone: mounts and directories. Idempotent. */
import { rm } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName } from "../lib/errors.ts";
import { addon, isErrno } from "../native/addon.ts";
import { unmountFlag } from "../native/constants.ts";
import { podProcPath } from "./proc-source.ts";
import type { PodSpec } from "./runtime.ts";

export function shmPathOf(runDir: string): string {
  return join(runDir, "shm");
}

export async function removePodRemains(spec: PodSpec): Promise<void> {
  unmountAll(shmPathOf(spec.runDir));
  unmountAll(podProcPath(spec.runDir));
  if (spec.netnsPath !== null) {
    unmountAll(spec.netnsPath);
    await removeFile(spec.netnsPath);
  }
  await rm(spec.runDir, { recursive: true, force: true });
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

async function removeFile(path: string): Promise<void> {
  try {
    await rm(path);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
  }
}
