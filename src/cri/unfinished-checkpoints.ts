/**
 * Checkpoints write where the caller says. What a daemon that was killed has left there is known by a note beside the daemon's own files,
 * and taken away at the next start: nobody got an answer, and it holds the memory of processes.
 */
import { randomBytes } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path/posix";
import { replaceFileSync } from "../lib/atomic-file.ts";
import { errnoName } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { makePrivate } from "./container-save.ts";
import { checkpointsDir } from "./paths.ts";

const prefix = "unfinished-";

/** These paths are ours until the result is disposed of. They need not be there. */
export async function noteUnfinished(app: Pick<CriApp, "config">, paths: readonly string[]): Promise<AsyncDisposable> {
  const directory = checkpointsDir(app.config);
  await makePrivate(directory);
  const note = join(directory, `${prefix}${randomBytes(6).toString("hex")}`);
  replaceFileSync(note, JSON.stringify(paths));
  return { [Symbol.asyncDispose]: () => rm(note, { force: true }) };
}

/** At start. What cannot be removed is named in the log and not tried again. */
export async function sweepUnfinished({ config, log }: Pick<CriApp, "config" | "log">): Promise<void> {
  const directory = checkpointsDir(config);
  for (const name of await namesOf(directory)) {
    if (!name.startsWith(prefix)) continue;
    for (const path of await pathsOf(join(directory, name))) {
      await rm(path, { recursive: true, force: true }).catch((err: unknown) =>
        log.error({ err, path }, "what is left of a checkpoint that was cut off cannot be removed"),
      );
    }
  }
  await rm(directory, { recursive: true, force: true });
}

async function namesOf(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}

/** A note that was never written whole was of a checkpoint that had not begun. */
async function pathsOf(note: string): Promise<readonly string[]> {
  try {
    const paths: unknown = JSON.parse(await readFile(note, "utf8"));
    return Array.isArray(paths) ? paths.filter((path) => typeof path === "string" && path.startsWith("/")) : [];
  } catch {
    return [];
  }
}
