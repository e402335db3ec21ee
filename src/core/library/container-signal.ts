/** Signals to a container (libcontainer 1.4). */
import type { ContainerAccess } from "./container-access.ts";
import { destroyDeadlineMs, freezeDeadlineMs } from "./deadlines.ts";
import { notRunning } from "./errors.ts";
import { signalExactly } from "./exec-start.ts";
import type { SavedState } from "./saved-state.ts";
import { sigkill, signalNumber } from "./signals.ts";
import { namespaceOf } from "./validate.ts";

/** Does not wait for anybody's end. @throws RuntimeError failed_precondition `container not running`. */
export async function signalContainer(access: ContainerAccess, state: SavedState, signal: number | string): Promise<void> {
  const number = signalNumber(signal);
  const { cgroups, path } = access.cgroup(state);
  const init = access.init(state);
  if (
    number === sigkill &&
    namespaceOf(state.config, "pid")?.path === undefined &&
    namespaceOf(state.config, "pid") !== undefined
  ) {
    if (init === undefined) throw notRunning();
    signalExactly(init, number);
  } else if (number === sigkill && cgroups.directories(path).size > 0) await killAll(access, state);
  else if (init === undefined) throw notRunning();
  else signalExactly(init, number);
  // v1 delivers nothing to what is frozen.
  if (number === sigkill) await cgroups.setFrozen(path, false, AbortSignal.timeout(freezeDeadlineMs));
}

async function killAll(access: ContainerAccess, state: SavedState): Promise<void> {
  const { cgroups, path } = access.cgroup(state);
  const wasAlive = access.init(state) !== undefined;
  if (!wasAlive && (await cgroups.processes(path)).length === 0) throw notRunning();
  await cgroups.kill(path, AbortSignal.timeout(destroyDeadlineMs));
}
