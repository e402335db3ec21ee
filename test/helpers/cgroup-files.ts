/** Where this machine has a container's cgroups: with pure v2 (the virtual machine), or in v1's hierarchies. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";

export const onV2 = existsSync("/sys/fs/cgroup/cgroup.controllers");

/** Directory of a cgroup in the hierarchy that has the controller. */
export function cgroupDirectory(controller: string, path: string): string {
  return join("/sys/fs/cgroup", onV2 ? "" : controller, path);
}

/** The mount point of each hierarchy, once. */
export function hierarchyDirectories(): readonly string[] {
  if (onV2) return ["/sys/fs/cgroup"];
  const all = readdirSync("/sys/fs/cgroup").map((name) => realpathSync(join("/sys/fs/cgroup", name)));
  return [...new Set(all)].filter((path) => existsSync(join(path, "cgroup.procs")));
}

/** What a file of the controller says, by its name in v1 and in v2. */
export function readCgroup(path: string, controller: string, v1: string, v2: string): string {
  return readFileSync(join(cgroupDirectory(controller, path), onV2 ? v2 : v1), "utf8").trim();
}

export const memoryLimit = (path: string): string => readCgroup(path, "memory", "memory.limit_in_bytes", "memory.max");

/** `directory` is the container's of v1's freezer, or of v2. */
export function isFrozen(directory: string): boolean {
  if (!onV2) return readFileSync(join(directory, "freezer.state"), "utf8").trim() === "FROZEN";
  return /^frozen 1$/m.test(readFileSync(join(directory, "cgroup.events"), "utf8"));
}

/** Nothing holds it: neither frozen nor about to be. */
export function isThawed(directory: string): boolean {
  if (!onV2) return readFileSync(join(directory, "freezer.state"), "utf8").trim() === "THAWED";
  return readFileSync(join(directory, "cgroup.freeze"), "utf8").trim() === "0" && !isFrozen(directory);
}
