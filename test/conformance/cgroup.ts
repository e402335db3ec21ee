/** The host's view of a container's cgroup, on v1, hybrid and v2 hierarchies. */
import { existsSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";

const top = "/sys/fs/cgroup";
export const cgroupVersion = existsSync(join(top, "cgroup.controllers")) ? 2 : 1;
const hierarchies = [
  "",
  "unified",
  "cpu",
  "cpuacct",
  "cpuset",
  "memory",
  "devices",
  "freezer",
  "blkio",
  "pids",
  "hugetlb",
  "systemd",
];

/** The directory below `parent` whose name has the container's id, in the hierarchy of a v1 controller or in v2's only one. */
export function containerCgroup(parent: string, id: string, controller: string): string | undefined {
  const directory = join(top, cgroupVersion === 2 ? "" : controller, parent);
  const name = existsSync(directory) ? readdirSync(directory).find((entry) => entry.includes(id)) : undefined;
  return name === undefined ? undefined : join(directory, name);
}

/** Content of a control file of the container, trimmed. */
export function cgroupValue(parent: string, id: string, controller: string, file: string): string {
  const directory = containerCgroup(parent, id, controller);
  if (directory === undefined) throw new Error(`container ${id} has no ${controller} cgroup below ${parent}`);
  return readFileSync(join(directory, file), "utf8").trim();
}

/** Pod-level cgroups are the kubelet's to remove; here the suite is the kubelet. */
export function removeCgroups(parent: string): void {
  for (const hierarchy of hierarchies) removeTree(join(top, hierarchy, parent));
}

function removeTree(directory: string): void {
  try {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory()) removeTree(join(directory, entry.name));
    }
    rmdirSync(directory);
  } catch {
    // Missing in this hierarchy, or still busy: the leak check says so.
  }
}
