import { closeSync, fsyncSync, openSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/** Makes the names in a directory survive a power loss. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Replaces a small file as a whole: a reader, and a power loss, find the old content or the new one. Mode 0600. */
export function replaceFileSync(path: string, content: string | Uint8Array): void {
  const partial = `${path}.partial`;
  const data = Buffer.from(content);
  const fd = openSync(partial, "w", 0o600);
  try {
    for (let done = 0; done < data.length; ) done += writeSync(fd, data, done);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(partial, path);
  syncDirectory(dirname(path)); // without it the rename may not survive power loss
}
