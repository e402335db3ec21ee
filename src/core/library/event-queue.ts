/** What happens to a container, for `for await`: kept until it is read, ended by either side. */
export class EventQueue<T> implements AsyncIterableIterator<T>, Disposable {
  readonly #events: T[] = [];
  readonly #waiting: ((result: IteratorResult<T>) => void)[] = [];
  readonly #onClose: () => void;
  #ended = false;
  /** Whoever waits for an event keeps the program alive. */
  #alive: NodeJS.Timeout | undefined;

  /** `onClose` is called once, when nobody wants further events or there are none. */
  constructor(onClose: () => void) {
    this.#onClose = onClose;
  }

  push(event: T): void {
    if (this.#ended) return;
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#events.push(event);
    else waiter({ done: false, value: event });
    this.#settle();
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const waiter of this.#waiting.splice(0)) waiter({ done: true, value: undefined });
    this.#settle();
    this.#onClose();
  }

  next(): Promise<IteratorResult<T>> {
    const [event] = this.#events.splice(0, 1);
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    this.#alive ??= setInterval(() => {}, 60_000);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  return(): Promise<IteratorResult<T>> {
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.end();
  }

  #settle(): void {
    if (this.#waiting.length > 0) return;
    clearInterval(this.#alive);
    this.#alive = undefined;
  }
}
