/** Exits and states as the shim tells them, in the core's words. */
import type { ContainerExit, ContainerState } from "./runtime.ts";
import type { RecordOfMessage } from "./shim/codec.ts";
import { shimPhase } from "./shim/messages.ts";
import { readWaitStatus } from "./shim/wait-status.ts";

type Told = Pick<RecordOfMessage<"exit">, "id" | "status" | "atNs" | "startedAtNs" | "oomKilled" | "logDroppedBytes">;

export function exitOf(told: Told): ContainerExit {
  const ending = readWaitStatus(told.status);
  return {
    containerId: told.id,
    ...ending,
    oomKilled: told.oomKilled !== 0,
    finishedAtNs: told.atNs,
    startedAtNs: told.startedAtNs,
    logDroppedBytes: told.logDroppedBytes,
  };
}

const phases = new Map<number, ContainerState["phase"]>(
  Object.entries(shimPhase).map(([name, number]) => [number, name as ContainerState["phase"]]),
);

export function stateOf(told: RecordOfMessage<"container-state">): ContainerState {
  const phase = phases.get(told.phase) ?? "exited";
  return {
    id: told.id,
    phase,
    process: { pid: told.pid, startTicks: told.startTicks },
    startedAtNs: told.startedAtNs,
    exit: phase === "exited" ? exitOf({ ...told, atNs: told.exitedAtNs }) : undefined,
  };
}
