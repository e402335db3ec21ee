/** From the tree of a start to what CRIU wants: mounts from outside within its reach, and a bare root. Pure. */
import type { Op, Plan } from "../plan.ts";
import { noSlot, openTreeFlag } from "../plan-schema.ts";

/** At which the tree is as a start would make it. */
export const treeBarrier = 101;
const detach = 2;
const rdonlyAttr = 1;
const msPrivate = 1 << 18;

/** Exposes mounts by number in a directory of the host that exists; nobody else sees it. */
export function planExternals(mountPoints: readonly string[], directory: string, scratchSlot: number): Plan {
  return [
    { op: "barrier", number: treeBarrier },
    { op: "fsmount", out: scratchSlot, type: "tmpfs", source: "criu", options: ["mode=700"], attrs: 0 },
    { op: "attach-host", slot: scratchSlot, path: directory },
    ...mountPoints.map((path, index): Op => ({ op: "expose", path, directory, name: String(index) })),
  ];
}

/** Every mount point has been made by now. CRIU mounts the rest itself. */
export function planBareRoot(path: string, slot: number, readonly: boolean): Plan {
  return [
    { op: "open-tree", out: slot, path, flags: openTreeFlag.clone },
    {
      op: "mount-attr",
      slot,
      set: readonly ? rdonlyAttr : 0,
      clear: 0,
      propagation: msPrivate,
      recursive: 0,
      userns: noSlot,
    },
    { op: "unmount", path, flags: detach },
    { op: "attach-root", slot, path },
  ];
}
