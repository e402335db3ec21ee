/** What went wrong, from CRIU's log: its last words of an error, those that name a resource first. */
import { readFile } from "node:fs/promises";
import { RuntimeError } from "../../lib/errors.ts";

/** Said at any time, and meaning nothing: a limit that CRIU would like to raise, a cache that it would like to keep. */
const noise = [/rlimit: Can't setup RLIMIT_NOFILE for self/, /Can't keep kdat cache/];
/** What CRIU says last, when everything has been said. */
const summaries = [
  /Dumping FAILED/,
  /Restoring FAILED/,
  /Dump files .* failed with/,
  /Can't dump task \d+ running from/,
  /exited, status=/,
  /cr-restore.*Failed to/,
];
const longest = 500;
const most = 3;

/** Error lines without time stamps and places in the source, repeated ones once, summaries only when there is nothing else. */
export function condenseLog(log: string): string {
  const lines = log
    .split("\n")
    .filter((line) => /\bError\b/.test(line) && !noise.some((pattern) => pattern.test(line)))
    .map((line) =>
      line
        .replace(/^\([\d.]+\)\s*/, "")
        .replace(/^(?:\s*\d+:\s*)?Error \([^)]*\):\s*/, "")
        .trim(),
    );
  const telling = lines.filter((line) => !summaries.some((pattern) => pattern.test(line)));
  const chosen = [...new Set(telling.length > 0 ? telling : lines)].slice(0, most);
  return chosen.join("; ").slice(0, longest);
}

/** The failure of a dump or a restore as an error that names the object and where CRIU's own words are. */
export async function criuFailure(
  what: string,
  log: { readonly path: string },
  number: number | undefined,
  words: string | undefined,
): Promise<RuntimeError> {
  const text = await readFile(log.path, "utf8").catch(() => "");
  const told = condenseLog(text) || words || "CRIU gave no reason";
  const code = /No space left on device/.test(text) ? "resource_exhausted" : "internal";
  return new RuntimeError(code, `${what}: ${told} (log: ${log.path})`, { criuErrno: number ?? 0, log: log.path });
}
