import { codeOf, messageOf, RuntimeError } from "../lib/errors.ts";

/** Settles as `work` does, or rejects with the signal's reason as soon as it fires; `work` itself goes on. */
export async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  work.catch(() => {}); // whoever waits may be gone when it fails, and an unhandled rejection would end the daemon
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Waits for all, whatever becomes of one of them, and then fails with the words of all that failed. */
export async function allOf(works: readonly Promise<void>[]): Promise<void> {
  const failures = (await Promise.allSettled(works)).filter((end) => end.status === "rejected").map((end): unknown => end.reason);
  if (failures.length === 0) return;
  if (failures.length === 1) throw failures[0];
  throw new RuntimeError(codeOf(failures[0]), failures.map(messageOf).join("; "), {}, failures[0]);
}

/** A signal that fires with `deadline_exceeded` after `ms`, or with `other`'s reason before; its timer ends with the scope. */
export class Deadline implements Disposable {
  readonly signal: AbortSignal;
  readonly #timer: NodeJS.Timeout;

  constructor(what: string, ms: number, other: AbortSignal) {
    const controller = new AbortController();
    this.#timer = setTimeout(() => {
      controller.abort(new RuntimeError("deadline_exceeded", `${what} took longer than ${ms / 1000} s`));
    }, ms);
    this.signal = AbortSignal.any([controller.signal, other]);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
