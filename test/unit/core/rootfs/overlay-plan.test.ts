import { describe, expect, it } from "vitest";
import { podPin } from "../../../../src/core/plan-schema.ts";
import { planImageTree } from "../../../../src/core/rootfs/overlay-plan.ts";

const input = { lowers: ["/l/2", "/l/1"], userns: undefined, path: "", attachPath: "/run/caisson/containers" };

describe("the tree of an image", () => {
  it("is a detached overlay without a writable layer, read-only from the start", () => {
    const { plan, cloneKinds } = planImageTree(input);
    expect(cloneKinds).toBe(0);
    expect(plan).toMatchObject([
      { op: "overlay", lowers: ["/l/2", "/l/1"], upper: "", work: "", attrs: 0x7, idmap: 0xffff_ffff },
      { op: "export", slot: 0 },
    ]);
  });

  it("has its layers mapped by the pod's user namespace", () => {
    expect(planImageTree({ ...input, userns: podPin.user }).plan[0]).toMatchObject({ idmap: podPin.user });
  });

  it("has its parts found inside itself, where the host does not see it", () => {
    const { plan, cloneKinds } = planImageTree({ ...input, path: "a/b" });
    expect(cloneKinds).toBe(0x20000);
    expect(plan.map(({ op }) => op)).toEqual(["root-propagation", "overlay", "attach-root", "open-tree", "export"]);
    // Slave and recursive; clone, resolved in the root.
    expect(plan[0]).toMatchObject({ flags: (1 << 19) | 0x4000 });
    expect(plan[3]).toMatchObject({ path: "a/b", flags: 1 | 8 });
  });
});
