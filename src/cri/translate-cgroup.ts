import { cleanAbsolutePath, hasControlCharacter, invalid, quoted } from "./translate-check.ts";

/** Longest cgroup path below the hierarchy's root that leaves room for a container's id and a file name under PATH_MAX. */
const longestParent = 3800;
const longestComponent = 255;

/** Cgroup path of the pod: the kubelet's unchanged, else one of ours. systemd's slices are refused while the driver is cgroupfs. */
export function resolveCgroupParent(
  asked: string,
  podId: string,
): { readonly cgroupParent: string; readonly ownsCgroupParent: boolean } {
  if (asked === "") return { cgroupParent: `/caisson/pods/${podId}`, ownsCgroupParent: true };
  const parent = cleanAbsolutePath("cgroup_parent", asked.startsWith("/") ? asked : `/${asked}`);
  if (hasControlCharacter(parent)) throw invalid(`cgroup_parent ${quoted(asked)} contains control characters`);
  if (parent.endsWith(".slice")) {
    throw invalid(
      `cgroup_parent ${quoted(asked)} is a systemd slice, but this node's cgroup driver is cgroupfs: ` +
        `set "cgroupDriver: cgroupfs" in the kubelet's configuration and restart it`,
    );
  }
  if (parent === "/") throw invalid("cgroup_parent must not be the root cgroup");
  if (parent.length > longestParent || parent.split("/").some((part) => part.length > longestComponent)) {
    throw invalid(`cgroup_parent ${quoted(asked)} is too long`);
  }
  return { cgroupParent: parent, ownsCgroupParent: false };
}

/** 64-hex id as the last component: cAdvisor and agents find containers by it. */
export function containerCgroup(cgroupParent: string, containerId: string): string {
  return `${cgroupParent}/${containerId}`;
}
