import { closeSync, fdatasync, openSync } from "node:fs";
import { join } from "node:path";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { promisify } from "node:util";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { Ballast } from "./ballast.ts";
import { Checkpointer } from "./checkpointer.ts";
import { isDiskFull, type Opened, openDatabase } from "./database.ts";
import { EventLog } from "./event-log.ts";
import type { Collection, Store, StoredEvent } from "./store.ts";
import { parse, stringify } from "./tagged-json.ts";

export interface StoreOptions {
  /** ROOT: the database is caisson.db below it. */
  readonly directory: string;
  readonly log: Pick<Log, "info" | "warn" | "error">;
  readonly ballastBytes: number;
  readonly eventsPerObject: number;
  readonly eventsTotal: number;
}

const datasync = promisify(fdatasync);

interface Statements {
  readonly load: StatementSync;
  readonly put: StatementSync;
  readonly delete: StatementSync;
  readonly exists: StatementSync;
}

/** A store that can also tell of whom it has events. */
export interface NodeStore extends Store {
  /** Ids that begin with `prefix` and have events, also of objects that are gone; at most `limit`. */
  objectsLike(prefix: string, limit: number): readonly string[];
}

/**
 * Documents and events in one SQLite file. Commits on the JS thread are write-ahead with synchronous=NORMAL: they survive a crash of
 * the daemon, and a power loss once `flush` has resolved. Fsyncs happen in other threads.
 *
 * On a full disk: what is new is refused with resource_exhausted; changes and removals of what is there first reuse the log's own
 * space, then that of the ballast.
 */
class SqliteStore implements NodeStore {
  readonly rebuilt: string | undefined;
  readonly olderCopy: boolean;
  readonly #database: DatabaseSync;
  readonly #log: StoreOptions["log"];
  readonly #ballast: Ballast;
  readonly #checkpointer: Checkpointer;
  readonly #events: EventLog;
  readonly #statements: Statements;
  readonly #walFd: number;
  #eventsLost = false;
  /** Since a write found the disk full, until there was room for the ballast again. */
  #full = false;

  constructor(path: string, opened: Opened, ballast: Ballast, options: StoreOptions) {
    this.rebuilt = opened.rebuilt;
    this.olderCopy = opened.olderCopy;
    this.#database = opened.database;
    this.#log = options.log;
    this.#ballast = ballast;
    this.#events = new EventLog(opened.database, options.eventsPerObject, options.eventsTotal);
    this.#statements = {
      load: opened.database.prepare("SELECT key, json FROM documents WHERE collection = ? ORDER BY key"),
      put: opened.database.prepare(
        "INSERT INTO documents (collection, key, json) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET json = excluded.json",
      ),
      delete: opened.database.prepare("DELETE FROM documents WHERE collection = ? AND key = ?"),
      exists: opened.database.prepare("SELECT 1 FROM documents WHERE collection = ? AND key = ?"),
    };
    // The log stays the same file as long as a connection is open.
    this.#walFd = openSync(`${path}-wal`, "r+");
    this.#checkpointer = new Checkpointer(
      path,
      (problem) => options.log.warn({ problem }, "checkpoint of the database failed; it will be tried again"),
      {
        before: () => this.#quietly(() => opened.freePages.prepare()),
        after: () => {
          this.#quietly(() => opened.freePages.release());
          if (this.#ballast.take()) this.#full = false;
        },
      },
    );
  }

  collection<T>(name: string): Collection<T> {
    return {
      load: () => this.#load<T>(name),
      put: (key, document) => this.#put(name, key, document),
      delete: (key) => this.#delete(name, key),
      flush: () => datasync(this.#walFd),
    };
  }

  event(objectId: string, kind: string, detail: Readonly<Record<string, string | number>> = {}): bigint {
    const atNs = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
    try {
      return this.#write(128, false, () => this.#events.append(objectId, kind, atNs, detail));
    } catch (error) {
      // History is worth less than what it tells of: never fail an exit or a removal for it.
      if (!this.#eventsLost) this.#log.error({ err: error }, "events are not recorded");
      this.#eventsLost = true;
      return this.#events.last;
    }
  }

  timeline(objectId: string): readonly StoredEvent[] {
    return this.#events.of(objectId);
  }

  eventsAfter(sequence: bigint, limit: number): readonly StoredEvent[] {
    return this.#events.after(sequence, limit);
  }

  get lastSequence(): bigint {
    return this.#events.last;
  }

  objectsLike(prefix: string, limit: number): readonly string[] {
    return this.#events.objects(prefix, limit);
  }

  async close(): Promise<void> {
    if (!this.#database.isOpen) return;
    await this.#checkpointer.close();
    if (!this.#database.isOpen) return;
    closeSync(this.#walFd);
    this.#database.close();
  }

  #load<T>(name: string): ReadonlyMap<string, T> {
    const documents = new Map<string, T>();
    for (const row of this.#statements.load.all(name) as { key: string; json: string }[]) {
      try {
        documents.set(row.key, parse(row.json) as T);
      } catch (error) {
        this.#log.error({ collection: name, key: row.key, err: error }, "a record cannot be read and is left out");
      }
    }
    return documents;
  }

  #put(name: string, key: string, document: unknown): void {
    const json = stringify(document);
    const known = (): boolean => this.#statements.exists.get(name, key) !== undefined;
    this.#write(json.length, known, () => this.#statements.put.run(name, key, json));
  }

  #delete(name: string, key: string): void {
    this.#write(0, true, () => this.#statements.delete.run(name, key));
  }

  /** `important`: done on a full disk too, at the cost of the ballast. */
  #write<R>(bytes: number, important: boolean | (() => boolean), work: () => R): R {
    const matters = (): boolean => (typeof important === "function" ? important() : important);
    if (this.#full && !matters()) this.#refuseUnlessRoom();
    let result: R;
    try {
      result = work();
    } catch (error) {
      if (!isDiskFull(error)) throw new RuntimeError("internal", `database: ${messageOf(error)}`, {}, error);
      this.#full = true;
      if (!matters()) throw diskFull(error);
      result = this.#writeOnFullDisk(work);
    }
    this.#checkpointer.wrote(bytes);
    return result;
  }

  /** While the disk is full, free pages are for changes and removals of what is there. */
  #refuseUnlessRoom(): void {
    if (!this.#ballast.take()) throw diskFull(undefined);
    this.#full = false;
  }

  #writeOnFullDisk<R>(work: () => R): R {
    // The log's own space can be used again once its content is in the database file, which may have to grow for that: the
    // ballast's room goes to the file first, else the log would eat it and the next write find nothing.
    const reuseLog = (): void => this.#database.exec("PRAGMA wal_checkpoint(RESTART)");
    const giveUpBallast = (): void => {
      if (this.#ballast.giveUp()) this.#log.warn({}, "disk is full: gave up the ballast");
      reuseLog();
    };
    let last: unknown;
    for (const makeRoom of [reuseLog, giveUpBallast]) {
      try {
        makeRoom();
      } catch (error) {
        last = error;
      }
      try {
        return work();
      } catch (error) {
        last = error;
      }
    }
    throw diskFull(last);
  }

  #quietly(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#log.warn({ err: error }, "the database has no free pages in reserve");
    }
  }
}

const diskFull = (cause: unknown): RuntimeError =>
  new RuntimeError("resource_exhausted", "database: the disk is full: free space below the root directory", {}, cause);

/**
 * Opens the store below `options.directory`.
 * @throws RuntimeError internal when the file can be neither opened nor replaced.
 */
export function openStore(options: StoreOptions): NodeStore {
  const path = join(options.directory, "caisson.db");
  const ballast = new Ballast(`${path}.ballast`, options.ballastBytes);
  const open = (): Opened => {
    try {
      return openDatabase(path, options.ballastBytes);
    } catch (error) {
      if (!isDiskFull(error) || !ballast.giveUp()) throw error;
      options.log.warn({}, "disk is full: gave up the ballast to open the database");
      return openDatabase(path, options.ballastBytes);
    }
  };
  try {
    const opened = open();
    for (const warning of opened.warnings) options.log.warn({}, warning);
    if (opened.rebuilt !== undefined)
      options.log.warn({ reason: opened.rebuilt }, "database made anew; the old one is kept beside it");
    const store = new SqliteStore(path, opened, ballast, options);
    ballast.take();
    return store;
  } catch (error) {
    throw new RuntimeError("internal", `cannot open ${path}: ${messageOf(error)}`, {}, error);
  }
}
