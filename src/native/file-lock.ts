import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../lib/errors.ts";
import { addon } from "./addon.ts";

/**
 * Takes a directory for this process until it ends, however it ends. The file stays and says who has it.
 * @throws RuntimeError failed_precondition that names the pid of the process that has it.
 */
export function lockDirectory(directory: string, remedy: string): Disposable {
  const path = join(directory, "caissond.lock");
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  let locked = false;
  try {
    locked = addon.tryLock(fd);
    if (!locked) {
      const holder = readFileSync(path, "utf8").trim();
      throw new RuntimeError("failed_precondition", `another caissond (pid ${holder || "unknown"}) uses ${directory}; ${remedy}`);
    }
    try {
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`, 0);
    } catch {
      // A full disk: the lock holds all the same, only its reader learns less.
    }
  } finally {
    if (!locked) closeSync(fd);
  }
  return { [Symbol.dispose]: () => closeSync(fd) };
}
