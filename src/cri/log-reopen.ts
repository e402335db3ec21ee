import type { ReopenContainerLogRequest, ReopenContainerLogResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { visibleContainer } from "./queries.ts";

/** On return the file at the log path exists anew and takes all later output. Only for a running container: others make no file. */
export async function reopenContainerLog(
  app: CriApp,
  ctx: Context,
  request: ReopenContainerLogRequest,
): Promise<ReopenContainerLogResponse> {
  const record = visibleContainer(app, request.containerId);
  if (record.phase !== "running") {
    throw new RuntimeError("failed_precondition", `container ${record.id} is ${record.phase}, not running`, { id: record.id });
  }
  await step("log.shim-reopen", () => app.pods.need(record.podId).reopenLog(record.id, ctx.signal));
  return {};
}
