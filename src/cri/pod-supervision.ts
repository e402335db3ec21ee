/** What happens to a pod without being asked: exits of its containers, and the loss of its shim. */
import type { ContainerExit, Pod } from "../core/runtime.ts";
import { messageOf } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import { allOf } from "./abort.ts";
import type { CriApp } from "./app-types.ts";
import { containerExited } from "./container-exit.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { containersOf } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";
import { markStopping } from "./sandbox-notready.ts";
import { stillThere } from "./stop-obstacles.ts";

/** Takes the pod into the live ones. To be called before anything else is asked of it: exits may be waiting. */
export function supervise(app: CriApp, pod: Pod): void {
  app.pods.add(pod);
  pod.onExit((exit) => {
    takeExit(app, pod, exit).catch((error: unknown) => {
      app.log.error({ id: exit.containerId, err: error }, "an exit could not be taken");
    });
  });
  pod.onShimLost(() => {
    shimLost(app, pod.id).catch((error: unknown) => {
      app.log.error({ id: pod.id, err: error }, "the loss of a pod's helper could not be dealt with in full");
    });
  });
}

/** Records first, acknowledges then: the shim repeats what was not acknowledged. */
export async function takeExit(app: CriApp, pod: Pod, exit: ContainerExit): Promise<void> {
  await containerExited(app, exit.containerId, { kind: "reported", exit });
  try {
    await step("container.acknowledge-exit", () => pod.acknowledgeExit(exit.containerId));
  } catch (error) {
    app.log.warn({ id: exit.containerId, err: messageOf(error) }, "an exit could not be acknowledged to the pod's helper");
  }
}

/**
 * Nobody can read the exit statuses any more or hold the pipes: the pod ends. Its processes are killed at once; CNI DEL and the rest
 * follow, now and by every StopPodSandbox.
 */
export async function shimLost(app: CriApp, podId: string): Promise<void> {
  app.pods.remove(podId);
  const sandbox = app.sandboxes.get(podId);
  if (sandbox === undefined || sandbox.phase === "removing" || sandbox.phase === "stopped") return;
  app.log.error({ id: podId }, "the pod's helper has died; its containers are killed");
  try {
    await endLostPod(app, podId, "HelperDied", "the pod's helper process died; its containers were killed");
  } finally {
    app.teardowns.request(podId);
  }
}

/** For live losses and for those found at recovery: NOTREADY, processes killed, containers EXITED with what is known of them. */
export async function endLostPod(app: CriApp, podId: string, reason: string, message: string): Promise<void> {
  if (app.sandboxes.get(podId)?.phase === "ready") await markStopping(app, podId, reason, message);
  const containers = containersOf(app, podId).filter((record) => mayHaveProcesses(record.phase));
  await allOf(
    containers.map(async (record) => {
      await killLost(app, record);
      await exitOfLost(app, podId, record.id, message);
    }),
  );
}

async function killLost(app: CriApp, record: ContainerRecord): Promise<void> {
  if (record.cgroupsPath === "") return;
  const patience = AbortSignal.timeout(app.config.killPatienceMs);
  try {
    await app.runtime.killRemains([record.cgroupsPath], patience);
  } catch (error) {
    throw patience.aborted ? await stillThere(app, [record], error) : error;
  }
}

/** The shim may have written the exit down before it died. */
async function exitOfLost(app: CriApp, podId: string, id: string, message: string): Promise<void> {
  const spec = app.sandboxes.get(podId)?.translation.spec;
  const exit = spec === undefined ? undefined : await app.runtime.exitRecordOf(spec, id).catch(() => undefined);
  await containerExited(app, id, exit === undefined ? { kind: "lost", message } : { kind: "reported", exit });
}
