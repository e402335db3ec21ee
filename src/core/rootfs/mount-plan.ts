/**
 * Mounts of a container in the order of the kernel's work: what must be opened ahead, what is mounted and attached, and what is
 * made read-only last. Pure: no system call happens here.
 */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciMount } from "../oci.ts";
import type { Op } from "../plan.ts";
import { attachFlag, noSlot, openTreeFlag } from "../plan-schema.ts";
import type { PlanSlots } from "../plan-slots.ts";
import { type CgroupMountSource, planCgroupMount } from "./cgroup-mount.ts";
import { mountAttr, propagation } from "./mount-flags.ts";
import { changesAttrs, type MountOptions, parseMountOptions } from "./mount-options.ts";

/**
 * Where a container's procfs comes from. fresh: mounted by the container's own plan. tree, slot: of a PID namespace that the process
 * will enter last, on kernels (before 6.17) where only a process inside can mount it: a copy of one that was mounted when nobody who
 * could trace that process was there yet.
 */
export type ProcSource =
  | { readonly kind: "fresh" }
  | { readonly kind: "tree"; readonly hostPath: string }
  | { readonly kind: "slot"; readonly slot: number };

export interface MountsInput {
  readonly mounts: readonly OciMount[];
  /** Everything from the host must then be opened in the initial user namespace, before the container's own is joined. */
  readonly inUserNamespace: boolean;
  /** Slot of the user namespace for id-mapped mounts, by the mount: undefined when none fits. */
  readonly idmapSlot: (mount: OciMount) => number | undefined;
  /** Slot of the mount's content where that came with the request, as a detached mount. */
  readonly treeSlot: (mount: OciMount) => number | undefined;
  readonly cgroup: CgroupMountSource;
  readonly proc: ProcSource;
  readonly slots: PlanSlots;
}

export interface PlannedMounts {
  /** Opens sources; while the mount tree is still in the host's peer groups and user namespace. */
  readonly open: readonly Op[];
  /** Parents before children. */
  readonly attach: readonly Op[];
  /** File systems that must be writable until everything in them is made. */
  readonly seal: readonly Op[];
}

/** Beyond this many sources private ones are opened only when they are attached, so that slots suffice for any number. */
const leastFreeSlots = 12;
/** An image's symlink at /proc or /sys would put the tree, and later the LSM label, somewhere else (CVE-2019-19921). */
const ordinaryDirectory = attachFlag.create | attachFlag.fresh;
/** Makes a missing target; procfs paths only as the over-mount rule allows (security: CVE-2019-16884, CVE-2021-30465). */
const bindTarget = attachFlag.create | attachFlag.procRule;

export function planMounts(input: MountsInput): PlannedMounts {
  const open: Op[] = [];
  const attach: Op[] = [];
  const seal: Op[] = [];
  const scratch = input.slots.take();
  for (const mount of shallowFirst(input.mounts)) {
    const options = parseMountOptions(mount.options ?? []);
    const tree = input.treeSlot(mount);
    if (tree !== undefined) {
      open.push(mountAttrOp(tree, options.attrs, propagation.private, false, noSlot));
      attach.push({ op: "attach", slot: tree, path: mount.destination, flags: bindTarget });
    } else if (options.bind || mount.type === "bind") {
      const ahead = input.inUserNamespace || keepsPeers(options) || input.slots.free > leastFreeSlots;
      const slot = ahead ? input.slots.take() : scratch;
      (ahead ? open : attach).push(...openBind(mount, options, slot, input));
      attach.push({ op: "attach", slot, path: mount.destination, flags: bindTarget });
    } else if (mount.type === "cgroup" || mount.type === "cgroup2") {
      const planned = planCgroupMount(mount, options, input.cgroup, { ...input, scratch });
      open.push(...planned.open);
      attach.push(...planned.attach);
      seal.push(...planned.seal);
    } else if (mount.type === "proc" && input.proc.kind !== "fresh") {
      const slot = input.proc.kind === "slot" ? input.proc.slot : input.slots.take();
      open.push(...openProc(input.proc, slot, options));
      attach.push({ op: "attach", slot, path: mount.destination, flags: ordinaryDirectory });
    } else {
      attach.push(...planFilesystem(mount, options, scratch));
      if (sealedLater(mount, options))
        seal.push({ op: "remount-attr", path: mount.destination, set: mountAttr.rdonly, clear: 0 });
    }
  }
  return { open, attach, seal };
}

function openBind(mount: OciMount, options: MountOptions, slot: number, input: MountsInput): readonly Op[] {
  if (mount.source === undefined || !mount.source.startsWith("/")) {
    throw new RuntimeError("invalid_argument", `mount source ${JSON.stringify(mount.source ?? "")} is not an absolute path`);
  }
  const ops: Op[] = [
    {
      op: "open-tree",
      out: slot,
      path: mount.source,
      flags: openTreeFlag.clone | (options.recursive ? openTreeFlag.recursive : 0),
    },
  ];
  // A clone stays a peer of its source. Without a word about propagation the host must not see the container's mounts.
  const wanted = options.propagation.length > 0 ? options.propagation : [{ type: propagation.slave, recursive: true }];
  for (const { type, recursive } of wanted) ops.push(mountAttrOp(slot, { set: 0, clear: 0 }, type, recursive, noSlot));
  if (changesAttrs(options.attrs)) ops.push(mountAttrOp(slot, options.attrs, 0, false, noSlot));
  if (changesAttrs(options.recursiveAttrs)) ops.push(mountAttrOp(slot, options.recursiveAttrs, 0, true, noSlot));
  if (options.idmap !== undefined || mount.uidMappings !== undefined || mount.gidMappings !== undefined) {
    const userns = input.idmapSlot(mount);
    if (userns === undefined) {
      throw new RuntimeError("invalid_argument", `mount ${mount.destination} asks for id mappings but has no mappings to use`);
    }
    ops.push(mountAttrOp(slot, { set: 0, clear: 0 }, 0, options.idmap?.recursive ?? false, userns));
  }
  return ops;
}

function openProc(source: ProcSource, slot: number, options: MountOptions): readonly Op[] {
  const opened: readonly Op[] =
    source.kind === "tree" ? [{ op: "open-tree", out: slot, path: source.hostPath, flags: openTreeFlag.clone }] : [];
  return [...opened, mountAttrOp(slot, options.attrs, propagation.private, false, noSlot)];
}

function mountAttrOp(slot: number, attrs: { set: number; clear: number }, type: number, recursive: boolean, userns: number): Op {
  return { op: "mount-attr", slot, set: attrs.set, clear: attrs.clear, propagation: type, recursive: recursive ? 1 : 0, userns };
}

function planFilesystem(mount: OciMount, options: MountOptions, slot: number): readonly Op[] {
  const type = mount.type;
  if (type === undefined || type === "" || type === "none") {
    throw new RuntimeError("invalid_argument", `mount ${mount.destination} has neither a type nor the option bind`);
  }
  const kernelTree = type === "proc" || type === "sysfs";
  const attrs = sealedLater(mount, options) ? options.attrs.set & ~mountAttr.rdonly : options.attrs.set;
  const ops: Op[] = [{ op: "fsmount", out: slot, type, source: mount.source || type, options: options.data, attrs }];
  for (const { type: kind, recursive } of options.propagation) {
    ops.push(mountAttrOp(slot, { set: 0, clear: 0 }, kind, recursive, noSlot));
  }
  if (options.copyUp) ops.push({ op: "copy-tree", path: mount.destination, into: slot });
  ops.push({
    op: "attach",
    slot,
    path: mount.destination,
    flags: kernelTree ? ordinaryDirectory : bindTarget,
  });
  return ops;
}

/** tmpfs gets its content (mount points, device nodes) while it is writable. */
function sealedLater(mount: OciMount, options: MountOptions): boolean {
  return mount.type === "tmpfs" && (options.attrs.set & mountAttr.rdonly) !== 0;
}

/** A mount that stays in its peer group must be cloned before the tree is made a slave. */
function keepsPeers(options: MountOptions): boolean {
  return options.propagation.some(({ type }) => type === propagation.shared);
}

/** Parents before children; equals keep their order. */
function shallowFirst(mounts: readonly OciMount[]): readonly OciMount[] {
  return mounts.toSorted((a, b) => depth(a.destination) - depth(b.destination));
}

function depth(path: string): number {
  return path.split("/").filter((part) => part !== "" && part !== ".").length;
}
