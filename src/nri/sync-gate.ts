/**
 * A plugin that connects is told what is there, and then of everything that comes. So nobody may be half-way between telling the
 * plugins of a new object and recording it meanwhile.
 */
export class SyncGate {
  #inside = 0;
  #alone: Promise<void> = Promise.resolve();
  #waiting = 0;
  #emptied: (() => void) | undefined;

  /** Inside until it is disposed of. */
  async enter(): Promise<Disposable> {
    while (this.#waiting > 0) await this.#alone;
    this.#inside++;
    let left = false;
    return {
      [Symbol.dispose]: () => {
        if (left) return;
        left = true;
        if (--this.#inside === 0) this.#emptied?.();
      },
    };
  }

  /** Waits until nobody is inside; nobody enters meanwhile. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    this.#waiting++;
    const before = this.#alone;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#alone = promise;
    try {
      await before;
      if (this.#inside > 0) {
        await new Promise<void>((emptied) => {
          this.#emptied = emptied;
        });
        this.#emptied = undefined;
      }
      return await work();
    } finally {
      this.#waiting--;
      resolve();
    }
  }
}
