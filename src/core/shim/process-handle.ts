import { readFileSync } from "node:fs";
import { RuntimeError } from "../../lib/errors.ts";
import { addon, isErrno } from "../../native/addon.ts";
import type { ProcessIdentity } from "../runtime.ts";

/** Field 22 of /proc/PID/stat, clock ticks after boot; undefined: no such process, or one that has ended and waits to be reaped. */
export function readStartTicks(pid: number): bigint | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    /* The command may hold spaces and parentheses; nothing behind it does. Field 3 follows it. */
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const [state = "", ticks] = [fields[0], fields[22 - 3]];
    return ticks === undefined || state === "Z" || state === "X" ? undefined : BigInt(ticks);
  } catch (error) {
    if (isErrno(error, "ENOENT", "ESRCH")) return undefined;
    throw error;
  }
}

/** A process held by its pidfd: no recycled pid can take its place. */
export class ProcessHandle implements Disposable {
  readonly identity: ProcessIdentity;
  /** Settles when the process has ended and, if it is a child of ours, has been reaped. Keeps nothing alive. */
  readonly ended: Promise<void>;
  #pidfd: number;

  private constructor(identity: ProcessIdentity, pidfd: number, ended: Promise<void>) {
    this.identity = identity;
    this.#pidfd = pidfd;
    this.ended = ended;
    /* It rejects only where the wait could not begin (no descriptors); whoever awaits it learns that. */
    ended.catch(() => {});
  }

  /** Takes the pidfd of a child that was just started. */
  static ofChild(pid: number, pidfd: number): ProcessHandle {
    const ended = addon.waitChild(pidfd, true).then(() => {});
    return new ProcessHandle({ pid, startTicks: readStartTicks(pid) ?? 0n }, pidfd, ended);
  }

  /** Finds a process that somebody else started; undefined when it is gone or when its pid belongs to another one now. */
  static find(identity: ProcessIdentity): ProcessHandle | undefined {
    let pidfd: number;
    try {
      pidfd = addon.pidfdOpen(identity.pid);
    } catch (error) {
      if (isErrno(error, "ESRCH", "EINVAL")) return undefined;
      throw error;
    }
    if (readStartTicks(identity.pid) === identity.startTicks) {
      return new ProcessHandle(identity, pidfd, addon.waitGone(pidfd, true));
    }
    addon.close(pidfd);
    return undefined;
  }

  /** A process that has ended is no error. */
  kill(signal: number): void {
    if (this.#pidfd < 0) throw new RuntimeError("internal", `the handle of process ${this.identity.pid} was closed`);
    try {
      addon.pidfdSignal(this.#pidfd, signal);
    } catch (error) {
      if (!isErrno(error, "ESRCH")) throw error;
    }
  }

  /** As `ended`, and keeps this process alive for it. */
  async waitEnded(): Promise<void> {
    await Promise.all([this.ended, addon.waitGone(this.#pidfd)]);
  }

  /** Closes the pidfd; `ended` still settles. */
  [Symbol.dispose](): void {
    if (this.#pidfd >= 0) addon.close(this.#pidfd);
    this.#pidfd = -1;
  }
}
