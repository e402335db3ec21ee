/** Names of systemd's units and where their cgroups are. Pure. */
import { RuntimeError } from "../../lib/errors.ts";

const longestName = 255;
const scope = ".scope";
const slice = ".slice";
const validName = /^[A-Za-z0-9:_.\\-]+$/;

/**
 * Units of containers are named `cri-containerd-ID.scope`: agents that attribute processes to pods by their cgroup know this pattern
 * and `crio-ID.scope`, and no others.
 */
const containerPrefix = "cri-containerd";

/** Cgroup of a container below the cgroup of its slice. */
export function scopePath(slicePath: string, containerId: string): string {
  return `${slicePath}/${containerPrefix}-${containerId}${scope}`;
}

/** `a-b.slice` is `/a.slice/a-b.slice`: dashes separate the levels. `invalid_argument` for what is not the name of a slice. */
export function slicePath(name: string): string {
  const stem = name.endsWith(slice) ? name.slice(0, -slice.length) : "";
  const parts = stem.split("-");
  if (stem === "-") throw new RuntimeError("invalid_argument", "the root slice cannot hold containers");
  if (!validName.test(name) || name.length > longestName || parts.includes("")) {
    throw new RuntimeError("invalid_argument", `${JSON.stringify(name)} is not the name of a systemd slice`);
  }
  return parts.map((_, at) => `/${parts.slice(0, at + 1).join("-")}${slice}`).join("");
}

/** OCI's form for systemd, SLICE:PREFIX:NAME, as a path; a path stays as it is. */
export function cgroupsPathOfOci(path: string): string {
  if (path.startsWith("/")) return path;
  const [parent, prefix, name, ...more] = path.split(":");
  if (parent === undefined || prefix === undefined || name === undefined || name === "" || more.length > 0) return path;
  const unit = name.endsWith(slice) ? name : prefix === "" ? `${name}${scope}` : `${prefix}-${name}${scope}`;
  if (!validName.test(unit) || unit.length > longestName) {
    throw new RuntimeError("invalid_argument", `${JSON.stringify(unit)} is not the name of a systemd unit`);
  }
  return unit.endsWith(slice) ? slicePath(unit) : `${slicePath(parent === "" ? `system${slice}` : parent)}/${unit}`;
}

export type UnitKind = "scope" | "slice";

export interface Unit {
  readonly kind: UnitKind;
  readonly name: string;
  /** Name of the slice that it is in. */
  readonly slice: string;
}

/** The unit whose cgroup is at this clean path; undefined: systemd has none there. */
export function unitAt(path: string): Unit | undefined {
  const parts = path.split("/").slice(1);
  const name = parts.at(-1) ?? "";
  const parent = parts.at(-2) ?? `-${slice}`;
  const below = parts.slice(0, -1).every((part) => part.endsWith(slice));
  if (!below || !validName.test(name)) return undefined;
  if (name.endsWith(slice)) return { kind: "slice", name, slice: parent };
  return name.endsWith(scope) && parts.length > 1 ? { kind: "scope", name, slice: parent } : undefined;
}

/** The id of the container whose cgroup is at this path, with either driver. */
export function containerIdAt(path: string): string {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const stem = name.endsWith(scope) ? name.slice(0, -scope.length) : name;
  return stem.startsWith(`${containerPrefix}-`) ? stem.slice(containerPrefix.length + 1) : stem;
}
