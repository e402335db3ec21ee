/** One queue per key: work under the same key runs one after another, in the order of arrival. */
export class KeyedLock {
  readonly #tails = new Map<string, Promise<void>>();

  /** Runs `work` alone under `key`. A signal that fires while waiting gives up the place in the queue without running it. */
  async run<T>(key: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    const tail = before.then(() => held);
    this.#tails.set(key, tail);
    try {
      await before;
      signal?.throwIfAborted();
      return await work();
    } finally {
      release();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** Whether anything runs or waits under `key`. */
  held(key: string): boolean {
    return this.#tails.has(key);
  }
}
