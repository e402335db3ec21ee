/** Ending a container's processes: stop signal, grace, SIGKILL to its whole cgroup. */
import { constants } from "node:os";
import { messageOf } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import { Deadline, orAborted } from "./abort.ts";
import type { CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { endLostPod } from "./pod-supervision.ts";
import type { ContainerRecord } from "./records.ts";
import { stillThere } from "./stop-obstacles.ts";
import { longestTimerMs } from "./stop-requests.ts";

export interface EndRequest {
  /** 0: SIGKILL at once. */
  readonly graceMs: number;
  /** Whether an init that was created and never started is killed too. */
  readonly parked: boolean;
}

/**
 * Returns when the container has no process any more, or with the signal's reason. The stop goes on without the caller: its end is in
 * the record, so that a restarted daemon keeps to it. Repeated calls only bring SIGKILL forward; the stop signal is sent once.
 */
export async function endContainer(app: CriApp, id: string, request: EndRequest, signal: AbortSignal): Promise<void> {
  const stopping = await app.locks.run(id, signal, () => beginStop(app, id, request));
  if (stopping === undefined) return;
  if (stopping.kind === "lost") {
    await endLostPod(app, stopping.podId, "HelperDied", "the pod's helper process died; its containers were killed");
    return;
  }
  await untilExited(app, id, stopping, signal);
}

/** A process that no signal reaches must not hold up whoever stops it for ever: the stop goes on, and the caller learns who it is. */
async function untilExited(app: CriApp, id: string, { exited, killAtNs }: Killing, signal: AbortSignal): Promise<void> {
  const patienceMs = Math.min(msUntil(app, killAtNs) + app.config.killPatienceMs, longestTimerMs);
  using patience = new Deadline(`stopping container ${id}`, patienceMs, signal);
  try {
    await orAborted(exited, patience.signal);
  } catch (error) {
    const record = app.containers.get(id);
    if (signal.aborted || record === undefined) throw error;
    throw await stillThere(app, [record], error);
  }
}

interface Killing {
  readonly kind: "stopping";
  readonly exited: Promise<void>;
  readonly killAtNs: bigint;
}

type Stopping = Killing | { readonly kind: "lost"; readonly podId: string } | undefined;

async function beginStop(app: CriApp, id: string, request: EndRequest): Promise<Stopping> {
  const record = app.containers.get(id);
  if (record === undefined || !mayHaveProcesses(record.phase)) return undefined;
  if (record.phase === "created" && !request.parked) return undefined;
  const pod = app.pods.get(record.podId);
  if (pod === undefined) return { kind: "lost", podId: record.podId };
  const killAtNs = earlier(record, app.clock.nowNs() + BigInt(request.graceMs) * 1_000_000n);
  await step("container.record-stop", () => app.containers.updateRegardless(id, (old) => ({ ...old, stop: { killAtNs } })));
  // Subscribed before the signal: the exit may be reported before its reply.
  const exited = app.stops.exited(id);
  if (request.graceMs > 0 && record.stop === null) {
    await step("container.shim-signal", () => pod.signal(id, record.stopSignal, "init"));
  }
  app.stops.escalate(id, msUntil(app, killAtNs), () => void kill(app, record));
  return { kind: "stopping", exited, killAtNs };
}

function earlier(record: ContainerRecord, killAtNs: bigint): bigint {
  return record.stop !== null && record.stop.killAtNs < killAtNs ? record.stop.killAtNs : killAtNs;
}

/** Called again and again until the exit arrives; a failure is only logged because the next one follows. */
async function kill(app: CriApp, record: ContainerRecord): Promise<void> {
  const pod = app.pods.get(record.podId);
  if (pod === undefined) return;
  try {
    await step("container.shim-kill", () => pod.signal(record.id, constants.signals.SIGKILL, "all"));
  } catch (error) {
    app.log.warn({ id: record.id, err: messageOf(error) }, "a container could not be killed; it is tried again");
  }
}

/** At recovery: a stop that was under way goes on to its recorded end. */
export function resumeStop(app: CriApp, record: ContainerRecord): void {
  if (record.stop === null || !mayHaveProcesses(record.phase)) return;
  app.stops.escalate(record.id, msUntil(app, record.stop.killAtNs), () => void kill(app, record));
}

function msUntil(app: CriApp, atNs: bigint): number {
  return Math.max(0, Number(atNs - app.clock.nowNs()) / 1e6);
}
