import type { StopPodSandboxRequest, StopPodSandboxResponse } from "../gen/cri/v1/api.ts";
import { orAborted } from "./abort.ts";
import type { Context, CriApp } from "./app-types.ts";

/** Idempotent; an unknown id is success. The teardown goes on when the caller goes away. */
export async function stopPodSandbox(app: CriApp, ctx: Context, request: StopPodSandboxRequest): Promise<StopPodSandboxResponse> {
  const record = app.sandboxes.find(request.podSandboxId);
  if (record !== undefined) await orAborted(app.teardowns.run(record.id), ctx.signal);
  return {};
}
