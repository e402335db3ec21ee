/** The only place where a container becomes exited: live, found at recovery, never started, or lost. */
import type { ContainerExit } from "../core/runtime.ts";
import { step } from "../lib/step.ts";
import type { CriApp } from "./app-types.ts";
import { advanceContainer } from "./container-state.ts";
import { tellOfExit } from "./plugin-calls.ts";
import type { ContainerRecord, ExitFacts } from "./records.ts";

export type ExitCause =
  | { readonly kind: "reported"; readonly exit: ContainerExit }
  /** StartContainer failed, or a failed CreateContainer could not be taken back. */
  | { readonly kind: "never-started"; readonly message: string }
  /** Its exit status is gone with the shim or the boot. */
  | { readonly kind: "lost"; readonly message: string };

const startErrorCode = 128;
const unknownCode = 255;

/** What the record says of an exit; a pure table. */
export function exitFacts(cause: ExitCause, nowNs: bigint): ExitFacts {
  switch (cause.kind) {
    case "never-started":
      return { exitCode: startErrorCode, reason: "StartError", message: cause.message, finishedAtNs: nowNs };
    case "lost":
      return { exitCode: unknownCode, reason: "Unknown", message: cause.message, finishedAtNs: nowNs };
    case "reported": {
      const { exit } = cause;
      const finishedAtNs = exit.finishedAtNs > 0n ? exit.finishedAtNs : nowNs;
      if (!exit.known) {
        return { exitCode: unknownCode, reason: "Unknown", message: "the exit status was lost", finishedAtNs };
      }
      const reason = exit.oomKilled ? "OOMKilled" : exit.exitCode === 0 ? "Completed" : "Error";
      return { exitCode: exit.exitCode, reason, message: dropNote(exit), finishedAtNs };
    }
  }
}

function dropNote(exit: ContainerExit): string {
  return exit.logDroppedBytes > 0n ? `${exit.logDroppedBytes} bytes of its log could not be written` : "";
}

/** For callers that do not hold the container's lock. A repeat is harmless. */
export async function containerExited(app: CriApp, id: string, cause: ExitCause): Promise<void> {
  await app.locks.run(id, undefined, () => recordExit(app, id, cause));
}

/** For callers that hold the container's lock. */
export async function recordExit(app: CriApp, id: string, cause: ExitCause): Promise<void> {
  const record = app.containers.get(id);
  if (record !== undefined && record.phase !== "exited" && record.phase !== "removing") {
    const facts = exitFacts(cause, app.clock.nowNs());
    const startedAtNs = startedAt(record, cause);
    const exit = { ...facts, finishedAtNs: notBefore(startedAtNs, facts.finishedAtNs) };
    const ended = await step("container.record-exited", () =>
      app.containers.updateRegardless(id, (old) => ({
        ...old,
        phase: advanceContainer(old.phase, "exited"),
        startedAtNs,
        process: null,
        stop: null,
        exit,
      })),
    );
    app.log.info({ id, exitCode: exit.exitCode, reason: exit.reason }, "container exited");
    if (record.phase !== "creating") tellOfExit(app, ended);
    app.events.emit("stopped", id, record.podId, { exitCode: exit.exitCode, reason: exit.reason });
  }
  app.stops.settle(id);
}

/** The daemon's clock is coarser than the helper's. */
function notBefore(startedAtNs: bigint, finishedAtNs: bigint): bigint {
  if (finishedAtNs < startedAtNs) return startedAtNs;
  return finishedAtNs;
}

/** The shim's time of the start is the true one; a container that never ran has none. */
function startedAt(record: ContainerRecord, cause: ExitCause): bigint {
  if (cause.kind === "never-started") return 0n;
  if (cause.kind === "reported" && cause.exit.startedAtNs > 0n) return cause.exit.startedAtNs;
  return record.startedAtNs;
}
