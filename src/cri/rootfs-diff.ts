/** What a container has changed in its root, from its writable layer: files for an archive, and paths that are gone. */
import type { Dirent } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName } from "../lib/errors.ts";

export interface RootfsDiff {
  /** Relative to the writable layer, parents first. */
  readonly changed: readonly string[];
  /** As the container saw them. */
  readonly deleted: readonly string[];
}

/** lowers: directories of the image's layers, which say what an opaque directory hides. */
export async function rootfsDiff(
  upper: string,
  lowers: readonly string[],
  isOpaque: (path: string) => boolean,
): Promise<RootfsDiff> {
  const changed: string[] = [];
  const deleted: string[] = [];
  const walk = async (relative: string): Promise<void> => {
    const entries = await readdir(join(upper, relative), { withFileTypes: true });
    const names = new Set(entries.map(({ name }) => name));
    if (isOpaque(join(upper, relative))) {
      for (const name of await hidden(lowers, relative)) if (!names.has(name)) deleted.push(`/${join(relative, name)}`);
    }
    for (const entry of entries) {
      const path = join(relative, entry.name);
      if (await isWhiteout(upper, path, entry)) {
        deleted.push(`/${path}`);
        continue;
      }
      if (entry.isSocket()) continue;
      changed.push(path);
      if (entry.isDirectory()) await walk(path);
    }
  };
  await walk("");
  return { changed, deleted: deleted.toSorted() };
}

/** overlayfs: a character device 0:0. */
async function isWhiteout(upper: string, path: string, entry: Dirent): Promise<boolean> {
  return entry.isCharacterDevice() && (await lstat(join(upper, path))).rdev === 0;
}

async function hidden(lowers: readonly string[], relative: string): Promise<ReadonlySet<string>> {
  const names = new Set<string>();
  for (const lower of lowers) {
    try {
      for (const name of await readdir(join(lower, relative))) names.add(name);
    } catch (error) {
      if (errnoName(error) !== "ENOENT" && errnoName(error) !== "ENOTDIR") throw error;
    }
  }
  return names;
}
