import type { OciMount, OciSpec } from "../oci.ts";

/** Whose files have labels of their own, or none. */
const unlabelled = new Set(["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "bind"]);

/** The mounts, those of file systems with the spec's SELinux label. What already says a context keeps it. */
export function labelledMounts({ mounts, linux }: Pick<OciSpec, "mounts" | "linux">): readonly OciMount[] {
  const label = linux.mountLabel ?? "";
  if (label === "") return mounts;
  return mounts.map((mount) => {
    const { type = "bind", options = [] } = mount;
    const isBind = options.includes("bind") || options.includes("rbind");
    if (isBind || unlabelled.has(type) || options.some((word) => word.startsWith("context="))) return mount;
    return { ...mount, options: [...options, `context=${label}`] };
  });
}
