/** What stands in the way of a cgroup on v2, where the kernel only says EOPNOTSUPP, or lacks a file. */
import { existsSync } from "node:fs";
import { basename, dirname } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { readCgroupFileSync } from "./cgroup-files.ts";

/**
 * Memory, io and hugetlb are counted for domains only, and nobody but threads of one process enters another kind: with the controllers of
 * a container, or without, such a cgroup is none for it.
 *
 * @throws RuntimeError failed_precondition for a threaded cgroup, and for one below it.
 */
export function refuseThreaded(directory: string): void {
  const type = readCgroupFileSync(`${directory}/cgroup.type`);
  if (type === undefined || type === "domain") return;
  const state =
    type === "domain invalid" ? "an invalid state, as a cgroup above it is threaded" : `${type.split(" ").at(-1)} mode`;
  throw new RuntimeError(
    "failed_precondition",
    `cannot enter the cgroup ${directory} with its controllers: it is in ${state} (cgroup.type is ${JSON.stringify(type)}); ` +
      "name a cgroup outside of the threaded ones",
    { path: directory },
  );
}

/** Before anything is made: what is below a threaded cgroup would be none for a container either. */
export function refuseThreadedAt(directory: string): void {
  let at = directory;
  while (at !== "/" && !existsSync(at)) at = dirname(at);
  refuseThreaded(at);
}

/**
 * Whether no controllers can be given to what is below it. Those that threads can be told apart by (cpu, pids) could be enabled all the
 * same, and would make it the domain of a threaded tree, in which nothing of ours can live.
 */
export function isOccupied(directory: string): boolean {
  // The root has no type, and may have processes beside cgroups with controllers.
  if (readCgroupFileSync(`${directory}/cgroup.type`) === undefined) return false;
  return processesOf(directory) > 0;
}

function processesOf(directory: string): number {
  return (readCgroupFileSync(`${directory}/cgroup.procs`) ?? "").split("\n").filter((line) => line !== "").length;
}

/** Why a file of a controller is not in a cgroup; empty when nothing that we know of is the reason. */
export function whyWithout(path: string): string {
  const controller = basename(path).split(".")[0] ?? "";
  for (let at = dirname(dirname(path)); ; at = dirname(at)) {
    const enabled = readCgroupFileSync(`${at}/cgroup.subtree_control`);
    if (enabled === undefined) return "";
    if (enabled.split(" ").includes(controller)) return "";
    if (!has(at, controller)) continue;
    const processes = processesOf(at);
    if (processes === 0) return "";
    return (
      `the cgroup ${at} has ${processes} process(es) of its own, and cgroup v2 enables no controller below such a one; ` +
      "move them into a cgroup below it, or name another cgroup"
    );
  }
}

function has(directory: string, controller: string): boolean {
  return (readCgroupFileSync(`${directory}/cgroup.controllers`) ?? "").split(" ").includes(controller);
}
