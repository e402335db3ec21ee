/** Where a container's cgroup is when systemd makes it. Pure. */
import { cgroupsPathOfOci, unitAt } from "../cgroup/systemd-names.ts";
import type { CgroupConfig } from "./config.ts";
import { invalidConfig } from "./errors.ts";

const defaultSlice = "system.slice";
const defaultPrefix = "caisson";

/** The path of the scope's cgroup. @throws RuntimeError invalid_argument for what names no scope of systemd in a slice. */
export function scopeAt({ path, parent, name }: CgroupConfig, id: string): string {
  const asked = path || [parent || defaultSlice, defaultPrefix, name || id].join(":");
  if (path && path.split(":").length !== 3)
    throw invalidConfig(
      `expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got ${JSON.stringify(path)} instead`,
    );
  const found = cgroupsPathOfOci(asked);
  if (unitAt(found)?.kind !== "scope")
    throw invalidConfig(
      `cgroup ${JSON.stringify(asked)} is no scope in a slice of systemd, and a container's processes need one`,
    );
  return found;
}
