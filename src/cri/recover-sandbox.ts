import type { Pod } from "../core/runtime.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { Deadline, orAborted } from "./abort.ts";
import type { CriApp } from "./app-types.ts";
import { containerExited } from "./container-exit.ts";
import { forgetContainer } from "./container-remove.ts";
import { advanceContainer, mayHaveProcesses } from "./container-state.ts";
import { endLostPod, supervise } from "./pod-supervision.ts";
import { containersOf } from "./queries.ts";
import { mirrorSandboxRegardless } from "./record-mirror.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import { dropHalfMade, recoverContainers } from "./recover-container.ts";
import { decideSandbox, type HelperFinding } from "./recovery-decisions.ts";
import { markStopping } from "./sandbox-notready.ts";
import { removeSandbox } from "./sandbox-remove.ts";

const reconnectMs = 10_000;
const dropMs = 60_000;
const recoveryPatienceMs = 2_000;

export async function recoverSandbox(app: CriApp, record: SandboxRecord): Promise<void> {
  const found = await findHelper(app, record);
  switch (decideSandbox(record.phase, found.helper)) {
    case "keep":
      return await keep(app, record, found.pod);
    case "drop":
      return await drop(app, record);
    case "end":
      return await end(app, record, found.helper);
    case "suspect":
      return await suspect(app, record);
    case "finish-removal":
      return await removeSandbox(app, record.id, AbortSignal.timeout(dropMs));
  }
}

async function findHelper(app: CriApp, record: SandboxRecord): Promise<{ readonly helper: HelperFinding; readonly pod?: Pod }> {
  if (record.bootId !== app.instance.bootId) return { helper: "rebooted" };
  if (record.phase === "stopped" || record.phase === "removing") return { helper: "dead" };
  using deadline = new Deadline("reconnecting to a pod", reconnectMs, app.stopping);
  try {
    const reconnecting = app.runtime.reconnectPod(record.translation.spec, deadline.signal);
    const pod = await orAborted(reconnecting, deadline.signal);
    if (pod === undefined) return { helper: "dead" };
    if (record.shim !== null && record.shim.startTicks !== pod.shim.startTicks) {
      throw new RuntimeError("internal", `the helper of pod ${record.id} is another process than the recorded one`);
    }
    supervise(app, pod);
    return { helper: "alive", pod };
  } catch (error) {
    app.log.error({ id: record.id, err: messageOf(error) }, "the pod's helper does not answer");
    return { helper: "unreachable" };
  }
}

async function keep(app: CriApp, record: SandboxRecord, pod: Pod | undefined): Promise<void> {
  const containers = containersOf(app, record.id);
  if (pod === undefined) {
    await Promise.all(containers.map((container) => settleWithoutHelper(app, container, "its pod had been stopped")));
    return;
  }
  await recoverContainers(app, pod, containers);
  // The copy beside the helper may be missing or older than the database.
  await mirrorSandboxRegardless(app, record);
  if (record.phase === "stopping") app.teardowns.request(record.id);
}

/** Nobody ever saw the sandbox. The teardown is the same as for any other, and then the record goes too. */
async function drop(app: CriApp, record: SandboxRecord): Promise<void> {
  await markStopping(app, record.id, "HalfMade", "the daemon ended while the pod sandbox was being made");
  try {
    await removeSandbox(app, record.id, AbortSignal.timeout(dropMs));
  } catch (error) {
    app.log.error({ id: record.id, err: messageOf(error) }, "a half-made pod sandbox is kept as not ready");
  }
}

async function end(app: CriApp, record: SandboxRecord, helper: HelperFinding): Promise<void> {
  const [reason, message] =
    helper === "rebooted"
      ? ["NodeRebooted", "the node was rebooted"]
      : ["HelperDied", "the pod's helper process died while the daemon was away; its containers were killed"];
  if (record.phase === "ready") await markStopping(app, record.id, reason, message);
  const containers = containersOf(app, record.id);
  const settle = (container: ContainerRecord): Promise<void> => settleWithoutHelper(app, container, message);
  await Promise.all(
    containers.filter((container) => !mayHaveProcesses(container.phase) || container.phase === "creating").map(settle),
  );
  if (helper === "rebooted") await Promise.all(containersOf(app, record.id).map(settle));
  else await endOrGoOn(app, record.id, () => endLostPod(app, record.id, reason, message));
  app.teardowns.request(record.id);
}

/** A process that cannot be killed must not hold up the node: the pod's teardown goes on trying, and tells who it is. */
async function endOrGoOn(app: CriApp, id: string, end: () => Promise<void>): Promise<void> {
  using patience = new Deadline(`ending pod sandbox ${id}`, recoveryPatienceMs, app.stopping);
  try {
    await orAborted(end(), patience.signal);
  } catch (error) {
    app.log.error({ id, err: messageOf(error) }, "the containers of a pod whose helper died do not end");
  }
}

/** For a container that has no helper to ask and no process to kill. */
async function settleWithoutHelper(app: CriApp, record: ContainerRecord, message: string): Promise<void> {
  const signal = AbortSignal.timeout(dropMs);
  if (record.phase === "creating") {
    await dropHalfMade(app, record, async () => {
      await app.runtime.killRemains([record.cgroupsPath], signal);
      await app.runtime.removeCgroup(record.cgroupsPath, signal);
    });
  } else if (record.phase === "removing") {
    await forgetContainer(app, record.id, signal);
  } else if (record.phase !== "exited") {
    await containerExited(app, record.id, { kind: "lost", message });
  }
}

async function suspect(app: CriApp, record: SandboxRecord): Promise<void> {
  await markStopping(app, record.id, "HelperUnreachable", "the pod's helper process does not answer; stop the pod to kill it");
  for (const container of containersOf(app, record.id)) {
    if (container.phase === "created" || container.phase === "starting" || container.phase === "running") {
      app.containers.updateRegardless(container.id, (old) => ({ ...old, phase: advanceContainer(old.phase, "unknown") }));
    }
  }
}
