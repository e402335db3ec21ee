/** Another place for a container's cgroup than below its pod's. */
import { dirname } from "node:path/posix";
import { cgroupsPathOfOci, unitAt } from "../core/cgroup/systemd-names.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import type { CgroupDriver } from "./instance.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, quoted } from "./translate-check.ts";

const longestPath = 3900;
const longestComponent = 255;

/** Below the hierarchy's root; undefined: where the runtime puts it. Also in OCI's form for systemd, SLICE:PREFIX:NAME. */
export function adjustCgroupsPath(asked: string, driver: CgroupDriver): string | undefined {
  if (asked === "") return undefined;
  const what = "cgroups_path of an NRI plugin";
  const path = cleanAbsolutePath(what, cgroupsPathOfOci(asked));
  if (path === "/") throw invalid(`${what} must not be the root cgroup`);
  if (hasControlCharacter(path)) throw invalid(`${what} ${quoted(asked)} contains control characters`);
  if (path.length > longestPath || path.split("/").some((part) => part.length > longestComponent))
    throw invalid(`${what} ${quoted(asked)} is too long`);
  if (driver === "systemd" && unitAt(path)?.kind !== "scope")
    throw invalid(`${what} ${quoted(asked)} is no scope in a slice, which the systemd driver needs: use SLICE:PREFIX:NAME`);
  return path;
}

/**
 * The container's cgroup is killed and removed with it, so it must be its own. In one tick with the record of its place.
 * @throws RuntimeError failed_precondition.
 */
export function checkCgroupPlace(app: CriApp, id: string, path: string): void {
  const within = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(`${outer}/`);
  const refuse = (why: string): never => {
    throw new RuntimeError("failed_precondition", `cgroups_path ${path}, which an NRI plugin wants, cannot be had: ${why}`, {
      id,
    });
  };
  const other = app.containers
    .all()
    .find((record) => record.id !== id && record.cgroupsPath !== "" && within(path, record.cgroupsPath));
  if (other !== undefined) refuse(`it is that of container ${other.id}, or in it`);
  if (app.runtime.cgroupExists(path)) refuse("there is such a cgroup already");
  const parent = dirname(path);
  const made = app.config.cgroupDriver === "systemd" || parent === "/" || app.runtime.cgroupExists(parent);
  if (!made) refuse(`there is no cgroup ${parent} to make it in`);
}
