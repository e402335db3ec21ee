import type { ContainerState, Pod } from "../core/runtime.ts";
import { messageOf } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { resumeStop } from "./container-end.ts";
import { containerExited } from "./container-exit.ts";
import { forgetContainer, removeTraces } from "./container-remove.ts";
import { advanceContainer } from "./container-state.ts";
import { takeExit } from "./pod-supervision.ts";
import type { ContainerRecord } from "./records.ts";
import { decideContainer } from "./recovery-decisions.ts";
import { containerCgroup } from "./translate-cgroup.ts";

const deadlineMs = 60_000;

/** For a pod whose helper answers: brings each record in line with what the helper says. */
export async function recoverContainers(app: CriApp, pod: Pod, records: readonly ContainerRecord[]): Promise<void> {
  const states = new Map((await pod.list()).map((state) => [state.id, state]));
  await Promise.all(records.map((record) => recoverContainer(app, pod, record, states.get(record.id))));
  const known = new Set(records.map((record) => record.id));
  await Promise.all(
    [...states.values()].filter((state) => !known.has(state.id)).map((state) => recoverStranger(app, pod, state)),
  );
}

async function recoverContainer(
  app: CriApp,
  pod: Pod,
  record: ContainerRecord,
  state: ContainerState | undefined,
): Promise<void> {
  const { id } = record;
  switch (decideContainer(record.phase, state?.phase)) {
    case "keep":
      break;
    case "drop":
      await dropHalfMade(app, record, (signal) => pod.remove(id, record.cgroupsPath, signal));
      return;
    case "finish-removal":
      await forgetContainer(app, id, AbortSignal.timeout(deadlineMs));
      return;
    case "lost":
      await containerExited(app, id, { kind: "lost", message: "the pod's helper does not know the container any more" });
      return;
    case "take-exit":
      if (state?.exit !== undefined) await takeExit(app, pod, state.exit);
      return;
    case "kill":
      await pod.signal(id, 9, "all");
      return;
    case "set-created":
      setFound(app, record, "created", state);
      break;
    case "set-running":
      setFound(app, record, "running", state);
      break;
  }
  const current = app.containers.get(id);
  if (current !== undefined) resumeStop(app, current);
}

/** Two steps where the table has no direct one: a record may be older than what it describes. An exit may have come meanwhile. */
function setFound(app: CriApp, record: ContainerRecord, phase: "created" | "running", state: ContainerState | undefined): void {
  if (app.containers.get(record.id)?.phase === "exited") return;
  app.containers.updateRegardless(record.id, (old) => ({
    ...old,
    phase: advanceContainer(old.phase === "unknown" ? old.phase : advanceContainer(old.phase, "unknown"), phase),
    process: state?.process ?? old.process,
    startedAtNs: phase === "running" && state !== undefined && state.startedAtNs > 0n ? state.startedAtNs : old.startedAtNs,
  }));
}

/** Its creation had not ended: nobody has its id. What cannot be taken back stays under its name as EXITED, for RemoveContainer. */
export async function dropHalfMade(
  app: CriApp,
  record: ContainerRecord,
  removeProcesses: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  try {
    await removeProcesses(AbortSignal.timeout(deadlineMs));
    await removeTraces(app, record);
    app.containers.forget(record.id);
  } catch (error) {
    const message = `half made, and could not be taken back: ${messageOf(error)}`;
    app.log.error({ id: record.id }, `container is ${message}`);
    await containerExited(app, record.id, { kind: "never-started", message });
  }
}

/** No record anywhere: a creation that ended before its record was written, with a database lost since. What runs is never killed. */
async function recoverStranger(app: CriApp, pod: Pod, state: ContainerState): Promise<void> {
  if (state.phase === "running" || state.phase === "starting") {
    app.log.error({ id: state.id, podId: pod.id }, "a container runs of which no record is left; it goes with its pod");
    return;
  }
  const parent = app.sandboxes.get(pod.id)?.translation.cgroupParent ?? "";
  await pod.remove(state.id, containerCgroup(parent, state.id), AbortSignal.timeout(deadlineMs));
  await removeTraces(app, { id: state.id, podId: pod.id });
}
