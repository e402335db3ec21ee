import type { PidNamespace } from "../core/runtime.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { visibleSandbox } from "./queries.ts";
import type { SandboxRecord } from "./records.ts";

/** `not_found`, or `failed_precondition` for a sandbox that is stopped or about to be. */
export function readySandbox(app: CriApp, idOrPrefix: string): SandboxRecord {
  const record = visibleSandbox(app, idOrPrefix);
  if (record.phase === "ready") return record;
  const why = record.message === "" ? "" : `: ${record.message}`;
  throw new RuntimeError("failed_precondition", `pod sandbox ${record.id} is not ready${why}`, { id: record.id });
}

/** The container whose PID namespace is to be joined must run in the same pod, at create and at start. */
export function checkTarget(app: CriApp, podId: string, namespace: PidNamespace): void {
  if (namespace.kind !== "target") return;
  const target = app.containers.get(namespace.containerId);
  if (target === undefined || target.podId !== podId) {
    throw new RuntimeError("invalid_argument", `target container ${namespace.containerId} is not in pod sandbox ${podId}`);
  }
  if (target.phase !== "running") {
    throw new RuntimeError("failed_precondition", `target container ${target.id} is not running`, { id: target.id });
  }
}
