/**
 * Small files and directories below the state directory, synchronously. It is a tmpfs (or at worst the page cache), where a call takes
 * microseconds; each call of a promise would cost a round trip through the thread pool, a hundred times as long. Nothing is synced: the
 * directory is not trusted after a reboot.
 */
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";

/** With its parents, which get the same mode. */
export function makeStateDirectory(path: string, mode: number): void {
  mkdirSync(path, { recursive: true, mode });
}

/** Replaces a file as a whole; mode 0600. */
export function replaceStateFile(path: string, content: string): void {
  const partial = `${path}.partial`;
  writeFileSync(partial, content, { mode: 0o600 });
  renameSync(partial, path);
}

/** A file or a directory with the few files in it; a missing one is success. */
export function removeStateTree(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
