import type { Store } from "../store/store.ts";
import type { CriClock, CriLog } from "./app-types.ts";

export type CriEventKind = "created" | "started" | "stopped" | "deleted";

export interface CriEvent {
  readonly kind: CriEventKind;
  /** A container's id, or the sandbox's own for the sandbox's events. */
  readonly objectId: string;
  readonly podId: string;
  readonly atNs: bigint;
  readonly sequence: bigint;
}

/** Lifecycle events: kept in the store's log, handed to every listener in this process. */
export class CriEvents {
  readonly #store: Store;
  readonly #clock: CriClock;
  readonly #log: CriLog;
  readonly #listeners = new Set<(event: CriEvent) => void>();

  constructor(store: Store, clock: CriClock, log: CriLog) {
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
  }

  /** Never throws: an event that cannot be stored (a full disk) must not fail what it tells of. */
  emit(kind: CriEventKind, objectId: string, podId: string, detail?: Readonly<Record<string, string | number>>): void {
    let sequence = 0n;
    try {
      sequence = this.#store.event(objectId, kind, detail);
    } catch (error) {
      this.#log.warn({ err: error, id: objectId, kind }, "an event could not be stored");
    }
    const event = { kind, objectId, podId, atNs: this.#clock.nowNs(), sequence };
    for (const listener of this.#listeners) this.#tell(listener, event);
  }

  #tell(listener: (event: CriEvent) => void, event: CriEvent): void {
    try {
      listener(event);
    } catch (error) {
      this.#log.warn({ err: error, id: event.objectId }, "a listener failed on an event");
    }
  }

  /** Returns the function that ends the subscription. */
  subscribe(listener: (event: CriEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
