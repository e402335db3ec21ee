/** What went wrong, from CRIU's log: its last words of an error, those that name a resource first. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { readFile, statfs } from "node:fs/promises";
import { dirname } from "node:path/posix";
import { errnoName, RuntimeError } from "../../lib/errors.ts";

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
const fullBytes = 8192;
const most = 3;

/** Error lines without time stamps and places in the source, repeated ones once, summaries only when there is nothing else. */
export function condenseLog(log: string): string {
  const lines = log
    .split("\n")
    .filter((line) => /\bError\b/.test(line) && !noise.some((pattern) => pattern.test(line)))
    .map((line) =>
      line
        .replace(/^\([\d.]+\)\s*/, "")
        .replace(/^(?:pie: )?(?:\s*\d+:\s*)?Error \([^)]*\):\s*/, "")
        .trim(),
    );
  const telling = lines.filter((line) => !summaries.some((pattern) => pattern.test(line)));
  const chosen = [...new Set(telling.length > 0 ? telling : lines)].slice(0, most);
  return chosen.join("; ").slice(0, longest);
}

/** Whose descriptors CRIU was at when it gave up, by the host's process id; `fd` is undefined when it could not even get them. */
export function lastDescriptor(log: string): { readonly pid: number; readonly fd: number | undefined } | undefined {
  const lines = log.split("\n");
  const end = lines.findIndex((line) => /\bError\b/.test(line) && !noise.some((pattern) => pattern.test(line)));
  const before = lines.slice(0, end === -1 ? 0 : end);
  const start = before.findLastIndex((line) => line.includes("Dumping opened files (pid: "));
  const done = before.findLastIndex((line) => line.endsWith("----------------------------------------"));
  const pid = /\(pid: (\d+)\)/.exec(before[start] ?? "")?.[1];
  // A second rule ends them.
  if (pid === undefined || done > start + 1) return undefined;
  const fd = before.slice(start).findLast((line) => / fdinfo \d+: /.test(line));
  return { pid: Number(pid), fd: fd === undefined ? undefined : Number(/ fdinfo (\d+): /.exec(fd)?.[1]) };
}

/** A connection whose other end is outside, by the numbers of its ends, and the processes that CRIU looked at by the host's ids. */
export function runawayConnection(
  log: string,
): { readonly ends: readonly string[]; readonly pids: readonly number[] } | undefined {
  const ends = /Runaway socket: ino (\d+) peer_ino (\d+)/.exec(log)?.slice(1);
  if (ends === undefined) return undefined;
  const pids = [...log.matchAll(/Dumping opened files \(pid: (\d+)\)/g)].map(([, pid]) => Number(pid));
  return { ends, pids };
}

/** CRIU passes descriptors by a socket, which these do not go through: it cannot say which one it was. */
const neverPassed = /io_uring/;

/** As long as the process is there. */
function describeDescriptor(log: string): string {
  const runaway = runawayConnection(log);
  if (runaway !== undefined) {
    const links = new Set(runaway.ends.map((end) => `socket:[${end}]`));
    const text = runaway.pids.map((pid) => describeOf(pid, ({ link }) => links.has(link))).find((one) => one !== "") ?? "";
    return `${text}; the other end of this unix connection is outside the container`;
  }
  const last = lastDescriptor(log);
  if (last === undefined) return "";
  return describeOf(last.pid, ({ fd, link }) => (last.fd === undefined ? neverPassed.test(link) : fd === last.fd));
}

function describeOf(pid: number, isIt: (one: { readonly fd: number; readonly link: string }) => boolean): string {
  const directory = `/proc/${pid}/fd`;
  try {
    const name = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    const links = readdirSync(directory).map((fd) => ({ fd: Number(fd), link: readlinkSync(`${directory}/${fd}`) }));
    const culprit = links.find(isIt);
    if (culprit === undefined) return "";
    return `; descriptor ${culprit.fd} of process ${JSON.stringify(name)} is ${JSON.stringify(culprit.link)}`;
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes(errnoName(error) ?? "")) return "";
    throw error;
  }
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
  const full = /No space left on device/.test(text) || (await isFull(dirname(log.path)));
  const because = full && !told.includes("No space left") ? ": No space left on device" : "";
  const message = `${what}: ${told}${because}${describeDescriptor(text)} (log: ${log.path})`;
  return new RuntimeError(full ? "resource_exhausted" : "internal", message, {
    criuErrno: number ?? 0,
    log: log.path,
  });
}

/** The log lies there as well, so its end may be missing. */
async function isFull(directory: string): Promise<boolean> {
  const { bavail, bsize } = await statfs(directory).catch(() => ({ bavail: 1, bsize: fullBytes }));
  return bavail * bsize < fullBytes;
}
