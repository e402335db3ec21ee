/** What a freezer was asked for, by the cgroup's directory, on either version. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path/posix";

const fileV1 = "freezer.state";
const fileV2 = "cgroup.freeze";

/** Whether this is a cgroup of v2. */
export function hasFreezeFile(directory: string): boolean {
  return existsSync(join(directory, fileV2));
}

/** By somebody, whether it has come to rest or not. A cgroup that is gone is not. */
export function isAskedToFreeze(directory: string): boolean {
  return textOf(join(directory, "freezer.self_freezing")) === "1" || textOf(join(directory, fileV2)) === "1";
}

/** Harmless when it is so, and when the cgroup has gone. */
export function askToFreeze(directory: string, frozen: boolean): void {
  if (!tryWrite(join(directory, fileV2), frozen ? "1" : "0")) tryWrite(join(directory, fileV1), frozen ? "FROZEN" : "THAWED");
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    if (isGone(error)) return "";
    throw error;
  }
}

function tryWrite(file: string, text: string): boolean {
  try {
    // Never made: in a directory that is no cgroup.
    writeFileSync(file, text, { flag: "r+" });
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** ENODEV: removed while it was open. */
function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENODEV";
}
