/** Where a cgroup is in each hierarchy, and what others need to know of it. Pure. */
import { basename } from "node:path/posix";
import { type Hierarchies, locate } from "./hierarchies.ts";

export interface CgroupPlace {
  /** Path below each hierarchy's root. */
  readonly path: string;
  readonly v1: readonly { readonly controllers: readonly string[]; readonly directory: string }[];
  /** Directory on v2, or undefined. */
  readonly unified: string | undefined;
}

export function placeOf(hierarchies: Hierarchies, path: string): CgroupPlace {
  return {
    path,
    v1: hierarchies.v1.map(({ controllers, mountPoint }) => ({ controllers, directory: mountPoint + path })),
    unified: hierarchies.unified === undefined ? undefined : hierarchies.unified.mountPoint + path,
  };
}

export function directoriesOf(place: CgroupPlace): readonly string[] {
  return [...(place.unified === undefined ? [] : [place.unified]), ...place.v1.map(({ directory }) => directory)];
}

/** Files by which a process moves itself, for v1; v2 takes it at its birth. */
export function taskFilesOf(place: CgroupPlace): readonly string[] {
  return place.v1.map(({ directory }) => `${directory}/tasks`);
}

/** Directory of a controller. */
export function directoryOf(
  hierarchies: Hierarchies,
  place: CgroupPlace,
  controller: string,
): { readonly version: 1 | 2; readonly directory: string } | undefined {
  const located = locate(hierarchies, controller);
  return located === undefined ? undefined : { version: located.version, directory: located.mountPoint + place.path };
}

/** Those that can kill or freeze first: v2 by cgroup.kill, v1 by its freezer. */
export function killPathsOf(place: CgroupPlace): readonly string[] {
  const freezer = place.v1.find(({ controllers }) => controllers.includes("freezer"));
  return [place.unified, freezer?.directory].filter((path) => path !== undefined);
}

/** What tells about OOM kills: memory.events of v2, or the v1 memory directory; empty: nothing does. */
export function oomPathOf(hierarchies: Hierarchies, place: CgroupPlace): string {
  const memory = directoryOf(hierarchies, place, "memory");
  if (memory === undefined) return "";
  return memory.version === 2 ? `${memory.directory}/memory.events` : memory.directory;
}

/** What a container sees of itself below /sys/fs/cgroup where it has no cgroup namespace of its own. */
export interface HierarchyMounts {
  readonly entries: readonly { readonly name: string; readonly hostPath: string }[];
  /** Names of controllers that share a hierarchy. */
  readonly links: readonly { readonly name: string; readonly target: string }[];
}

export function hierarchyMounts(hierarchies: Hierarchies, place: CgroupPlace): HierarchyMounts {
  const names = hierarchies.v1.map(({ name, mountPoint }) => name ?? basename(mountPoint));
  const unified = hierarchies.unified;
  return {
    entries: [
      ...place.v1.map(({ directory }, at) => ({ name: names[at] ?? "", hostPath: directory })),
      ...(unified === undefined || place.unified === undefined
        ? []
        : [{ name: basename(unified.root ?? unified.mountPoint), hostPath: place.unified }]),
    ],
    links: hierarchies.v1.flatMap(({ controllers }, at) =>
      controllers
        .filter((name) => !name.startsWith("name=") && !names.includes(name))
        .map((name) => ({ name, target: names[at] ?? "" })),
    ),
  };
}
