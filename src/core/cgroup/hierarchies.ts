/** Which cgroup controllers this machine has, and where: v1, v2, or both side by side. */
import { basename } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";

/** One mounted v1 hierarchy. */
export interface Hierarchy {
  /** Without options; a named hierarchy is "name=systemd". */
  readonly controllers: readonly string[];
  /** Where paths begin: the mount point, or a cgroup below it that paths are relative to. */
  readonly mountPoint: string;
  /** Last component of the real mount point, where that is not where paths begin. */
  readonly name?: string;
}

export interface Hierarchies {
  readonly version: "v1" | "v2" | "hybrid";
  /** In the order of the mount table. */
  readonly v1: readonly Hierarchy[];
  readonly unified: UnifiedHierarchy | undefined;
}

export interface UnifiedHierarchy {
  readonly mountPoint: string;
  readonly controllers: ReadonlySet<string>;
  /** The real mount point, where that is not where paths begin. */
  readonly root?: string;
}

/** What a hierarchy is called in /proc/PID/cgroup; "" is v2. */
export function hierarchyKey({ controllers }: Pick<Hierarchy, "controllers">): string {
  return controllers.join(",");
}

/** The same hierarchies with paths that begin at these cgroups, by hierarchyKey (v2: ""). */
export function hierarchiesBelow(hierarchies: Hierarchies, cgroups: ReadonlyMap<string, string>): Hierarchies {
  const at = (key: string, mountPoint: string) => mountPoint + (cgroups.get(key) ?? "").replace(/\/+$/, "");
  const { unified } = hierarchies;
  return {
    version: hierarchies.version,
    v1: hierarchies.v1.map((hierarchy) => ({
      controllers: hierarchy.controllers,
      mountPoint: at(hierarchyKey(hierarchy), hierarchy.mountPoint),
      name: basename(hierarchy.mountPoint),
    })),
    unified:
      unified === undefined
        ? undefined
        : { controllers: unified.controllers, mountPoint: at("", unified.mountPoint), root: unified.mountPoint },
  };
}

/** The cgroups in the text of /proc/PID/cgroup, by hierarchyKey. */
export function parseOwnCgroups(text: string): ReadonlyMap<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, controllers, path] = /^[0-9]+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers !== undefined && path !== undefined) paths.set(controllers, path);
  }
  return paths;
}

/** Words in the options of a v1 mount that are no controllers. */
const mountWords = new Set(["rw", "ro", "noprefix", "clone_children", "xattr", "none", "cpuset_v2_mode", "favordynmods"]);

/** From the text of /proc/self/mountinfo; `controllersOf` reads cgroup.controllers of a v2 mount. */
export async function findHierarchies(
  mountinfo: string,
  controllersOf: (mountPoint: string) => Promise<readonly string[]>,
): Promise<Hierarchies> {
  const v1 = new Map<string, Hierarchy>();
  let unifiedAt: string | undefined;
  for (const line of mountinfo.split("\n")) {
    const [before, after] = line.split(" - ");
    if (after === undefined) continue;
    const [type, , superOptions = ""] = after.split(" ");
    const mountPoint = unescapePath(before?.split(" ")[4] ?? "");
    if (type === "cgroup2") unifiedAt ??= mountPoint;
    if (type !== "cgroup") continue;
    const controllers = superOptions.split(",").filter((word) => !mountWords.has(word) && !word.startsWith("release_agent="));
    // The same hierarchy mounted twice is one hierarchy.
    const key = controllers.join(",");
    if (controllers.length > 0 && !v1.has(key)) v1.set(key, { controllers, mountPoint });
  }
  if (v1.size === 0 && unifiedAt === undefined) {
    throw new RuntimeError("failed_precondition", "no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup");
  }
  const unified =
    unifiedAt === undefined ? undefined : { mountPoint: unifiedAt, controllers: new Set(await controllersOf(unifiedAt)) };
  const version = unified === undefined ? "v1" : v1.size === 0 ? "v2" : "hybrid";
  return { version, v1: [...v1.values()], unified };
}

/** Space, tab, newline and backslash are octal in mountinfo. */
function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

export interface Located {
  readonly version: 1 | 2;
  readonly mountPoint: string;
}

/** Where a controller lives; undefined: nowhere. */
export function locate(hierarchies: Hierarchies, controller: string): Located | undefined {
  const v1 = hierarchies.v1.find(({ controllers }) => controllers.includes(controller));
  if (v1 !== undefined) return { version: 1, mountPoint: v1.mountPoint };
  const { unified } = hierarchies;
  if (unified === undefined) return undefined;
  // cpuacct is a part of every v2 cgroup; freezer and devices too (cgroup.freeze, BPF).
  const builtIn = controller === "cpuacct" || controller === "freezer" || controller === "devices";
  return builtIn || unified.controllers.has(controller) ? { version: 2, mountPoint: unified.mountPoint } : undefined;
}
