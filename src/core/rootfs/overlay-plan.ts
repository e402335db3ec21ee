import type { Op } from "../plan.ts";
import { noSlot } from "../plan-schema.ts";

export interface OverlayInput {
  /** Topmost first. */
  readonly lowers: readonly string[];
  readonly upper: string;
  readonly work: string;
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
      options: [],
      attrs: 0,
      // The kernel cannot id-map an overlay as a whole, only its lower layers; the upper one belongs to the mapped root.
      idmap: input.userns ?? noSlot,
    },
    { op: "export", slot: 0 },
  ];
}
