/** Taking a sandbox down: StopPodSandbox, RemovePodSandbox, retries, recovery. Every step is safe to repeat. */
import { existsSync } from "node:fs";
import type { Leftover } from "../core/runtime.ts";
import { messageOf } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import type { PodNetworkRequest } from "../network/pod-network.ts";
import { allOf, Deadline } from "./abort.ts";
import type { CriApp } from "./app-types.ts";
import { endContainer } from "./container-end.ts";
import { tellOfPod } from "./plugin-calls.ts";
import { containersOf } from "./queries.ts";
import { mirrorSandboxRegardless } from "./record-mirror.ts";
import type { SandboxRecord } from "./records.ts";
import { markStopping } from "./sandbox-notready.ts";
import { advanceNetwork, advanceSandbox, owesNetworkDetach } from "./sandbox-state.ts";
import { podTitle, stillThere } from "./stop-obstacles.ts";

const detachDeadlineMs = 120_000;
const never = new AbortController().signal;

/**
 * On return the sandbox is `stopped`, or gone already. Fails with the first thing that could not be done; what is owed is kept in the
 * record and in its reason.
 */
export async function teardownSandbox(app: CriApp, id: string, signal: AbortSignal): Promise<void> {
  const owed = await app.locks.run(id, signal, async () => {
    const record = app.sandboxes.get(id);
    if (record === undefined || record.phase === "stopped" || record.phase === "removing") return false;
    if (record.phase !== "stopping") await markStopping(app, id, "Stopped", "");
    return true;
  });
  if (!owed) return;
  // No new container can appear now. The lock is not held while processes end.
  await allOf(containersOf(app, id).map((record) => endContainer(app, record.id, { graceMs: 0, parked: true }, signal)));
  await app.locks.run(id, signal, () => releaseSandbox(app, id, signal));
}

async function releaseSandbox(app: CriApp, id: string, signal: AbortSignal): Promise<void> {
  const record = app.sandboxes.get(id);
  if (record?.phase !== "stopping") return;
  await tellOfPod(app, "StopPodSandbox", record);
  await detachNetwork(app, record);
  await step("pod.destroy", () => destroyPod(app, record, signal));
  await step("pod.record-stopped", () =>
    app.sandboxes.updateRegardless(id, (old) => ({ ...old, phase: advanceSandbox(old.phase, "stopped"), shim: null })),
  );
  app.log.info({ id }, "pod sandbox stopped");
  app.events.emit("stopped", id, id);
}

async function detachNetwork(app: CriApp, record: SandboxRecord): Promise<void> {
  const request = record.translation.network;
  if (request === null || !owesNetworkDetach(record.network)) return;
  // Goes on when the daemon stops, and the next one waits for it: half a DEL cannot be repeated. Without its interface, which goes
  // first, the bridge plugin no longer knows which address to take out of the packet filter.
  using patience = new Deadline(`detaching the network of pod sandbox ${record.id}`, detachDeadlineMs, never);
  try {
    await step("pod.network-detach", () => app.network.detach(withCurrentNetns(app, record, request), patience.signal));
  } catch (error) {
    const message = `the pod's network could not be torn down: ${messageOf(error)}`;
    await markStopping(app, record.id, "NetworkTeardownFailed", message);
    throw error;
  }
  const detached = await step("pod.record-detached", () =>
    app.sandboxes.updateRegardless(record.id, (old) => ({ ...old, network: advanceNetwork(old.network, "detached") })),
  );
  await mirrorSandboxRegardless(app, detached);
}

/** CNI DEL wants an empty path once the namespace is gone; after a reboot the file may be there and mean nothing. */
function withCurrentNetns(app: CriApp, record: SandboxRecord, request: PodNetworkRequest): PodNetworkRequest {
  const alive = record.bootId === app.instance.bootId && existsSync(request.netnsPath);
  return alive ? request : { ...request, netnsPath: "" };
}

/** Everything that the core made for the pod; also for one that was only half made. */
export async function destroyPod(app: CriApp, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  const { ownsCgroupParent, cgroupParent } = record.translation;
  app.ledger.letGo(record.id, podTitle(record), await destroyParts(app, record, signal));
  app.pods.remove(record.id);
  if (ownsCgroupParent) await app.runtime.removeCgroup(cgroupParent, signal);
  else if (record.madeCgroupParent) await app.runtime.removeEmptyCgroup(cgroupParent);
}

async function destroyParts(app: CriApp, record: SandboxRecord, signal: AbortSignal): Promise<readonly Leftover[]> {
  const pod = app.pods.get(record.id);
  const containers = containersOf(app, record.id);
  // What is left in a cgroup when its container has ended may be asleep in the kernel, and is then waited for no longer than that was.
  using patience = new Deadline(`taking down pod sandbox ${record.id}`, app.config.killPatienceMs, signal);
  try {
    if (pod === undefined) {
      const cgroups = containers.map((container) => container.cgroupsPath);
      return await app.runtime.destroyRemains(record.translation.spec, cgroups, patience.signal);
    }
    // Their cgroups go now: once the helper is gone, nobody would remove them.
    await Promise.all(containers.map((container) => pod.remove(container.id, container.cgroupsPath, patience.signal)));
    return await pod.destroy(patience.signal);
  } catch (error) {
    throw patience.signal.aborted && !signal.aborted ? await stillThere(app, containers, error) : error;
  }
}
