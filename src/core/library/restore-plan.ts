/**
 * The plan of CRIU as it restores a library container. The same tree is built as for a start, so that whatever is mounted, masked or
 * read-only is what the configuration says; then each mount from outside is put where CRIU finds it, and the bare root again in place
 * of the tree. Pure.
 */
import { planBareRoot, planExternals } from "../criu/restore-tree.ts";
import type { Op, Plan } from "../plan.ts";
import { nsKind } from "../plan-schema.ts";
import { PlanSlots } from "../plan-slots.ts";
import type { NamespaceType } from "./config.ts";
import { type InitPlanInput, joinOrder, planCgroupBarrier, planRoot } from "./init-plan.ts";
import type { Shape } from "./shape.ts";

export interface RestorePlanInput extends InitPlanInput {
  readonly externalMounts: readonly string[];
  /** A directory of the host that exists. */
  readonly externalsPath: string;
}

const sigkill = 9;

/** Kinds that a checkpoint leaves out: they are the pod's, or made anew as for a start. The others are the container's alone. */
export function outsideKinds(shape: Shape): number {
  const kinds: readonly NamespaceType[] = ["net", "cgroup", "ipc", "uts"];
  return kinds
    .filter((type) => (type === "net" || type === "cgroup" ? shape[type] !== "shared" : shape[type] === "joined"))
    .reduce((bits, type) => bits | nsKind[type], 0);
}

export function planRestore(input: RestorePlanInput): { readonly cloneKinds: number; readonly plan: Plan } {
  const { shape, joined, oci, attachPath } = input;
  const slots = new PlanSlots(input.receivedSlots);
  const scratch = slots.take();
  const root = planRoot(input, slots);
  const made = (type: NamespaceType) => (shape[type] === "new" ? nsKind[type] : 0);
  return {
    cloneKinds: nsKind.mnt | made("net"),
    plan: [
      { op: "parent-death-signal", signal: sigkill },
      { op: "clean-start" },
      ...planCgroupBarrier(input),
      ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
      ...root.outer,
      ...joinOrder.flatMap((type): Op[] => {
        const slot = joined.get(type);
        return slot === undefined ? [] : [{ op: "join-ns", slot, kind: nsKind[type] }];
      }),
      // After the last attach: it is the root of what the container sees.
      ...(shape.cgroup === "new" ? [{ op: "new-ns", kinds: nsKind.cgroup } as const] : []),
      ...(input.loopback ? [{ op: "loopback-up" } as const] : []),
      // The others are in the images, with their namespaces.
      ...[...input.sysctls].filter(([key]) => key.startsWith("net/")).map(([key, value]): Op => ({ op: "sysctl", key, value })),
      ...root.inner,
      ...planExternals(input.externalMounts, input.externalsPath, scratch),
      ...planBareRoot(attachPath, scratch, oci.root.readonly === true),
    ],
  };
}
