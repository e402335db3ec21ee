import type { DatabaseSync, StatementSync } from "node:sqlite";

const pageBytes = 4096;

/**
 * Keeps free pages inside the database file, so that a change or a removal on a full disk never needs the file to grow: moving the
 * log into it would fail then, and with it every later write. Pages are made by filling them, moving them from the log into the
 * file (only then does the filesystem give blocks) and freeing them: two steps with a checkpoint in between.
 */
export class FreePages {
  readonly #wanted: number;
  readonly #free: StatementSync;
  readonly #fill: StatementSync;
  readonly #empty: StatementSync;
  #filled = false;

  constructor(database: DatabaseSync, bytes: number) {
    this.#wanted = Math.ceil(bytes / pageBytes);
    this.#free = database.prepare("PRAGMA freelist_count");
    this.#fill = database.prepare("INSERT INTO room VALUES (zeroblob(?))");
    this.#empty = database.prepare("DELETE FROM room");
  }

  /** Before a checkpoint. Fills anew what has fallen below one half. */
  prepare(): void {
    const { freelist_count: free } = this.#free.get() as { freelist_count: number };
    if (this.#filled || free * 2 >= this.#wanted) return;
    this.#fill.run(this.#wanted * pageBytes);
    this.#filled = true;
  }

  /** After a checkpoint. */
  release(): void {
    if (this.#filled) this.#empty.run();
    this.#filled = false;
  }
}
