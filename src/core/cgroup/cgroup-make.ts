/** Makes a cgroup in every hierarchy, with what a process needs before it can enter. */
import { RuntimeError } from "../../lib/errors.ts";
import { makeCgroup, readCgroupFile, writeCgroupFile } from "./cgroup-files.ts";
import { ancestry } from "./cgroup-path.ts";
import type { Hierarchies, Hierarchy } from "./hierarchies.ts";

/** `path` is clean. An existing cgroup is kept if no process is in it. */
export async function makeEverywhere(hierarchies: Hierarchies, path: string): Promise<void> {
  await Promise.all([
    ...hierarchies.v1.map((hierarchy) => makeV1(hierarchy, path)),
    ...(hierarchies.unified === undefined ? [] : [makeV2(hierarchies.unified, path)]),
  ]);
}

async function makeV1({ controllers, mountPoint }: Hierarchy, path: string): Promise<void> {
  const isCpuset = controllers.includes("cpuset");
  if (!isCpuset && (await makeLeaf(mountPoint + path)) === true) return;
  let parent = mountPoint;
  for (const below of ancestry(path)) {
    const directory = mountPoint + below;
    await makeCgroup(directory);
    if (isCpuset) await inheritCpuset(parent, directory);
    parent = directory;
  }
}

/** Undefined: a parent is missing. */
async function makeLeaf(directory: string): Promise<boolean | undefined> {
  try {
    await makeCgroup(directory);
    return true;
  } catch {
    return undefined;
  }
}

/** A new v1 cpuset is empty, and nobody may enter an empty one. */
async function inheritCpuset(parent: string, directory: string): Promise<void> {
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    if (((await readCgroupFile(`${directory}/${file}`)) ?? "") !== "") continue;
    await writeCgroupFile(`${directory}/${file}`, (await readCgroupFile(`${parent}/${file}`)) ?? "");
  }
}

interface Unified {
  readonly mountPoint: string;
  readonly controllers: ReadonlySet<string>;
}

async function makeV2({ mountPoint, controllers }: Unified, path: string): Promise<void> {
  const directories = ancestry(path).map((below) => mountPoint + below);
  let parent = mountPoint;
  for (const directory of directories) {
    await enableControllers(parent, controllers);
    await makeCgroup(directory);
    parent = directory;
  }
}

/** All at once, else one by one: a controller that cannot be enabled is missed where a limit asks for it. */
async function enableControllers(directory: string, controllers: ReadonlySet<string>): Promise<void> {
  const file = `${directory}/cgroup.subtree_control`;
  const enabled = new Set((await readCgroupFile(file))?.split(" "));
  const missing = [...controllers].filter((name) => !enabled.has(name));
  if (missing.length === 0) return;
  try {
    await writeCgroupFile(file, missing.map((name) => `+${name}`).join(" "));
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    for (const name of missing) await writeCgroupFile(file, `+${name}`).catch(() => false);
  }
}
