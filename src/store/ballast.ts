import { closeSync, fsyncSync, openSync, statfsSync, statSync, unlinkSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { errnoName } from "../lib/errors.ts";

/**
 * A file that takes up room so that it can be given up: with it gone, records of exits and removals still find space on a full disk.
 * Its bytes are written, not only reserved, because a hole frees nothing.
 */
export class Ballast {
  readonly #path: string;
  readonly #bytes: number;

  constructor(path: string, bytes: number) {
    this.#path = path;
    this.#bytes = bytes;
  }

  get held(): boolean {
    try {
      return statSync(this.#path).size >= this.#bytes && this.#bytes > 0;
    } catch {
      return false;
    }
  }

  /** Makes the file where it is missing and at least four times its size is free, so that making it never fills the disk. */
  take(): boolean {
    if (this.#bytes === 0 || this.held) return this.held;
    try {
      const { bavail, bsize } = statfsSync(dirname(this.#path));
      if (bavail * bsize < this.#bytes * 4) return false;
      const fd = openSync(this.#path, "w", 0o600);
      try {
        writeSync(fd, Buffer.alloc(this.#bytes, 0x63));
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      return true;
    } catch {
      this.giveUp();
      return false;
    }
  }

  /** Frees the room; false when there was none to free. */
  giveUp(): boolean {
    try {
      unlinkSync(this.#path);
      return true;
    } catch (error) {
      if (errnoName(error) === "ENOENT") return false;
      throw error;
    }
  }
}
