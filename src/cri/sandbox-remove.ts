import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from "../gen/cri/v1/api.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { forgetContainer } from "./container-remove.ts";
import { tellOfPod } from "./plugin-calls.ts";
import { containersOf } from "./queries.ts";
import { advanceSandbox } from "./sandbox-state.ts";

const deadlineMs = 240_000;

/** Stops the sandbox by force if need be, removes its containers, then the sandbox. Idempotent; an unknown id is success. */
export async function removePodSandbox(
  app: CriApp,
  ctx: Context,
  request: RemovePodSandboxRequest,
): Promise<RemovePodSandboxResponse> {
  const record = app.sandboxes.find(request.podSandboxId);
  if (record === undefined) return {};
  await app.operations.runFor(ctx.signal, `removing pod sandbox ${record.id}`, deadlineMs, (signal) =>
    removeSandbox(app, record.id, signal),
  );
  return {};
}

export async function removeSandbox(app: CriApp, id: string, signal: AbortSignal): Promise<void> {
  await app.teardowns.run(id);
  await Promise.all(containersOf(app, id).map((container) => forgetContainer(app, container.id, signal)));
  await app.locks.run(id, signal, async () => {
    const record = app.sandboxes.get(id);
    if (record === undefined) return;
    if (record.phase !== "removing") {
      await step("pod.record-removing", () =>
        app.sandboxes.updateRegardless(id, (old) => ({ ...old, phase: advanceSandbox(old.phase, "removing") })),
      );
    }
    await tellOfPod(app, "RemovePodSandbox", record);
    await step("pod.forget", () => {
      app.samples.forget(id);
      app.events.emitOnce("deleted", id, id);
      app.sandboxes.forget(id);
    });
    app.log.info({ id }, "pod sandbox removed");
  });
}
