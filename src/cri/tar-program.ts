/** The node's tar: what it packs and what it is told goes through here. */
import { accessSync, constants } from "node:fs";
import { RuntimeError } from "../lib/errors.ts";
import { runHostProgram } from "../native/host-program.ts";

const candidates = ["/usr/bin/tar", "/bin/tar"];
const keptStderrBytes = 2000;

/** Packs exactly these names (relative to `directory`, not followed by their content) into a new file, with owners and attributes. */
export async function packTar(file: string, directory: string, names: readonly string[], signal: AbortSignal): Promise<void> {
  const path = candidates.find(isProgram);
  if (path === undefined) throw new RuntimeError("failed_precondition", "tar was not found on this node; a checkpoint needs it");
  const argv = [
    "tar",
    "--create",
    `--file=${file}`,
    "--format=posix",
    "--numeric-owner",
    "--sparse",
    "--xattrs",
    "--xattrs-include=*",
    "--xattrs-exclude=trusted.overlay.*",
    `--directory=${directory}`,
    "--null",
    "--no-recursion",
    "--verbatim-files-from",
    "--files-from=-",
  ];
  const stdin = Buffer.from(names.map((name) => `${name}\0`).join(""));
  const program = { path, argv, env: { PATH: "/usr/bin:/bin", LANG: "C" }, stdin, maxStdoutBytes: 1 << 16, lock: null };
  const { exit, stderr, killed } = await runHostProgram({ ...program, maxStderrBytes: keptStderrBytes }, signal);
  if (killed !== undefined) throw new RuntimeError("deadline_exceeded", `packing ${file} took too long`);
  // 1: a file changed while it was read, which nothing frozen does, or a socket was left out.
  if (exit.code === 0 || exit.code === 1) return;
  const said = stderr.toString("utf8").trim();
  const code = /No space left|Wrote only/.test(said) ? "resource_exhausted" : "internal";
  throw new RuntimeError(code, `${file} could not be written: ${said || `tar ended with ${exit.code}`}`, { path: file });
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
