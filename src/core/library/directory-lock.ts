/**
 * One change of a container at a time, among all processes of the machine: a flock on the container's own directory, which ends with
 * whoever holds it. No file of its own is left behind, and a directory that was removed meanwhile is noticed by its inode.
 */
import { closeSync, fstatSync, openSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName, RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";

const firstPauseMs = 2;
const longestPauseMs = 50;
/** Longer than any change takes; whoever holds it that long is stopped, or waits for something that does not come. */
export const lockPatienceMs = 60_000;

/** undefined: there is no such directory (any more). `unavailable` when somebody else keeps it for too long. */
export async function lockContainer(path: string, signal?: AbortSignal): Promise<Disposable | undefined> {
  const giveUpAt = Date.now() + lockPatienceMs;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    const lock = tryLock(path);
    if (lock !== "held") return lock;
    if (Date.now() > giveUpAt) {
      throw new RuntimeError(
        "unavailable",
        `${path} is being changed by another process for more than ${lockPatienceMs / 1000} s`,
        { path },
      );
    }
    await sleep(pauseMs, undefined, { ...(signal === undefined ? {} : { signal }) });
  }
}

function tryLock(path: string): Disposable | undefined | "held" {
  const fd = openDirectory(path);
  if (fd === undefined) return undefined;
  let keep = false;
  try {
    if (!addon.tryLock(fd)) return "held";
    // Removed and perhaps made again while we waited: the lock of the old one is worth nothing.
    if (!isSame(path, fd)) return "held";
    keep = true;
    return { [Symbol.dispose]: () => closeSync(fd) };
  } finally {
    if (!keep) closeSync(fd);
  }
}

function openDirectory(path: string): number | undefined {
  try {
    return openSync(path, openFlag.readOnly | openFlag.directory | openFlag.noFollow);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
}

function isSame(path: string, fd: number): boolean {
  try {
    const [now, ours] = [statSync(path, { bigint: true }), fstatSync(fd, { bigint: true })];
    return now.ino === ours.ino && now.dev === ours.dev;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return false;
    throw error;
  }
}
