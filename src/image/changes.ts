/** Changes of a container's root from an archive that may come from anybody: a layer whose directory is the writable one. */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Unpacker } from "./unpacker.ts";

export async function applyChanges(
  unpacker: Unpacker,
  archive: string,
  directory: string,
  lowers: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const pending = join(dirname(directory), `.pending-${randomBytes(6).toString("hex")}`);
  try {
    const what = `archive ${archive}`;
    const bottom = lowers.length === 0;
    await using file = await open(archive, constants.O_RDONLY | constants.O_NOFOLLOW);
    const unpacked = await unpacker.apply(file.fd, directory, pending, false, bottom, what, signal);
    if (unpacked.pending > 0) await unpacker.settle(directory, pending, lowers, what, signal);
  } finally {
    await rm(pending, { force: true });
  }
}
