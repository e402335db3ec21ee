import type { DatabaseSync, StatementSync } from "node:sqlite";
import type { StoredEvent } from "./store.ts";
import { parse, stringify } from "./tagged-json.ts";

interface Row {
  readonly sequence: bigint;
  readonly object: string;
  readonly at: bigint;
  readonly kind: string;
  readonly detail: string;
}

const toEvent = (row: Row): StoredEvent => ({
  sequence: row.sequence,
  atNs: row.at,
  objectId: row.object,
  kind: row.kind,
  detail: parse(row.detail) as Record<string, string | number>,
});

/** How many inserts go by between two looks at the limits: pruning at each would double the cost of an event. */
const pruneEvery = 64;

/** What happened to which object, numbered over all objects, bounded for each object and in all. */
export class EventLog {
  readonly #insert: StatementSync;
  readonly #ofObject: StatementSync;
  readonly #after: StatementSync;
  readonly #objects: StatementSync;
  readonly #pruneAll: StatementSync;
  readonly #pruneObject: StatementSync;
  readonly #total: number;
  readonly #perObject: number;
  readonly #inserts = new Map<string, number>();
  #next: bigint;
  #sincePrune = 0;

  constructor(database: DatabaseSync, perObject: number, total: number) {
    this.#perObject = perObject;
    this.#total = total;
    this.#insert = database.prepare("INSERT INTO events (sequence, object, at, kind, detail) VALUES (?, ?, ?, ?, ?)");
    this.#ofObject = database.prepare("SELECT sequence, object, at, kind, detail FROM events WHERE object = ? ORDER BY sequence");
    this.#ofObject.setReadBigInts(true);
    this.#after = database.prepare(
      "SELECT sequence, object, at, kind, detail FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
    );
    this.#after.setReadBigInts(true);
    this.#objects = database.prepare(
      "SELECT DISTINCT object FROM events WHERE object >= ?1 AND object < ?1 || char(0x10ffff) LIMIT ?2",
    );
    this.#pruneAll = database.prepare("DELETE FROM events WHERE sequence <= ?");
    this.#pruneObject = database.prepare(
      "DELETE FROM events WHERE object = ?1 AND sequence <= (SELECT sequence FROM events WHERE object = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)",
    );
    const last = database.prepare("SELECT max(sequence) AS last FROM events");
    last.setReadBigInts(true);
    this.#next = ((last.get() as { last: bigint | null }).last ?? 0n) + 1n;
  }

  /** The number is used up even when the insert throws: a later event never gets it. */
  append(object: string, kind: string, atNs: bigint, detail: Readonly<Record<string, string | number>>): bigint {
    const sequence = this.#next;
    this.#next += 1n;
    this.#insert.run(sequence, object, atNs, kind, stringify(detail));
    this.#prune(object, sequence);
    return sequence;
  }

  /** The number that the last event got, 0n before any. */
  get last(): bigint {
    return this.#next - 1n;
  }

  of(object: string): StoredEvent[] {
    return (this.#ofObject.all(object) as unknown as Row[]).map(toEvent);
  }

  after(sequence: bigint, limit: number): StoredEvent[] {
    return (this.#after.all(sequence, limit) as unknown as Row[]).map(toEvent);
  }

  /** Objects whose id begins with `prefix`, at most `limit`. */
  objects(prefix: string, limit: number): string[] {
    return (this.#objects.all(prefix, limit) as { object: string }[]).map(({ object }) => object);
  }

  #prune(object: string, sequence: bigint): void {
    const inserts = (this.#inserts.get(object) ?? 0) + 1;
    this.#inserts.set(object, inserts % pruneEvery);
    if (inserts >= pruneEvery) this.#pruneObject.run(object, this.#perObject);
    this.#sincePrune += 1;
    if (this.#sincePrune < pruneEvery) return;
    this.#sincePrune = 0;
    this.#pruneAll.run(sequence - BigInt(this.#total));
    // Objects that are gone must not be remembered for ever.
    if (this.#inserts.size > 10_000) this.#inserts.clear();
  }
}
