import type { StopContainerRequest, StopContainerResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { endContainer } from "./container-end.ts";
import { timeoutMs } from "./request-checks.ts";

/** Idempotent; unknown, created and exited containers are success. Returns when the process is gone. */
export async function stopContainer(app: CriApp, ctx: Context, request: StopContainerRequest): Promise<StopContainerResponse> {
  const graceMs = timeoutMs("stop timeout", request.timeout);
  const record = app.containers.find(request.containerId);
  if (record !== undefined) await endContainer(app, record.id, { graceMs, parked: false }, ctx.signal);
  return {};
}
