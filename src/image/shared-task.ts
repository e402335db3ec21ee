/** Work that several callers may wait for: it runs once per key, and stops when the last of them has gone. */
export class SharedTasks<T> {
  readonly #running = new Map<string, Running<T>>();

  /** Starts `work`, or joins the one that runs under `key`. A caller whose signal fires leaves with the signal's reason. */
  async run(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    let task = this.#running.get(key);
    if (task === undefined || task.stop.signal.aborted) {
      const stop = new AbortController();
      const started: Running<T> = { stop, waiters: 0, done: work(stop.signal) };
      this.#running.set(key, started);
      const forget = (): void => {
        if (this.#running.get(key) === started) this.#running.delete(key);
      };
      started.done.then(forget, forget);
      task = started;
    }
    return await join(task, signal);
  }
}

interface Running<T> {
  readonly stop: AbortController;
  waiters: number;
  readonly done: Promise<T>;
}

async function join<T>(task: Running<T>, signal: AbortSignal): Promise<T> {
  task.waiters++;
  const { promise: left, reject } = Promise.withResolvers<never>();
  const leave = (): void => reject(signal.reason);
  signal.addEventListener("abort", leave, { once: true });
  try {
    return await Promise.race([task.done, left]);
  } finally {
    signal.removeEventListener("abort", leave);
    task.waiters--;
    if (task.waiters === 0) {
      task.stop.abort(signal.reason);
      // Its clean-up is part of the caller's failure: nothing is left behind once that is seen.
      await task.done.catch(() => undefined);
    }
  }
}
