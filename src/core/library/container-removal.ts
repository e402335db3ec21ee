/** What is left of a container, taken away. */
import { leaveResctrl } from "../resctrl.ts";
import type { ContainerAccess } from "./container-access.ts";
import { removeCgroup } from "./container-cgroup.ts";
import { removeContainerShim } from "./container-shim.ts";
import { destroyDeadlineMs } from "./deadlines.ts";
import { isPaused, stillRunning } from "./errors.ts";
import type { SavedState } from "./saved-state.ts";

/** All but its directory. @throws RuntimeError failed_precondition `container still running`, `container paused`. */
export async function takeDown(access: ContainerAccess, state: SavedState): Promise<void> {
  const status = await access.status(state);
  if (status === "running") throw stillRunning();
  const cgroup = access.cgroup(state);
  const signal = AbortSignal.timeout(destroyDeadlineMs);
  if (status === "paused") {
    if (access.init(state) !== undefined) throw isPaused();
    await cgroup.cgroups.setFrozen(cgroup.path, false, signal);
  }
  await endHelper(access, state);
  await removeCgroup(cgroup, state.caisson.made_parents, signal);
  leaveResctrl(access.id, state.config.intelRdt);
}

/** With whatever it has started. Before the first process there is one only if a start was killed half-way. Whether there was one. */
export async function endHelper(access: ContainerAccess, state: SavedState): Promise<boolean> {
  const link = await access.link(state);
  access.release();
  const { machine, directory } = access;
  await removeContainerShim(machine, directory, state.caisson.shim_id, link, AbortSignal.timeout(destroyDeadlineMs));
  return link !== undefined;
}
