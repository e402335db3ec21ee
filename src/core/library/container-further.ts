/** Further processes of a running container. */
import { openSync } from "node:fs";
import { openFlag } from "../../native/constants.ts";
import { HostRootfs } from "../host-rootfs.ts";
import type { ContainerAccess } from "./container-access.ts";
import { startDeadlineMs } from "./deadlines.ts";
import { describeProcess } from "./describe-process.ts";
import { isPaused, notRunning } from "./errors.ts";
import { startExec } from "./exec-start.ts";
import type { Process } from "./process.ts";
import type { SavedState } from "./saved-state.ts";
import { shapeOf } from "./shape.ts";

/** @throws RuntimeError failed_precondition `container not running`, `container paused`. */
export async function startFurther(access: ContainerAccess, state: SavedState, process: Process): Promise<void> {
  const status = await access.status(state);
  if (status === "paused") throw isPaused();
  const init = access.init(state);
  if (status !== "running" || init === undefined) throw notRunning();
  const shape = state.caisson.shape ?? shapeOf(state.config);
  await using root = new HostRootfs(openSync(`/proc/${init.pid}/root`, openFlag.path | openFlag.directory));
  const running = await startExec({
    machine: access.machine,
    id: access.id,
    config: state.config,
    cgroup: access.cgroup(state),
    shape,
    init,
    shim: await access.needShim(state),
    spec: process.spec,
    process: await describeProcess(access.machine, state.config, process, root),
    signal: AbortSignal.timeout(startDeadlineMs),
  });
  process.started(running);
}
