/** When the hooks of the runtime's namespaces run in a container's life; those inside the container are in its plan (init-plan.ts). */
import { runHooks, runPoststopHooks } from "../hooks.ts";
import { hookStateOf } from "./oci-state.ts";
import type { SavedState } from "./saved-state.ts";

/** A failure ends the container by `kill` (runtime-spec 1.3, "Lifecycle" 10). */
export async function runPoststart(
  { id, config, init_process_pid: pid }: SavedState,
  signal: AbortSignal,
  kill: () => Promise<void>,
): Promise<void> {
  try {
    await runHooks("poststart", config.hooks, hookStateOf(id, config), { status: "running", pid }, signal);
  } catch (error) {
    await kill();
    throw error;
  }
}

export async function runPoststop({ id, config }: SavedState, signal: AbortSignal): Promise<void> {
  await runPoststopHooks(config.hooks, hookStateOf(id, config), signal, ({ message }) => {
    process.emitWarning(`container ${id}: ${message}`);
  });
}
