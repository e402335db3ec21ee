import type { Collection, Store, StoredEvent } from "../../../../src/store/store.ts";
import { parse, stringify } from "../../../../src/store/tagged-json.ts";

/** Documents as text, so that a record which does not survive the round trip fails its test. */
export class FakeStore implements Store {
  readonly documents = new Map<string, Map<string, string>>();
  readonly events: StoredEvent[] = [];
  rebuilt: string | undefined;
  olderCopy = false;
  /** Set to make every write fail, as on a full disk. */
  full = false;

  collection<T>(name: "pods" | "containers" | "images" | "layers" | "ledger" | "settings"): Collection<T> {
    const texts = this.documents.get(name) ?? new Map<string, string>();
    this.documents.set(name, texts);
    return {
      load: () => new Map([...texts].map(([key, text]) => [key, parse(text) as T])),
      put: (key, document) => {
        this.#checkRoom();
        texts.set(key, stringify(document));
      },
      delete: (key) => {
        texts.delete(key);
      },
      flush: async () => {},
    };
  }

  event(objectId: string, kind: string, detail: Readonly<Record<string, string | number>> = {}): bigint {
    this.#checkRoom();
    const sequence = BigInt(this.events.length + 1);
    this.events.push({ sequence, atNs: sequence, objectId, kind, detail });
    return sequence;
  }

  timeline(objectId: string): readonly StoredEvent[] {
    return this.events.filter((event) => event.objectId === objectId);
  }

  eventsAfter(sequence: bigint, limit: number): readonly StoredEvent[] {
    return this.events.filter((event) => event.sequence > sequence).slice(0, limit);
  }

  get lastSequence(): bigint {
    return this.events.at(-1)?.sequence ?? 0n;
  }

  /** As if the database file had been deleted. */
  lose(): void {
    for (const texts of this.documents.values()) texts.clear();
  }

  /** A copy of everything, to be put back later with `restore`. */
  copy(): Map<string, Map<string, string>> {
    return new Map([...this.documents].map(([name, texts]) => [name, new Map(texts)]));
  }

  restore(copy: Map<string, Map<string, string>>): void {
    this.lose();
    for (const [name, texts] of copy) for (const [key, text] of texts) this.documents.get(name)?.set(key, text);
  }

  async close(): Promise<void> {}

  #checkRoom(): void {
    if (this.full) throw Object.assign(new Error("database or disk is full"), { code: "ERR_SQLITE_ERROR" });
  }
}
