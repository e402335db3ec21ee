import { renameSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { messageOf } from "../../lib/errors.ts";
import { CommandError } from "../command-error.ts";

/** Whole or not at all: callers read it as soon as it is there. Decimal, without a newline. */
export function writePidFile(file: string | undefined, pid: number): void {
  if (file === undefined) return;
  const path = resolve(file);
  const partial = join(dirname(path), `.${basename(path)}`);
  try {
    writeFileSync(partial, String(pid), { mode: 0o644 });
    renameSync(partial, path);
  } catch (error) {
    throw new CommandError(`the pid file ${path} cannot be written: ${messageOf(error)}`);
  }
}
