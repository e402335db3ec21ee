/** Cgroups held frozen by a child of the shim while something is done. */
import type { Shim } from "../shim/shim.ts";

const held = 2;
/** The guard's own deadline comes first. */
const graceMs = 2000;

/** Whatever happens, to us as well, all are thawed again after `deadlineMs` at the latest; but those that were frozen before. */
export async function whileFrozen<T>(
  shim: Shim,
  directories: readonly string[],
  deadlineMs: number,
  work: () => Promise<T>,
): Promise<T> {
  let outcome: { readonly value: T } | undefined;
  let failure: { readonly error: unknown } | undefined;
  try {
    await shim.run({
      plan: [
        { op: "parent-death-signal", signal: 9 },
        { op: "hold-frozen", paths: directories, deadlineMs, number: held },
      ],
      cloneKinds: 0,
      deadlineMs: deadlineMs + graceMs,
      what: "freezing the container",
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
