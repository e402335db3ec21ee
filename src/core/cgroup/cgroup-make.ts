/** Makes a cgroup in every hierarchy, with what a process needs before it can enter. */
import { RuntimeError } from "../../lib/errors.ts";
import { makeCgroupSync, readCgroupFileSync, writeCgroupFileSync } from "./cgroup-files.ts";
import { isOccupied, refuseThreaded } from "./cgroup-obstacles.ts";
import { ancestry } from "./cgroup-path.ts";
import type { Hierarchies, Hierarchy } from "./hierarchies.ts";

/** `path` is clean. An existing cgroup is kept. */
export function makeEverywhere(hierarchies: Hierarchies, path: string): void {
  for (const hierarchy of hierarchies.v1) makeV1(hierarchy, path);
  if (hierarchies.unified !== undefined) makeV2(hierarchies.unified, path);
}

function makeV1({ controllers, mountPoint }: Hierarchy, path: string): void {
  const isCpuset = controllers.includes("cpuset");
  if (!isCpuset && makeCgroupSync(mountPoint + path)) return;
  let parent = mountPoint;
  for (const below of ancestry(path)) {
    const directory = mountPoint + below;
    if (!makeCgroupSync(directory)) throw vanished(directory);
    if (isCpuset) inheritCpuset(parent, directory);
    parent = directory;
  }
}

/** A new v1 cpuset is empty, and nobody may enter an empty one. */
function inheritCpuset(parent: string, directory: string): void {
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    if ((readCgroupFileSync(`${directory}/${file}`) ?? "") !== "") continue;
    writeCgroupFileSync(`${directory}/${file}`, readCgroupFileSync(`${parent}/${file}`) ?? "");
  }
}

interface Unified {
  readonly mountPoint: string;
  readonly controllers: ReadonlySet<string>;
}

function makeV2({ mountPoint, controllers }: Unified, path: string): void {
  let parent = mountPoint;
  for (const below of ancestry(path)) {
    const directory = mountPoint + below;
    enableControllers(parent, controllers);
    if (!makeCgroupSync(directory)) throw vanished(directory);
    parent = directory;
  }
  // Whatever is below a threaded cgroup is no domain either: the last one tells of all.
  refuseThreaded(parent);
}

/** All at once, else one by one: a controller that cannot be enabled is missed where a limit asks for it. */
function enableControllers(directory: string, controllers: ReadonlySet<string>): void {
  const file = `${directory}/cgroup.subtree_control`;
  const enabled = new Set(readCgroupFileSync(file)?.split(" "));
  const missing = [...controllers].filter((name) => !enabled.has(name));
  if (missing.length === 0) return;
  try {
    writeCgroupFileSync(file, missing.map((name) => `+${name}`).join(" "));
  } catch {
    if (isOccupied(directory)) return;
    for (const name of missing) tryToEnable(file, name);
  }
}

function tryToEnable(file: string, name: string): void {
  try {
    writeCgroupFileSync(file, `+${name}`);
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
  }
}

function vanished(directory: string): RuntimeError {
  return new RuntimeError("aborted", `the parent of cgroup ${directory} was removed meanwhile`, { path: directory });
}
