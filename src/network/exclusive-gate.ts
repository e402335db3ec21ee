/**
 * Many pass at the same time, or one is alone. Who wants to be alone never waits, so that a plugin that hangs for one pod holds up no
 * other pod.
 */
export class ExclusiveGate {
  #inside = 0;
  #alone: Promise<unknown> | undefined;

  async pass<T>(work: () => Promise<T>): Promise<T> {
    while (this.#alone !== undefined) await this.#alone.catch(() => {});
    this.#inside++;
    try {
      return await work();
    } finally {
      this.#inside--;
    }
  }

  /** False: somebody is inside, and nothing was done. */
  async tryAlone(work: () => Promise<void>): Promise<boolean> {
    if (this.#inside > 0 || this.#alone !== undefined) return false;
    this.#alone = work();
    try {
      await this.#alone;
      return true;
    } finally {
      this.#alone = undefined;
    }
  }
}
