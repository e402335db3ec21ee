/** Plans of a container's root as a detached mount, before anything is mounted in it. Pure. */
import type { Op, Plan } from "../plan.ts";
import { noSlot, nsKind, openTreeFlag, podPin } from "../plan-schema.ts";
import { propagation } from "../rootfs/mount-flags.ts";
import { planOverlay } from "../rootfs/overlay-plan.ts";
import type { Config } from "./config.ts";

/** A clone stays a peer of its source: without this the host would see every mount that is made in the root. */
export function planTree(path: string, rootPropagation: string | undefined, slot: number, userns = noSlot): readonly Op[] {
  const isPrivate = /^r?private$/.test(rootPropagation ?? "");
  return [
    { op: "open-tree", out: slot, path, flags: openTreeFlag.clone | openTreeFlag.recursive | openTreeFlag.noFollow },
    {
      op: "mount-attr",
      slot,
      set: 0,
      clear: 0,
      propagation: isPrivate ? propagation.private : propagation.slave,
      recursive: 1,
      userns,
    },
  ];
}

/** Sends the root back as the only exported descriptor: one that is id-mapped by the container's user namespace, or made of layers. */
export function planDetachedRoot(config: Config, rootless: boolean): Plan {
  const { rootfs, overlay, idmapRoot = false, mountLabel, rootPropagation } = config;
  const userns = idmapRoot ? podPin.user : undefined;
  if (overlay === undefined) return [...planTree(rootfs, rootPropagation, 0, userns), { op: "export", slot: 0 }];
  const { layers = [], upper = "", work = "" } = overlay;
  const made = planOverlay({
    lowers: [...layers, rootfs],
    upper,
    work,
    ...(mountLabel === undefined ? {} : { mountLabel }),
    // An ordinary user may set no other attributes than "user." ones, which mark what was removed.
    options: rootless ? ["userxattr"] : [],
    userns,
  });
  return rootless ? [...enterUser, ...made] : made;
}

/** Where an ordinary user may mount. */
const enterUser: Plan = [
  { op: "join-ns", slot: podPin.user, kind: nsKind.user },
  { op: "new-ns", kinds: nsKind.mnt },
];
