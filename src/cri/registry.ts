import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { Collection } from "../store/store.ts";
import type { CriLog } from "./app-types.ts";
import { deepFreeze, type RecordCodec } from "./records.ts";

interface Recorded {
  readonly id: string;
  readonly name: string;
  readonly revision: number;
}

/**
 * All objects of one kind: the store's collection and its image in memory. Store first, memory second; what is read is frozen.
 * Nothing here waits, so that a check and the change it allows can be made in one tick.
 */
export class Registry<T extends Recorded> {
  readonly #what: string;
  readonly #collection: Collection<unknown>;
  readonly #codec: RecordCodec<T>;
  readonly #log: CriLog;
  readonly #byId = new Map<string, T>();
  readonly #idByName = new Map<string, string>();
  /** Documents in the store that are not ours or cannot be read: what belongs to them is not ours to sweep. */
  readonly #leftAlone = new Set<string>();
  /** Changes that could not be written (a full disk) and are tried again with the next one. */
  readonly #unwritten = new Set<string>();

  constructor(what: string, collection: Collection<unknown>, codec: RecordCodec<T>, log: CriLog) {
    this.#what = what;
    this.#collection = collection;
    this.#codec = codec;
    this.#log = log;
  }

  get(id: string): T | undefined {
    return this.#byId.get(id);
  }

  all(): readonly T[] {
    return [...this.#byId.values()];
  }

  named(name: string): T | undefined {
    const id = this.#idByName.get(name);
    return id === undefined ? undefined : this.#byId.get(id);
  }

  /** By id or unambiguous prefix; undefined when nothing fits. An empty or ambiguous one is `invalid_argument`. */
  find(idOrPrefix: string): T | undefined {
    if (idOrPrefix === "") throw new RuntimeError("invalid_argument", `the ${this.#what} id is empty`);
    const exact = this.#byId.get(idOrPrefix);
    if (exact !== undefined) return exact;
    const fitting = this.all().filter((record) => record.id.startsWith(idOrPrefix));
    if (fitting.length > 1) {
      throw new RuntimeError("invalid_argument", `${this.#what} id ${idOrPrefix} is ambiguous: ${fitting.length} begin with it`);
    }
    return fitting[0];
  }

  /** As find, but nothing that fits is `not_found`. */
  resolve(idOrPrefix: string): T {
    const found = this.find(idOrPrefix);
    if (found !== undefined) return found;
    throw new RuntimeError("not_found", `${this.#what} ${idOrPrefix} does not exist`, { id: idOrPrefix });
  }

  /** Records a new object. */
  add(record: T): T {
    this.#write(record);
    return this.#remember(record);
  }

  /** Applies a pure change; `not_found` when the object is gone. */
  update(id: string, change: (old: T) => T): T {
    const changed = this.#changed(id, change);
    this.#write(changed);
    return this.#remember(changed);
  }

  /**
   * As update, for facts that are so whether or not they can be written (a process has ended, a pod goes away): on a full disk memory
   * gets ahead of the store, and the write is tried again with the next change of any object.
   */
  updateRegardless(id: string, change: (old: T) => T): T {
    const changed = this.#changed(id, change);
    try {
      this.#write(changed);
    } catch (error) {
      this.#unwritten.add(id);
      this.#log.error({ id, err: messageOf(error) }, `the ${this.#what}'s record could not be written; it is tried again`);
    }
    return this.#remember(changed);
  }

  forget(id: string): void {
    const record = this.#byId.get(id);
    this.#collection.delete(id);
    this.#unwritten.delete(id);
    if (record === undefined) return;
    this.#byId.delete(id);
    if (this.#idByName.get(record.name) === id) this.#idByName.delete(record.name);
  }

  /** Reads the store; documents that cannot be read, or that `mine` refuses, are reported and left alone. */
  load(mine: (record: T) => boolean): void {
    for (const [id, document] of this.#collection.load()) {
      try {
        const record = this.#codec.decode(document);
        if (mine(record)) this.#remember(record);
        else this.#leaveAlone(id, "is of another installation");
      } catch (error) {
        this.#leaveAlone(id, `cannot be read (${messageOf(error)})`);
      }
    }
  }

  /** Whether the store has anything under this id. */
  knows(id: string): boolean {
    return this.#byId.has(id) || this.#leftAlone.has(id);
  }

  #leaveAlone(id: string, why: string): void {
    this.#leftAlone.add(id);
    this.#log.warn({ id }, `the ${this.#what}'s record ${why} and is left alone`);
  }

  /** Takes over a record found outside of the store, unless the store's copy is as new. */
  adopt(record: T): boolean {
    const known = this.#byId.get(record.id);
    if (known !== undefined && known.revision >= record.revision) return false;
    this.add(record);
    return true;
  }

  #changed(id: string, change: (old: T) => T): T {
    const old = this.#byId.get(id);
    if (old === undefined) throw new RuntimeError("not_found", `${this.#what} ${id} does not exist`, { id });
    return { ...change(old), revision: old.revision + 1 };
  }

  #write(record: T): void {
    this.#collection.put(record.id, this.#codec.encode(record));
    this.#unwritten.delete(record.id);
    this.#retryUnwritten();
  }

  #retryUnwritten(): void {
    for (const id of this.#unwritten) {
      const record = this.#byId.get(id);
      if (record === undefined) continue;
      try {
        this.#collection.put(id, this.#codec.encode(record));
        this.#unwritten.delete(id);
      } catch {
        return;
      }
    }
  }

  #remember(record: T): T {
    const frozen = deepFreeze(record);
    this.#byId.set(record.id, frozen);
    this.#idByName.set(record.name, record.id);
    return frozen;
  }
}
