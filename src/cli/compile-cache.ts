/** Compiled JavaScript of earlier calls: it need not be compiled again. */
import { lstatSync, mkdirSync } from "node:fs";
import { enableCompileCache } from "node:module";

/** Root's alone: whoever can write there could put code of its own into this command. Ordinary users go without. */
export const compileCachePath = "/var/cache/caisson";

/** Whether the directory is there, or could be made, and nobody else can write to it. */
export function isOwnDirectory(path: string): boolean {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const stat = lstatSync(path);
    return stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0;
  } catch {
    // A cache that cannot be had is no failure of the command.
    return false;
  }
}

/** undefined: there is none for this user. */
export function ownCacheDirectory(): string | undefined {
  return process.geteuid?.() === 0 && isOwnDirectory(compileCachePath) ? compileCachePath : undefined;
}

export function useCompileCache(): void {
  const directory = ownCacheDirectory();
  if (directory !== undefined) enableCompileCache(directory);
}
