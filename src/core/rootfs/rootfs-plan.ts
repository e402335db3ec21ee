/**
 * How a container's root is put together, in an order that matters:
 *
 * 1. sources are opened while the mount tree still belongs to the host's peer groups (else rshared could not work);
 * 2. the tree becomes a slave (never private: a container in preparation must not pin the host's mounts), before anything is
 *    attached to it (else the host would see it);
 * 3. root, mounts parents first, device nodes, links;
 * 4. masked and read-only paths, when nothing more is mounted on top of them;
 * 5. pivot; the console; what was writable for the set-up is sealed, the root itself last.
 *
 * Pure: no system call happens here.
 */
import type { OciMount } from "../oci.ts";
import type { Op } from "../plan.ts";
import { attachFlag, openTreeFlag } from "../plan-schema.ts";
import { mountAttr, msRec, propagation } from "./mount-flags.ts";
import { parseMountOptions } from "./mount-options.ts";
import { type MountsInput, planMounts } from "./mount-plan.ts";

export interface DeviceNodeInput {
  readonly path: string;
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
  readonly uid: number;
  readonly gid: number;
  /** The host's node, for a bind where the container may not make nodes. */
  readonly hostPath: string;
}

export interface RootfsInput extends MountsInput {
  /** Slot with the container's root as a detached mount. */
  readonly rootSlot: number;
  /** Host path at which the root is attached, in the container's mount namespace only. */
  readonly attachPath: string;
  readonly readonlyRoot: boolean;
  /** OCI rootfsPropagation: what the container's own root is afterwards. */
  readonly rootPropagation: string | undefined;
  readonly devices: readonly DeviceNodeInput[];
  readonly links: readonly { readonly path: string; readonly target: string }[];
  readonly volumes: readonly { readonly path: string; readonly hostPath: string }[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  /** Made 0755 where it is missing. */
  readonly cwd: string;
}

export interface PlannedRootfs {
  /** In the initial user namespace. */
  readonly outer: readonly Op[];
  /** In the container's mount namespace; ends before pivot. */
  readonly inner: readonly Op[];
  readonly pivot: readonly Op[];
  /** After pivot, and after the console has been attached. */
  readonly seal: readonly Op[];
}

export function planRootfs(input: RootfsInput): PlannedRootfs {
  const mounts = planMounts(input);
  const devices = devIsFromHost(input.mounts) ? { open: [], make: [] } : planDevices(input);
  return {
    outer: [...planVolumes(input), ...mounts.open, ...devices.open],
    inner: [
      { op: "root-propagation", flags: msRec | propagation.slave },
      { op: "attach-root", slot: input.rootSlot, path: input.attachPath },
      ...mounts.attach,
      ...devices.make,
      ...(input.cwd === "/" ? [] : [{ op: "mkdir", path: input.cwd, mode: 0o755, uid: 0, gid: 0, force: 0 } as const]),
      ...unique(input.maskedPaths).map((path): Op => ({ op: "mask", path })),
      ...unique(input.readonlyPaths).map((path): Op => ({ op: "readonly", path })),
    ],
    pivot: [{ op: "pivot" }, ...planOwnPropagation(input.rootPropagation)],
    seal: [
      ...mounts.seal,
      ...(input.readonlyRoot ? [{ op: "remount-attr", path: "/", set: mountAttr.rdonly, clear: 0 } as const] : []),
    ],
  };
}

/** Image content of declared volumes, copied before anything covers it. On the host's side: the volume belongs to the host's root. */
function planVolumes(input: RootfsInput): readonly Op[] {
  if (input.volumes.length === 0) return [];
  const slot = input.slots.take();
  return [
    { op: "use-root", slot: input.rootSlot },
    ...input.volumes.flatMap(({ path, hostPath }): Op[] => [
      { op: "open-host", out: slot, path: hostPath },
      { op: "copy-tree", path, into: slot },
    ]),
  ];
}

function planDevices(input: RootfsInput): { readonly open: readonly Op[]; readonly make: readonly Op[] } {
  const links = input.links.map(({ path, target }): Op => ({ op: "symlink", target, path }));
  if (!input.inUserNamespace) {
    const nodes = input.devices.map(
      ({ path, mode, major, minor, uid, gid }): Op => ({ op: "mknod", path, mode, major, minor, uid, gid }),
    );
    return { open: [], make: [...nodes, ...links] };
  }
  // The kernel makes no device nodes for a user namespace: the host's own are bound.
  const bound = input.devices.map((device) => ({ ...device, slot: input.slots.take() }));
  return {
    open: bound.map(({ hostPath, slot }): Op => ({ op: "open-tree", out: slot, path: hostPath, flags: openTreeFlag.clone })),
    make: [
      ...bound.map(({ path, slot }): Op => ({ op: "attach", slot, path, flags: attachFlag.create | attachFlag.procRule })),
      ...links,
    ],
  };
}

/** A /dev that is the host's own directory is left as it is. */
function devIsFromHost(mounts: readonly OciMount[]): boolean {
  return mounts.some(
    ({ destination, type, options }) =>
      destination.replace(/\/+$/, "") === "/dev" && (type === "bind" || parseMountOptions(options ?? []).bind),
  );
}

function planOwnPropagation(word: string | undefined): readonly Op[] {
  const recursive = word?.startsWith("r") ? msRec : 0;
  const kind = word?.replace(/^r/, "");
  if (kind !== "shared" && kind !== "unbindable") return [];
  return [{ op: "root-propagation", flags: recursive | propagation[kind] }];
}

function unique(paths: readonly string[]): readonly string[] {
  return [...new Set(paths)];
}
