import type { Op } from "../plan.ts";
import { noSlot, nsKind, openTreeFlag } from "../plan-schema.ts";
import { mountAttr, msRec, propagation } from "./mount-flags.ts";

export interface OverlayInput {
  /** Topmost first. */
  readonly lowers: readonly string[];
  readonly upper: string;
  readonly work: string;
  readonly mountLabel?: string;
  /** Further options of the file system. */
  readonly options?: readonly string[];
  /** Slot of the user namespace by which the lower layers are id-mapped, or undefined. */
  readonly userns: number | undefined;
}

/** Makes a container's root as a detached overlay and sends it back as the only exported descriptor. */
export function planOverlay(input: OverlayInput): readonly Op[] {
  return [
    {
      op: "overlay",
      out: 0,
      lowers: input.lowers,
      upper: input.upper,
      work: input.work,
      options: [...(input.mountLabel ? [`context=${input.mountLabel}`] : []), ...(input.options ?? [])],
      attrs: 0,
      // The kernel cannot id-map an overlay as a whole, only its lower layers; the upper one belongs to the mapped root.
      idmap: input.userns ?? noSlot,
    },
    { op: "export", slot: 0 },
  ];
}

export interface ImageTreeInput {
  /** Topmost first, at least two. */
  readonly lowers: readonly string[];
  readonly userns: number | undefined;
  /** In the image; empty: all of it. */
  readonly path: string;
  /** A host directory that may be covered in a mount namespace of the plan's own. */
  readonly attachPath: string;
}

/** Makes a read-only overlay, or what lies at a path inside it, and sends it back as the only exported descriptor. */
export function planImageTree(input: ImageTreeInput): { readonly cloneKinds: number; readonly plan: readonly Op[] } {
  const overlay: Op = {
    op: "overlay",
    out: 0,
    lowers: input.lowers,
    upper: "",
    work: "",
    options: [],
    attrs: mountAttr.rdonly | mountAttr.nosuid | mountAttr.nodev,
    idmap: input.userns ?? noSlot,
  };
  if (input.path === "") return { cloneKinds: 0, plan: [overlay, { op: "export", slot: 0 }] };
  return {
    cloneKinds: nsKind.mnt,
    plan: [
      { op: "root-propagation", flags: msRec | propagation.slave },
      overlay,
      // Before Linux 6.15 no part of a detached mount can be cloned.
      { op: "attach-root", slot: 0, path: input.attachPath },
      { op: "open-tree", out: 1, path: input.path, flags: openTreeFlag.clone | openTreeFlag.inRoot },
      { op: "export", slot: 1 },
    ],
  };
}
