/**
 * Cgroups for a process without power over the machine's: where somebody has handed a cgroup over (v2: delegation, cgroups(7); v1: a
 * directory that belongs to the user), there; else in no cgroup but the caller's own.
 */
import { accessSync, constants, existsSync } from "node:fs";
import { dirname } from "node:path/posix";
import { messageOf, RuntimeError } from "../../lib/errors.ts";
import type { Hierarchies } from "../cgroup/hierarchies.ts";
import type { Config } from "./config.ts";

export const noHierarchies = ({ version }: Hierarchies): Hierarchies => ({ version, v1: [], unified: undefined });

/** Those in which a cgroup at `path` can be made and entered. `own`: the caller's cgroups by hierarchyKey, from the real mount points. */
export function delegatedAt(hierarchies: Hierarchies, path: string, own: ReadonlyMap<string, string>): Hierarchies {
  const { version, v1, unified } = hierarchies;
  return {
    version,
    v1: v1.filter(({ mountPoint }) => isOurs(mountPoint + path)),
    unified: unified !== undefined && isOurs(unified.mountPoint + path) && mayMove(unified, path, own) ? unified : undefined,
  };
}

/** The deepest directory that exists belongs to us, in effect. */
function isOurs(directory: string): boolean {
  let at = directory;
  while (!existsSync(at)) at = dirname(at);
  return isWritable(at);
}

/** v2 asks for more: cgroup.procs of what the old and the new cgroup have in common (cgroup-v2, "Delegation Containment"). */
function mayMove(
  { mountPoint, root = mountPoint }: NonNullable<Hierarchies["unified"]>,
  path: string,
  own: ReadonlyMap<string, string>,
) {
  const from = `${root}${own.get("") ?? ""}/`;
  let common = mountPoint + path;
  while (!existsSync(common) || !from.startsWith(`${common.replace(/\/+$/, "")}/`)) {
    if (common === "/") return false;
    common = dirname(common);
  }
  return isWritable(`${common}/cgroup.procs`);
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

const remedy =
  "limits need a cgroup that belongs to the user: on cgroup v2 one that systemd delegates (systemd-run --user --scope -p Delegate=yes), " +
  "on v1 a directory of each hierarchy that root gives away by chown, named by the cgroup's path";

/** Device rules are no limit here: nobody but root can open more than the nodes that it could open before. */
export function asksForLimits({ cgroups }: Config): boolean {
  const { devices: _, ...resources } = cgroups?.resources ?? {};
  return hasValue(resources);
}

function hasValue(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return value !== undefined && value !== null;
  return Object.values(value).some(hasValue);
}

/** @throws RuntimeError failed_precondition for limits, or a place, that nobody has handed over. */
export function refuseUndelegated(config: Config, found: Hierarchies): void {
  if (found.v1.length > 0 || found.unified !== undefined) return;
  const { path, name, parent } = config.cgroups ?? {};
  const place = path || name || parent;
  if (place)
    throw new RuntimeError("failed_precondition", `the cgroup ${place} cannot be made: no hierarchy is handed over; ${remedy}`);
  if (asksForLimits(config)) throw new RuntimeError("failed_precondition", `the cgroup's resources cannot be limited: ${remedy}`);
}

export function withRemedy(error: unknown): Error {
  return new RuntimeError("failed_precondition", `${messageOf(error)}; ${remedy}`, {}, error);
}
