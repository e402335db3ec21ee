/** Cgroups held frozen, or connections held still, by a child of the shim while something is done. */
import type { Plan } from "../plan.ts";
import { nsKind, podPin } from "../plan-schema.ts";
import type { Shim } from "../shim/shim.ts";
import { askToFreeze, isAskedToFreeze } from "./freezer-state.ts";

const held = 2;
/** The guard's own deadline comes first. */
const graceMs = 2000;

/**
 * Whatever happens, to us as well, all are thawed again after `deadlineMs` at the latest; but those that were frozen before: they are
 * frozen again, should CRIU have been killed when it had thawed them.
 */
export async function whileFrozen<T>(
  shim: Shim,
  directories: readonly string[],
  deadlineMs: number,
  work: () => Promise<T>,
): Promise<T> {
  const plan: Plan = [{ op: "hold-frozen", paths: directories, deadlineMs, number: held }];
  const paused = directories.filter(isAskedToFreeze);
  const running = directories.filter((directory) => !paused.includes(directory));
  try {
    return await holding(shim, plan, deadlineMs, "freezing the container", async () => {
      try {
        return await work();
      } catch (error) {
        for (const directory of paused) askToFreeze(directory, true);
        throw error;
      }
    });
  } finally {
    // `work` may have frozen one again (seized-freezer.ts) in the moment when the guard's time was over.
    for (const directory of running) askToFreeze(directory, false);
  }
}

/** Nothing arrives at these ports of the pod's network, at most for `deadlineMs`: connections whose other end is not back yet stay what they are. */
export async function whileConnectionsHeld<T>(shim: Shim, ports: Buffer, deadlineMs: number, work: () => Promise<T>): Promise<T> {
  if (ports.length === 0) return await work();
  const plan: Plan = [
    { op: "join-ns", slot: podPin.net, kind: nsKind.net },
    { op: "hold-network", ports },
    { op: "barrier", number: held },
  ];
  return await holding(shim, plan, deadlineMs, "holding the pod's connections", work);
}

async function holding<T>(shim: Shim, plan: Plan, deadlineMs: number, what: string, work: () => Promise<T>): Promise<T> {
  let outcome: { readonly value: T } | undefined;
  let failure: { readonly error: unknown } | undefined;
  try {
    await shim.run({
      plan: [{ op: "parent-death-signal", signal: 9 }, ...plan],
      cloneKinds: 0,
      deadlineMs: deadlineMs + graceMs,
      what,
      // Must not reject: the child would wait at its barrier for somebody who has gone.
      onBarrier: async () => {
        try {
          outcome = { value: await work() };
        } catch (error) {
          failure = { error };
        }
      },
    });
  } catch (error) {
    throw failure === undefined ? error : failure.error;
  }
  if (outcome === undefined) throw failure?.error;
  return outcome.value;
}
