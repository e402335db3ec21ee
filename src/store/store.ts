/** The face of store/: named collections of JSON documents in SQLite, held in memory by their owners. */

export interface Collection<T> {
  /** All documents, in the order of their keys. Read once at start. */
  load(): ReadonlyMap<string, T>;
  /** Durable against a crash of the daemon when it returns (WAL, synchronous NORMAL); bigint survives the round trip. */
  put(key: string, document: T): void;
  delete(key: string): void;
  /** Durable against power loss when it resolves: images and layers. */
  flush(): Promise<void>;
}

export interface StoredEvent {
  readonly sequence: bigint;
  readonly atNs: bigint;
  readonly objectId: string;
  readonly kind: string;
  readonly detail: Readonly<Record<string, string | number>>;
}

export interface Store {
  collection<T>(name: "pods" | "containers" | "images" | "layers" | "ledger" | "settings"): Collection<T>;
  /** Appends to the object's phase timeline and to the event log; returns the sequence number. */
  event(objectId: string, kind: string, detail?: Readonly<Record<string, string | number>>): bigint;
  timeline(objectId: string): readonly StoredEvent[];
  /** Events of all objects with a higher number, oldest first. Numbers that are missing in between belong to events that were pruned
   *  or could not be written. */
  eventsAfter(sequence: bigint, limit: number): readonly StoredEvent[];
  /** The number that the last event got; 0n before any. */
  readonly lastSequence: bigint;
  /** Why the database was set aside and made anew (damaged, from a newer version), if it was. */
  readonly rebuilt: string | undefined;
  /** The database is an older copy put back in place: what happened after it was taken, numbers of events included, is unknown to it. */
  readonly olderCopy: boolean;
  close(): Promise<void>;
}
