import { RuntimeError } from "../lib/errors.ts";

/**
 * What waits for one reader. When it would hold more than `limit` items it fails as a whole: a reader learns that it was too slow,
 * and nothing is left out unseen. Putting never waits.
 */
export class BoundedQueue<Item> {
  readonly #what: string;
  readonly #limit: number;
  readonly #failed = new AbortController();
  #items: Item[] = [];
  #wake: (() => void) | undefined;

  /** `ended` ends the queue as well, with its reason. */
  constructor(what: string, limit: number, ended: AbortSignal) {
    this.#what = what;
    this.#limit = limit;
    if (ended.aborted) this.#fail(ended.reason);
    else ended.addEventListener("abort", () => this.#fail(ended.reason), { once: true });
  }

  /** Fires, with the reason, when the queue has failed. */
  get failed(): AbortSignal {
    return this.#failed.signal;
  }

  put(item: Item): void {
    if (this.failed.aborted) return;
    if (this.#items.length === this.#limit) {
      const sentence = `the reader of ${this.#what} is more than ${this.#limit} behind and is cut off; open the stream again and list what there is`;
      this.#fail(new RuntimeError("resource_exhausted", sentence));
      return;
    }
    this.#items.push(item);
    this.#wake?.();
  }

  /** The oldest item, waiting for one; rejects once the queue has failed. For one reader. */
  async take(): Promise<Item> {
    for (;;) {
      this.failed.throwIfAborted();
      const item = this.#items.shift();
      if (item !== undefined) return item;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #fail(reason: unknown): void {
    this.#items = [];
    this.#failed.abort(reason);
    this.#wake?.();
  }
}
