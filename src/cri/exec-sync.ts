import type { ExecSyncRequest, ExecSyncResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { step } from "../lib/step.ts";
import type { Context, CriApp } from "./app-types.ts";
import { visibleContainer } from "./queries.ts";
import { timeoutMs } from "./request-checks.ts";

/** Runs a command with the container's environment, directory, user and restrictions. A non-zero exit code is a success reply. */
export async function execSync(app: CriApp, ctx: Context, request: ExecSyncRequest): Promise<ExecSyncResponse> {
  const [command] = request.cmd;
  if (command === undefined || command === "") throw new RuntimeError("invalid_argument", "the request names no command");
  const limitMs = timeoutMs("exec timeout", request.timeout);
  const record = visibleContainer(app, request.containerId);
  if (record.phase !== "running") {
    throw new RuntimeError("failed_precondition", `container ${record.id} is ${record.phase}, not running`, { id: record.id });
  }
  const pod = app.pods.need(record.podId);
  const oci = await app.specs.need(record);
  const result = await step("exec.shim-exec", () =>
    pod.execSync(
      record.id,
      oci,
      {
        args: request.cmd,
        timeoutMs: limitMs,
        maxOutputBytes: app.config.execOutputBytes,
        drainMs: app.config.execDrainMs,
      },
      ctx.signal,
    ),
  );
  if (result.timedOut) {
    // The kubelet takes this code for a time-out of the command, and only this one.
    throw new RuntimeError("deadline_exceeded", `command ${JSON.stringify(command)} timed out after ${request.timeout} s`);
  }
  return { stdout: result.stdout, stderr: result.stderr, exitCode: result.exitCode };
}
