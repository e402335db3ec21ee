import { randomUUID } from "node:crypto";
import { messageOf } from "../lib/errors.ts";
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

/**
 * Lifecycle events: kept in the store's log, handed to every listener in this process. Each object has each kind once. The detail of a
 * container's event names its pod, which the log itself does not know.
 */
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
      sequence = this.#store.event(objectId, kind, objectId === podId ? detail : { pod: podId, ...detail });
    } catch (error) {
      this.#log.warn({ err: error, id: objectId, kind }, "an event could not be stored");
    }
    const event = { kind, objectId, podId, atNs: this.#clock.nowNs(), sequence };
    for (const listener of this.#listeners) this.#tell(listener, event);
  }

  /** For what may be done twice: nothing is told if the log already has it. */
  emitOnce(kind: CriEventKind, objectId: string, podId: string, detail?: Readonly<Record<string, string | number>>): void {
    if (!this.kindsOf(objectId).has(kind)) this.emit(kind, objectId, podId, detail);
  }

  /** What the log has of an object. */
  kindsOf(objectId: string): ReadonlySet<string> {
    return new Set(this.#store.timeline(objectId).map(({ kind }) => kind));
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

/**
 * The name of the log within which numbers mean something. It changes when numbers may be given out a second time: with a database
 * that was made anew or is an older copy, and with a reboot, after which the last commits may be missing.
 */
export function identifyEventLog(store: Store, bootId: string, log: CriLog): string {
  const settings = store.collection<{ readonly id: string; readonly bootId: string }>("settings");
  const stored = settings.load().get("event-log");
  if (stored?.bootId === bootId && store.rebuilt === undefined && !store.olderCopy) return stored.id;
  const id = randomUUID();
  try {
    settings.put("event-log", { id, bootId });
  } catch (error) {
    // The next start gives the log another name, which only costs its readers a list.
    log.warn({ err: messageOf(error) }, "the name of the event log could not be stored");
  }
  return id;
}
