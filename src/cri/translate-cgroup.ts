import { scopePath, slicePath } from "../core/cgroup/systemd-names.ts";
import type { CgroupDriver } from "./instance.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, quoted } from "./translate-check.ts";

interface CgroupParent {
  readonly cgroupParent: string;
  readonly ownsCgroupParent: boolean;
}

/** Longest cgroup path below the hierarchy's root that leaves room for a container's id and a file name under PATH_MAX. */
const longestParent = 3800;
const longestComponent = 255;

/** Cgroup path of the pod: the kubelet's, else one of ours. A parent that is meant for the other driver is refused. */
export function resolveCgroupParent(asked: string, podId: string, driver: CgroupDriver): CgroupParent {
  return driver === "systemd" ? sliceParent(asked, podId) : plainParent(asked, podId);
}

function plainParent(asked: string, podId: string): CgroupParent {
  if (asked === "") return { cgroupParent: `/caisson/pods/${podId}`, ownsCgroupParent: true };
  const parent = clean(asked);
  if (parent.endsWith(".slice")) {
    throw invalid(
      `cgroup_parent ${quoted(asked)} is a systemd slice, but this node's cgroup driver is cgroupfs: ` +
        `set "cgroupDriver: cgroupfs" in the kubelet's configuration and restart it, or runtime.cgroup_driver to "systemd" here`,
    );
  }
  if (parent === "/") throw invalid("cgroup_parent must not be the root cgroup");
  return { cgroupParent: parent, ownsCgroupParent: false };
}

/** The kubelet gives a whole path or the slice alone; the slice's name says where it is. */
function sliceParent(asked: string, podId: string): CgroupParent {
  if (asked === "") return { cgroupParent: slicePath(`caisson-pod${podId}.slice`), ownsCgroupParent: true };
  const parent = clean(asked);
  if (!parent.endsWith(".slice")) {
    throw invalid(
      `cgroup_parent ${quoted(asked)} is no systemd slice, but this node's cgroup driver is systemd: ` +
        `set "cgroupDriver: systemd" in the kubelet's configuration and restart it, or runtime.cgroup_driver to "cgroupfs" here`,
    );
  }
  return { cgroupParent: slicePath(parent.slice(parent.lastIndexOf("/") + 1)), ownsCgroupParent: false };
}

function clean(asked: string): string {
  const parent = cleanAbsolutePath("cgroup_parent", asked.startsWith("/") ? asked : `/${asked}`);
  if (hasControlCharacter(parent)) throw invalid(`cgroup_parent ${quoted(asked)} contains control characters`);
  if (parent.length > longestParent || parent.split("/").some((part) => part.length > longestComponent)) {
    throw invalid(`cgroup_parent ${quoted(asked)} is too long`);
  }
  return parent;
}

/** The 64-hex id is in the last component: cAdvisor and agents find containers by it. */
export function containerCgroup(cgroupParent: string, containerId: string): string {
  return cgroupParent.endsWith(".slice") ? scopePath(cgroupParent, containerId) : `${cgroupParent}/${containerId}`;
}
