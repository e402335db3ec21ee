import { messageOf } from "../lib/errors.ts";
import type { CriLog } from "./app-types.ts";

const firstDelayMs = 1_000;
const longestDelayMs = 300_000;

interface Retry {
  readonly timer: NodeJS.Timeout;
  readonly delayMs: number;
}

/** Teardowns of sandboxes: one at a time for each, shared by all who ask; a failed one is tried again with growing delays. */
export class TeardownRetries {
  readonly #teardown: (podId: string) => Promise<void>;
  readonly #log: CriLog;
  readonly #running = new Map<string, Promise<void>>();
  readonly #retries = new Map<string, Retry>();
  #closed = false;

  constructor(teardown: (podId: string) => Promise<void>, log: CriLog) {
    this.#teardown = teardown;
    this.#log = log;
  }

  /** Tears down now, or joins the attempt under way. */
  run(podId: string): Promise<void> {
    const running = this.#running.get(podId);
    if (running !== undefined) return running;
    const attempt = this.#attempt(podId).finally(() => this.#running.delete(podId));
    this.#running.set(podId, attempt);
    return attempt;
  }

  /** As run, for nobody in particular. */
  request(podId: string): void {
    if (this.#closed) return;
    this.run(podId).catch(() => {}); // logged, and tried again
  }

  /** Pods whose teardown has failed and is to be tried again. */
  pending(): readonly string[] {
    return [...this.#retries.keys()];
  }

  close(): void {
    this.#closed = true;
    for (const retry of this.#retries.values()) clearTimeout(retry.timer);
    this.#retries.clear();
  }

  async #attempt(podId: string): Promise<void> {
    const before = this.#retries.get(podId);
    if (before !== undefined) clearTimeout(before.timer);
    try {
      await this.#teardown(podId);
      this.#retries.delete(podId);
    } catch (error) {
      this.#retryLater(podId, before?.delayMs, error);
      throw error;
    }
  }

  #retryLater(podId: string, lastMs: number | undefined, error: unknown): void {
    if (this.#closed) return;
    const delayMs = lastMs === undefined ? firstDelayMs : Math.min(lastMs * 2, longestDelayMs);
    this.#log.warn({ id: podId, err: messageOf(error), delayMs }, "a pod could not be torn down; it is tried again");
    const timer = setTimeout(() => this.request(podId), delayMs);
    timer.unref();
    this.#retries.set(podId, { timer, delayMs });
  }
}
