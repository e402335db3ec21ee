/**
 * Versions of the CRIUs that were asked, by what stat says of their files: asking takes 10 ms, which a command pays each time it is
 * called. In memory, and for programs that end soon in a file as well.
 */
import { readFileSync, type Stats, writeFileSync } from "node:fs";
import { join } from "node:path/posix";

const fileName = "criu.json";

interface Known {
  readonly path: string;
  readonly file: string;
  readonly version: number;
}

const known = new Map<string, Known>();
let kept: string | undefined;

/** In a directory that nobody but this user can write to. What cannot be read or written there is asked anew. */
export function keepCriuVersions(directory: string): void {
  kept = join(directory, fileName);
}

/** undefined: not known of the file as it is now. */
export function knownVersion(path: string, stat: Stats): number | undefined {
  const found = known.get(path) ?? readKept();
  return found?.path === path && found.file === identityOf(stat) ? found.version : undefined;
}

export function rememberVersion(path: string, stat: Stats, version: number): void {
  const found = { path, file: identityOf(stat), version };
  known.set(path, found);
  if (kept === undefined) return;
  try {
    writeFileSync(kept, `${JSON.stringify(found)}\n`, { mode: 0o600 });
  } catch {
    // As for all caches: without it things only take longer.
  }
}

function identityOf({ dev, ino, mtimeMs }: Stats): string {
  return [dev, ino, mtimeMs].join(" ");
}

function readKept(): Known | undefined {
  if (kept === undefined) return undefined;
  try {
    const read = JSON.parse(readFileSync(kept, "utf8")) as Partial<Known> | null;
    const { path, file, version } = read ?? {};
    return typeof path === "string" && typeof file === "string" && Number.isSafeInteger(version) ? (read as Known) : undefined;
  } catch {
    return undefined;
  }
}
