/**
 * Reads and writes of cgroup files, with errors that name the file and the value. What makes a new cgroup is synchronous: some sixty
 * calls of microseconds each, for which promises would take the JS thread several times longer than the calls do.
 */
import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName, RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { errnoNameOf, errnoText } from "../../native/errno.ts";

/** ENODEV: the cgroup went away while the file was open. EOPNOTSUPP: a file of a switched-off feature (PSI). */
const missing = new Set(["ENOENT", "ENODEV", "EOPNOTSUPP", "ENOTSUP"]);

/** Contents in the order of the paths, without the last newline: one turn of another thread, one open and one read for each. */
export async function readCgroupFiles(paths: readonly string[]): Promise<readonly (string | undefined)[]> {
  const texts = await addon.readFiles(paths);
  return texts.map((text, at) => {
    if (typeof text === "string") return text.trimEnd();
    if (missing.has(errnoNameOf(text))) return undefined;
    throw new RuntimeError("internal", `${paths[at]} cannot be read: ${errnoText(text)}`, { errno: text });
  });
}

/** Content without the last newline; undefined when the file or cgroup is missing. */
export async function readCgroupFile(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, "utf8")).trimEnd();
  } catch (error) {
    if (missing.has(errnoName(error) ?? "")) return undefined;
    throw error;
  }
}

export function readCgroupFileSync(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trimEnd();
  } catch (error) {
    if (missing.has(errnoName(error) ?? "")) return undefined;
    throw error;
  }
}

/** False when the file is missing. */
export async function writeCgroupFile(path: string, value: string): Promise<boolean> {
  try {
    await writeFile(path, value, { flag: "r+" });
    return true;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return false;
    throw refused(path, value, error);
  }
}

export function writeCgroupFileSync(path: string, value: string): boolean {
  let fd = -1;
  try {
    fd = openSync(path, "r+");
    writeSync(fd, value);
    return true;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return false;
    throw refused(path, value, error);
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

function refused(path: string, value: string, error: unknown): RuntimeError {
  const name = errnoName(error);
  const reason = reasons[name ?? ""] ?? name ?? String(error);
  const code = name === "EINVAL" || name === "ERANGE" ? "invalid_argument" : "failed_precondition";
  return new RuntimeError(
    code,
    `cannot set ${path} to ${JSON.stringify(value)}: ${reason}`,
    { path, errnoName: name ?? "" },
    error,
  );
}

const reasons: Readonly<Record<string, string>> = {
  EINVAL: "the kernel refuses the value",
  ERANGE: "the value is out of range",
  EBUSY: "it is in use by processes or child cgroups",
  EACCES: "permission denied",
  EPERM: "a parent cgroup does not allow it",
  ENOSPC: "the resource is not there",
  EOPNOTSUPP: "the kernel does not support it here",
};

/** Makes one directory. False: a parent is missing. An existing one is success. */
export function makeCgroupSync(path: string): boolean {
  try {
    mkdirSync(path, { mode: 0o755 });
    return true;
  } catch (error) {
    if (errnoName(error) === "EEXIST") return true;
    if (errnoName(error) === "ENOENT") return false;
    throw error;
  }
}

const removeAttempts = 12;

/** Removes a cgroup and those below it. Zombies and the kernel's own clean-up hold one busy for some time; a missing one is success. */
export async function removeCgroupTree(path: string, signal?: AbortSignal): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await rmdir(path);
      return;
    } catch (error) {
      const name = errnoName(error);
      if (name === "ENOENT") return;
      if (name !== "EBUSY" && name !== "EINTR" && name !== "ENOTEMPTY") throw error;
      if (attempt === removeAttempts) {
        throw new RuntimeError(
          "failed_precondition",
          `cgroup ${path} cannot be removed: processes are still in it`,
          { path },
          error,
        );
      }
      for (const child of await childCgroups(path)) await removeCgroupTree(child, signal);
      await sleep(2 ** Math.min(attempt, 8), undefined, { signal });
    }
  }
}

/** False when something is in it or below it. */
export async function removeCgroupOnce(path: string): Promise<boolean> {
  try {
    await rmdir(path);
    return true;
  } catch (error) {
    const name = errnoName(error);
    if (name === "EBUSY" || name === "EINTR" || name === "ENOTEMPTY") return false;
    if (name === "ENOENT") return true;
    throw error;
  }
}

/** Directories right below a cgroup. */
export async function childCgroups(path: string): Promise<readonly string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => `${path}/${entry.name}`);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return [];
    throw error;
  }
}
