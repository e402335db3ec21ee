import { messageOf, RuntimeError } from "../lib/errors.ts";
import { Deadline, orAborted } from "./abort.ts";
import type { CriLog } from "./app-types.ts";

/**
 * Changes under way. Once begun, a change belongs to the daemon: its caller may go away and only stops waiting; it ends by its own
 * deadline, or rolls back when the daemon stops.
 */
export class Operations {
  readonly #running = new Set<Promise<unknown>>();
  readonly #stopping: AbortSignal;
  readonly #log: CriLog;

  constructor(stopping: AbortSignal, log: CriLog) {
    this.#stopping = stopping;
    this.#log = log;
  }

  /** `what` names the operation for messages: "creating container web". */
  async run<T>(what: string, deadlineMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#stopping.throwIfAborted();
    const running = this.#bounded(what, deadlineMs, work);
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  /** As run, for a caller that may go away: it then gets its signal's reason, and how the operation ends is logged. */
  async runFor<T>(caller: AbortSignal, what: string, deadlineMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    caller.throwIfAborted();
    const running = this.run(what, deadlineMs, work);
    running.catch((error: unknown) => {
      if (caller.aborted) this.#log.warn({ err: messageOf(error) }, `${what} failed after its caller had gone`);
    });
    return await orAborted(running, caller);
  }

  /** Resolves when nothing is under way any more. */
  async settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running);
  }

  async #bounded<T>(what: string, deadlineMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    using deadline = new Deadline(what, deadlineMs, this.#stopping);
    try {
      return await work(deadline.signal);
    } catch (error) {
      // What was aborted by the deadline may come back as any library's error; the caller shall see the true reason.
      const reason: unknown = deadline.signal.reason;
      if (deadline.signal.aborted && reason instanceof RuntimeError && !(error instanceof RuntimeError)) throw reason;
      throw error;
    }
  }
}
