/**
 * Opens the database file and decides whether it can be trusted. What cannot (not SQLite, damaged, from a newer version) is set
 * aside under another name and a new one is made: pods that run are then rebuilt from their shims' own records.
 */
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { replaceFileSync, syncDirectory } from "../lib/atomic-file.ts";
import { errnoName, messageOf } from "../lib/errors.ts";
import { FreePages } from "./free-pages.ts";

export const schemaVersion = 1;

const tables = `
  CREATE TABLE documents (collection TEXT NOT NULL, key TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (collection, key)) WITHOUT ROWID;
  CREATE TABLE events (sequence INTEGER PRIMARY KEY, object TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);
  CREATE INDEX events_by_object ON events (object, sequence);
  CREATE TABLE room (filler BLOB);
`;

export interface Opened {
  readonly database: DatabaseSync;
  readonly freePages: FreePages;
  /** Why the file was set aside, if it was. */
  readonly rebuilt: string | undefined;
  readonly olderCopy: boolean;
  /** What else is odd about it, for the log. */
  readonly warnings: readonly string[];
}

const companions = ["", "-wal", "-shm"] as const;

function setAside(path: string, suffix: string, which: readonly string[] = companions): void {
  for (const companion of which) {
    if (existsSync(path + companion)) renameSync(path + companion, `${path}.${suffix}${companion}`);
  }
}

/** SQLite's code of an error, 0 for anything else. */
export function sqliteCode(error: unknown): number {
  return error instanceof Error && "errcode" in error && typeof error.errcode === "number" ? error.errcode : 0;
}

/** SQLITE_FULL, and SQLITE_IOERR_* as the shared-memory file and some filesystems report it. */
export function isDiskFull(error: unknown): boolean {
  const code = sqliteCode(error);
  return code === 13 || (code & 0xff) === 10;
}

/** Damage and not a passing trouble: SQLITE_CORRUPT, SQLITE_NOTADB. Anything else must not cost the records. */
function isDamage(error: unknown): boolean {
  return [11, 26].includes(sqliteCode(error) & 0xff);
}

/**
 * How often this file had been opened, as its header says (the application id, offset 68). Read without SQLite, because opening
 * an older copy beside a newer write-ahead log would mix their pages.
 */
function generationOf(path: string): number | undefined {
  try {
    const header = Buffer.alloc(72);
    const fd = openSync(path, "r");
    try {
      if (readSync(fd, header, 0, 72, 0) < 72) return undefined;
    } finally {
      closeSync(fd);
    }
    return header.toString("latin1", 0, 15) === "SQLite format 3" ? header.readUInt32BE(68) : undefined;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
}

function readNumber(path: string): number {
  try {
    return Number.parseInt(readFileSync(path, "utf8"), 10) || 0;
  } catch {
    return 0;
  }
}

class Untrusted extends Error {}

function pragma(database: DatabaseSync, name: string): number {
  const row = database.prepare(`PRAGMA ${name}`).get() as Record<string, number>;
  return Object.values(row)[0] ?? 0;
}

function connect(path: string): DatabaseSync {
  // Records hold the environment of containers. SQLite gives the log and the shared memory the mode of the database.
  closeSync(openSync(path, "a", 0o600));
  chmodSync(path, 0o600);
  const database = new DatabaseSync(path, { timeout: 5000 });
  try {
    database.exec(
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY",
    );
    const version = pragma(database, "user_version");
    if (version > schemaVersion) throw new Untrusted(`the database is of version ${version}, newer than ${schemaVersion}`);
    const check = database.prepare("PRAGMA quick_check(1)").get() as { quick_check: string };
    if (check.quick_check !== "ok") throw new Untrusted(`the database is damaged: ${check.quick_check}`);
    if (version === 0) {
      if (pragma(database, "page_count") > 1) throw new Untrusted("the database is not one of Caisson's");
      database.exec(`BEGIN; ${tables} PRAGMA user_version = ${schemaVersion}; COMMIT`);
    }
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/**
 * Opens ROOT/caisson.db, making the directory (0700) and the tables where they are missing.
 * @throws what SQLite or the filesystem says, when it is not the database's own damage.
 */
export function openDatabase(path: string, reserveBytes: number): Opened {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const warnings: string[] = [];
  const openedFile = `${path}.opened`;
  const [seen, generation] = [readNumber(openedFile), generationOf(path)];
  const olderCopy = generation !== undefined && generation < seen;
  if (olderCopy) {
    warnings.push(`the database is an older copy: opened ${generation} times, this installation's ${seen} times`);
    setAside(path, `newer-${Date.now()}`, ["-wal", "-shm"]);
  }
  let rebuilt: string | undefined;
  let database: DatabaseSync;
  try {
    if (generation === undefined && existsSync(path)) throw new Untrusted("the database file has no valid header");
    if (generation === undefined && seen > 0) rebuilt = "the database was missing";
    // A log without its database belongs to one that was deleted.
    if (generation === undefined) setAside(path, `orphaned-${Date.now()}`, ["-wal", "-shm"]);
    database = connect(path);
  } catch (error) {
    if (!(error instanceof Untrusted) && !isDamage(error)) throw error;
    rebuilt = messageOf(error);
    setAside(path, `damaged-${Date.now()}`);
    database = connect(path);
  }
  const freePages = new FreePages(database, reserveBytes);
  const next = (Math.max(seen, generation ?? 0) + 1) % 0x7fffffff;
  try {
    database.exec(`PRAGMA application_id = ${next}`);
    freePages.prepare();
    database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    freePages.release();
    replaceFileSync(openedFile, `${next}\n`);
    syncDirectory(dirname(path)); // for the names of the database and its log
  } catch (error) {
    // On a full disk the daemon must come up all the same: removals free it. Database first, so that a failure in between is harmless.
    warnings.push(`the database's generation was not recorded: ${messageOf(error)}`);
  }
  return { database, freePages, rebuilt, olderCopy, warnings };
}
