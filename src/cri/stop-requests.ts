/** StopContainer under way: who waits for an exit, and the one timer per container that ends in SIGKILL. */
interface Pending {
  killAtMs: number;
  timer: NodeJS.Timeout;
}

/** A process in uninterruptible sleep ignores SIGKILL for a while; a fork that slipped through is caught by the next one. */
const firstRepeatMs = 500;
const longestRepeatMs = 30_000;
/** Node fires a longer timer at once. */
export const longestTimerMs = 2 ** 31 - 1;

export class StopRequests {
  readonly #pending = new Map<string, Pending>();
  readonly #waiters = new Map<string, Set<() => void>>();

  /**
   * Arranges that `kill` is called after `waitMs` and then again and again until the container has exited. A second call for the same
   * container only brings that moment forward. Time is monotonic: a step of the node's clock neither hastens nor delays a kill.
   */
  escalate(id: string, waitMs: number, kill: () => void): void {
    const killAtMs = performance.now() + waitMs;
    const known = this.#pending.get(id);
    if (known !== undefined && known.killAtMs <= killAtMs) return;
    if (known !== undefined) clearTimeout(known.timer);
    const pending: Pending = { killAtMs, timer: setTimeout(() => {}, 0) };
    this.#pending.set(id, pending);
    this.#arm(id, pending, waitMs, firstRepeatMs, kill);
  }

  underWay(id: string): boolean {
    return this.#pending.has(id);
  }

  /** Resolves at the container's exit. The caller has checked, in the same tick, that it has not exited yet. */
  exited(id: string): Promise<void> {
    return new Promise((resolve) => {
      const waiters = this.#waiters.get(id) ?? new Set();
      waiters.add(resolve);
      this.#waiters.set(id, waiters);
    });
  }

  /** The container has exited, or will not be heard of any more: ends its timer and wakes who waits. */
  settle(id: string): void {
    const pending = this.#pending.get(id);
    if (pending !== undefined) clearTimeout(pending.timer);
    this.#pending.delete(id);
    const waiters = this.#waiters.get(id);
    this.#waiters.delete(id);
    for (const wake of waiters ?? []) wake();
  }

  close(): void {
    for (const pending of this.#pending.values()) clearTimeout(pending.timer);
    this.#pending.clear();
  }

  #arm(id: string, pending: Pending, afterMs: number, repeatMs: number, kill: () => void): void {
    clearTimeout(pending.timer);
    if (afterMs <= 0) {
      kill();
      if (this.#pending.get(id) === pending) this.#arm(id, pending, repeatMs, Math.min(repeatMs * 2, longestRepeatMs), kill);
      return;
    }
    pending.timer = setTimeout(
      () => {
        if (this.#pending.get(id) === pending) this.#arm(id, pending, pending.killAtMs - performance.now(), repeatMs, kill);
      },
      Math.min(afterMs, longestTimerMs),
    );
  }
}
