/**
 * One pod's attachment belongs to one plugin at a time, also across the death of the daemon. The lock is held by every plugin that is
 * started under it, through a descriptor that it inherits: a plugin that outlives its daemon comes to its end, and the next daemon's DEL
 * waits for it. Killing it half-way would leave what its own DEL no longer finds (the bridge plugin forgets its iptables rules once the
 * link is gone).
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import type { ProgramLock } from "../native/host-program.ts";

/** Somebody else has it only after a daemon died: nothing on the usual path waits. */
const retryMs = 20;
const sigkill = 9;

export interface LockRequest {
  /** Made 0700. */
  readonly directory: string;
  readonly podId: string;
  /** How long a plugin that a dead daemon left behind is waited for: its own deadline, after which it counts as stuck. */
  readonly patienceMs: number;
}

export class AttachmentLock implements Disposable, ProgramLock {
  readonly fd: number;
  readonly #path: string;

  private constructor(fd: number, path: string) {
    this.fd = fd;
    this.#path = path;
  }

  /** Waits until nobody has it; rejects with the signal's reason. */
  static async take({ directory, podId, patienceMs }: LockRequest, signal: AbortSignal): Promise<AttachmentLock> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const path = join(directory, podId);
    const until = Date.now() + patienceMs;
    for (;;) {
      signal.throwIfAborted();
      const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
      // The file may have been removed between the two: then the lock is of a file that nobody else will find.
      if (addon.tryLock(fd) && isStill(fd, path)) return new AttachmentLock(fd, path);
      closeSync(fd);
      if (Date.now() > until) endHolder(path);
      await sleep(retryMs, undefined, { signal }).catch(() => {});
    }
  }

  /** Whether no plugin works under any of the locks of this directory. */
  static allFree(directory: string): boolean {
    return namesIn(directory).every((name) => {
      const fd = openSync(join(directory, name), constants.O_RDWR | constants.O_NOFOLLOW);
      try {
        return addon.tryLock(fd);
      } finally {
        closeSync(fd);
      }
    });
  }

  heldBy(pid: number): void {
    const ticks = startTicks(pid);
    ftruncateSync(this.fd);
    if (ticks !== undefined) writeSync(this.fd, `${pid} ${ticks}\n`, 0);
  }

  /** The pod is detached: its lock is no longer needed. Still held until disposed of. */
  remove(): void {
    try {
      unlinkSync(this.#path);
    } catch (error) {
      if (errnoName(error) !== "ENOENT") throw error;
    }
  }

  /** The plugins have ended: a process that one of them left behind does not keep the lock. */
  [Symbol.dispose](): void {
    addon.unlock(this.fd);
    closeSync(this.fd);
  }
}

function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}

function isStill(fd: number, path: string): boolean {
  const now = statSync(path, { throwIfNoEntry: false });
  return now !== undefined && now.ino === fstatSync(fd).ino;
}

/**
 * Past its deadline nobody is left who would kill it: the plugin's process group is killed, and the file given up, for a process that a
 * plugin left behind may keep the lock of the old one for ever.
 */
function endHolder(path: string): void {
  const [pid, ticks] = readFileSync(path, "utf8").trim().split(" ");
  if (pid !== undefined && ticks !== undefined && startTicks(Number(pid)) === ticks) addon.killGroup(Number(pid), sigkill);
  unlinkSync(path);
}

/** Field 22 of /proc/PID/stat: tells a process from a later one with its number. */
function startTicks(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[22 - 3];
  } catch {
    return undefined;
  }
}
