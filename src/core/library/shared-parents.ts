/** Cgroups that were made for several containers: whichever of these is the last takes them away. */
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path/posix";
import type { ContainerCgroup } from "./container-cgroup.ts";
import { readState, type SavedState } from "./saved-state.ts";

/** Parents of this cgroup that were made for other containers of the same directory, topmost first. */
export function sharedParents(stateDir: string, { cgroups, path }: ContainerCgroup): readonly string[] {
  const parents: string[] = [];
  for (let parent = dirname(path); parent !== "/"; parent = dirname(parent)) parents.unshift(parent);
  if (parents.length === 0) return [];
  const others = readdirSync(stateDir).flatMap((id) => stateOf(join(stateDir, id)));
  return parents.filter((parent) => {
    const directories = [...cgroups.directories(parent)];
    // Relative paths begin elsewhere for each caller: equal text is not yet the same cgroup.
    const contains = ({ cgroup_paths }: SavedState) =>
      directories.every(([key, directory]) => cgroup_paths[key]?.startsWith(`${directory}/`) === true);
    return others.some((state) => state.caisson.made_parents.includes(parent) && contains(state));
  });
}

/** What is just being made or taken away, or cannot be read, shares nothing. */
function stateOf(directory: string): readonly SavedState[] {
  try {
    return [readState(directory)];
  } catch {
    return [];
  }
}
