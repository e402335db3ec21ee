import { join } from "node:path/posix";
import type { OciMount } from "../oci.ts";
import type { Op } from "../plan.ts";
import { attachFlag, noSlot, openTreeFlag } from "../plan-schema.ts";
import type { PlanSlots } from "../plan-slots.ts";
import { mountAttr, propagation } from "./mount-flags.ts";
import type { MountOptions } from "./mount-options.ts";

/**
 * What a container sees at /sys/fs/cgroup. fresh: a mount of its own cgroup namespace (v2). tree: one directory of the host,
 * for the host's cgroup namespace on v2. hierarchies: one directory per v1 hierarchy (and the unified one of a hybrid host) in a
 * tmpfs, with links for controllers that share a hierarchy; `shared`: the container has no cgroup namespace of its own.
 */
export type CgroupMountSource =
  | { readonly kind: "fresh" }
  | { readonly kind: "tree"; readonly hostPath: string }
  | {
      readonly kind: "hierarchies";
      readonly shared: boolean;
      readonly entries: readonly { readonly name: string; readonly hostPath: string }[];
      readonly links: readonly { readonly name: string; readonly target: string }[];
    };

interface Context {
  readonly slots: PlanSlots;
  readonly scratch: number;
  readonly inUserNamespace: boolean;
}

export interface PlannedCgroupMount {
  readonly open: readonly Op[];
  readonly attach: readonly Op[];
  readonly seal: readonly Op[];
}

const target = attachFlag.create | attachFlag.procRule;

export function planCgroupMount(
  mount: OciMount,
  options: MountOptions,
  source: CgroupMountSource,
  context: Context,
): PlannedCgroupMount {
  const { destination } = mount;
  // Cgroups of the host belong to uids of the host, which a mapping may contain: its root would change them (CVE-2023-25809).
  const guarded = context.inUserNamespace && source.kind !== "fresh" && (source.kind === "tree" || source.shared);
  const set = options.attrs.set | (guarded ? mountAttr.rdonly : 0);
  if (source.kind === "fresh") {
    return {
      open: [],
      attach: [
        { op: "fsmount", out: context.scratch, type: "cgroup2", source: "cgroup", options: [], attrs: set },
        { op: "attach", slot: context.scratch, path: destination, flags: target },
      ],
      seal: [],
    };
  }
  if (source.kind === "tree") {
    // Not a mount of its own: in the initial cgroup namespace that would reset the hierarchy's options, such as nsdelegate.
    const slot = context.inUserNamespace ? context.slots.take() : context.scratch;
    const opened = openDirectory(source.hostPath, slot, set);
    const attached: Op = { op: "attach", slot, path: destination, flags: target };
    return context.inUserNamespace
      ? { open: opened, attach: [attached], seal: [] }
      : { open: [], attach: [...opened, attached], seal: [] };
  }
  return planHierarchies(destination, set, source, context);
}

function planHierarchies(
  destination: string,
  set: number,
  source: Extract<CgroupMountSource, { kind: "hierarchies" }>,
  context: Context,
): PlannedCgroupMount {
  const open: Op[] = [];
  const attrs = set & ~mountAttr.rdonly;
  const attach: Op[] = [
    { op: "fsmount", out: context.scratch, type: "tmpfs", source: "tmpfs", options: ["mode=755"], attrs },
    { op: "attach", slot: context.scratch, path: destination, flags: target },
  ];
  for (const { name, hostPath } of source.entries) {
    const slot = context.inUserNamespace ? context.slots.take() : context.scratch;
    (context.inUserNamespace ? open : attach).push(...openDirectory(hostPath, slot, set));
    attach.push({ op: "attach", slot, path: join(destination, name), flags: target });
  }
  for (const { name, target: to } of source.links) attach.push({ op: "symlink", target: to, path: join(destination, name) });
  const sealed = (set & mountAttr.rdonly) !== 0;
  return { open, attach, seal: sealed ? [{ op: "remount-attr", path: destination, set: mountAttr.rdonly, clear: 0 }] : [] };
}

function openDirectory(path: string, slot: number, set: number): readonly Op[] {
  return [
    { op: "open-tree", out: slot, path, flags: openTreeFlag.clone },
    { op: "mount-attr", slot, set, clear: 0, propagation: propagation.private, recursive: 0, userns: noSlot },
  ];
}
