/**
 * Small files and directories below the state directory, which is a tmpfs. They are made synchronously: a call takes microseconds there,
 * while each call of a promise makes a round trip through the thread pool, a hundred times as long. Nothing is synced: the directory is
 * not trusted after a reboot.
 */
import { type Dirent, mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { rmdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { errnoName } from "./errors.ts";

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

/**
 * Removes a file, or a directory with the few files in it; a missing one is success. Not synchronous: the last name of a file that lies
 * on a disk after all takes its blocks along, and a directory that was a mount point elsewhere waits for a grace period. Two round trips
 * per level, where rm() makes three per file.
 */
export async function removeStateTree(path: string): Promise<void> {
  const entries = entriesOf(path);
  if (entries === undefined) return await ignoreMissing(unlink(path));
  await Promise.all(entries.map((entry) => removeEntry(path, entry)));
  await ignoreMissing(rmdir(path));
}

async function removeEntry(parent: string, entry: Dirent): Promise<void> {
  const path = join(parent, entry.name);
  await (entry.isDirectory() ? removeStateTree(path) : ignoreMissing(unlink(path)));
}

/** Undefined: not a directory, or not there. */
function entriesOf(path: string): readonly Dirent[] | undefined {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch (error) {
    if (errnoName(error) === "ENOTDIR" || errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
}

async function ignoreMissing(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
  }
}
