import { step } from "../lib/step.ts";
import type { CriApp } from "./app-types.ts";
import { mirrorSandboxRegardless } from "./record-mirror.ts";
import type { SandboxRecord } from "./records.ts";
import { advanceSandbox } from "./sandbox-state.ts";

/** From now on the sandbox is NOTREADY, takes no new container, and owes its teardown. A repeat only renews the reason. */
export async function markStopping(app: CriApp, id: string, reason: string, message: string): Promise<SandboxRecord> {
  const record = await step("pod.record-stopping", () =>
    app.sandboxes.updateRegardless(id, (old) => ({
      ...old,
      phase: old.phase === "stopping" ? old.phase : advanceSandbox(old.phase, "stopping"),
      reason,
      message,
    })),
  );
  await mirrorSandboxRegardless(app, record);
  return record;
}
