import { rm } from "node:fs/promises";
import { join } from "node:path";
import { runPoststopHooks } from "../core/hooks.ts";
import type { RemoveContainerRequest, RemoveContainerResponse } from "../gen/cri/v1/api.ts";
import { removeStateTree } from "../lib/state-files.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { endContainer } from "./container-end.ts";
import { containerHooks } from "./container-hooks.ts";
import { advanceContainer } from "./container-state.ts";
import { attachPointsDir, writableLayerDir } from "./paths.ts";
import { tellOfContainer } from "./plugin-calls.ts";
import { removeBundle } from "./record-mirror.ts";
import type { ContainerRecord } from "./records.ts";

const deadlineMs = 120_000;

/** Kills what still runs, then removes the container; logs stay. Idempotent; an unknown id is success. */
export async function removeContainer(
  app: CriApp,
  ctx: Context,
  request: RemoveContainerRequest,
): Promise<RemoveContainerResponse> {
  const record = app.containers.find(request.containerId);
  if (record === undefined) return {};
  await app.operations.runFor(ctx.signal, `removing container ${record.id}`, deadlineMs, (signal) =>
    forgetContainer(app, record.id, signal),
  );
  return {};
}

/** Nothing of the container is left on return; after a failure everything that was left is tried again by the next call. */
export async function forgetContainer(app: CriApp, id: string, signal: AbortSignal): Promise<void> {
  await endContainer(app, id, { graceMs: 0, parked: false }, signal);
  await app.locks.run(id, signal, async () => {
    const record = app.containers.get(id);
    if (record === undefined) return;
    if (record.phase !== "removing") {
      await step("container.record-removing", () =>
        app.containers.updateRegardless(id, (old) => ({ ...old, phase: advanceContainer(old.phase, "removing") })),
      );
    }
    // A parked init, which has no exit to wait for, is killed here.
    await step("container.shim-remove", () => removeFromPod(app, record, signal));
    const hooks = await containerHooks(app, record);
    await tellOfContainer(app, "RemoveContainer", record);
    await removeTraces(app, record);
    await step("container.forget", () => {
      app.events.emitOnce("deleted", id, record.podId);
      app.containers.forget(id);
    });
    app.stops.settle(id);
    if (hooks !== undefined) {
      await runPoststopHooks(hooks.hooks, hooks.state, signal, ({ message }) => app.log.warn({ id }, message));
    }
    app.log.info({ id, name: record.name }, "container removed");
  });
}

/** Of a pod whose helper died nobody else knows the cgroup any more once the record is gone. */
async function removeFromPod(app: CriApp, record: ContainerRecord, signal: AbortSignal): Promise<void> {
  const pod = app.pods.get(record.podId);
  if (pod !== undefined) return await pod.remove(record.id, record.cgroupsPath, signal);
  await app.runtime.killRemains([record.cgroupsPath], signal);
  await app.runtime.removeCgroup(record.cgroupsPath, signal);
}

/** Frees the disk space before the record goes: on a full disk only this makes room for what follows. */
export async function removeTraces(app: CriApp, record: Pick<ContainerRecord, "id" | "podId">): Promise<void> {
  const { id, podId } = record;
  app.writableLayers.forget(id);
  app.samples.forget(id);
  await step("container.remove-files", () => rm(writableLayerDir(app.config, id), { recursive: true, force: true }));
  await step("container.remove-bundle", async () => {
    await removeBundle(app, podId, id);
    await removeAttachPoint(app, id);
  });
  app.specs.forget(id);
  await step("container.release-image", () => app.images.release(id));
}

/** The helper's side of a removal does this too, but a dead helper's containers have none. */
export async function removeAttachPoint(app: CriApp, id: string): Promise<void> {
  await removeStateTree(join(attachPointsDir(app.config), id));
}
