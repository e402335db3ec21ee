import { runHooks } from "../core/hooks.ts";
import type { StartContainerRequest, StartContainerResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError, wrapError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { recordExit } from "./container-exit.ts";
import { containerHooks } from "./container-hooks.ts";
import { checkTarget, readySandbox } from "./container-preconditions.ts";
import { advanceContainer } from "./container-state.ts";
import { askForStart, tellOfContainer } from "./plugin-calls.ts";
import { visibleContainer } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";

const deadlineMs = 120_000;

/** Returns when the container's program has been executed. A start that fails leaves it EXITED with reason StartError. */
export async function startContainer(app: CriApp, ctx: Context, request: StartContainerRequest): Promise<StartContainerResponse> {
  const before = visibleContainer(app, request.containerId);
  const { id } = before;
  await app.operations.runFor(ctx.signal, `starting container ${id}`, deadlineMs, async (signal) => {
    // Not under the lock: a plugin may change the container's limits before it lets it start.
    if (before.phase === "created") await askForStart(app, before);
    await app.locks.run(id, signal, () => start(app, id, signal));
    const started = app.containers.get(id);
    if (started !== undefined) await tellOfContainer(app, "PostStartContainer", started);
  });
  return {};
}

async function start(app: CriApp, id: string, signal: AbortSignal): Promise<void> {
  const record = visibleContainer(app, id);
  if (record.phase !== "created") {
    throw new RuntimeError("failed_precondition", `container ${id} is ${record.phase}; only a created one can be started`, {
      id,
    });
  }
  readySandbox(app, record.podId);
  checkTarget(app, record.podId, record.pidNamespace);
  const pod = app.pods.need(record.podId);
  await step("container.record-starting", () =>
    app.containers.update(id, (old) => ({ ...old, phase: advanceContainer(old.phase, "starting") })),
  );
  const started = await step("container.shim-start", () => pod.start(id, signal)).catch((error: unknown) =>
    failStart(app, record, error),
  );
  await step("container.record-running", () =>
    app.containers.updateRegardless(id, (old) => ({
      ...old,
      phase: advanceContainer(old.phase, "running"),
      startedAtNs: started.startedAtNs,
    })),
  );
  app.log.info({ id, name: record.name }, "container started");
  app.events.emit("started", id, record.podId);
  await runPoststart(app, record, signal);
}

/** A failure ends the container, whose exit is then recorded as any other (runtime-spec 1.3, "Lifecycle" 10). */
async function runPoststart(app: CriApp, record: ContainerRecord, signal: AbortSignal): Promise<void> {
  const hooks = await containerHooks(app, record);
  if (hooks === undefined) return;
  try {
    await runHooks("poststart", hooks.hooks, hooks.state, { status: "running", pid: record.process?.pid ?? 0 }, signal);
  } catch (error) {
    await app.pods.get(record.podId)?.signal(record.id, 9, "all");
    throw wrapError(`container ${record.config.metadata?.name ?? ""} could not be started`, error, { id: record.id });
  }
}

async function failStart(app: CriApp, record: ContainerRecord, error: unknown): Promise<never> {
  const failure = wrapError(`container ${record.config.metadata?.name ?? ""} could not be started`, error, { id: record.id });
  await recordExit(app, record.id, { kind: "never-started", message: failure.message });
  // Its init may still be there when the helper answered too late; nothing may run in a container that is EXITED.
  await app.pods
    .get(record.podId)
    ?.signal(record.id, 9, "all")
    .catch(() => {});
  throw failure;
}
