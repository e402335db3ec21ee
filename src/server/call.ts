/** What unary calls and streams have in common: their gate, their cancellation, their line in the log. */
import type { Deadline } from "@grpc/grpc-js";
import { type Code, codeOf, RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { statusName, toStatus } from "./status.ts";

/** One call, as a verb sees it. */
export interface CallContext {
  /** Fires when the caller goes away or its deadline passes. */
  readonly signal: AbortSignal;
  readonly log: Log;
}

/** What the wrapper needs of the daemon. */
export interface Gate {
  /** Throws `unavailable` with the reason while calls cannot be answered. */
  readonly requireReady: () => void;
  readonly log: Log;
  /** Fires when the daemon ends: streams, which would never end by themselves, end then. */
  readonly closing: AbortSignal;
}

/** A failed call is one line; how loud it is depends on whose mistake it can be. */
const loudness: Readonly<Partial<Record<Code, "debug" | "info" | "error">>> = {
  internal: "error",
  unknown: "error",
  data_loss: "error",
  not_found: "info",
  canceled: "info",
  unimplemented: "debug",
  unavailable: "debug",
};

const deadlineSlackMs = 100;

const idFields = ["podSandboxId", "containerId"] as const;

/** Ids that the request names, for the log; nothing else of a request is logged. */
function idsOf(request: unknown): Record<string, string> {
  if (typeof request !== "object" || request === null) return {};
  const ids = idFields.map((name): [string, unknown] => [name, (request as Record<string, unknown>)[name]]);
  return Object.fromEntries(ids.filter((pair): pair is [string, string] => typeof pair[1] === "string" && pair[1] !== ""));
}

interface Cancellation {
  readonly signal: AbortSignal;
  /** The call has its answer: what grpc-js tells of it afterwards is no cancellation. */
  readonly answered: () => void;
}

/** The part of grpc-js's calls that tells of their end. */
interface CancellableCall {
  readonly cancelled: boolean;
  getDeadline(): Deadline;
  once(event: "cancelled", listener: () => void): unknown;
  removeListener(event: "cancelled", listener: () => void): unknown;
}

/** Turns the caller's leaving, or its deadline, into an abort signal. `closing` ends the call as well. */
export function cancellation(call: CancellableCall, rpc: string, closing?: AbortSignal): Cancellation {
  const cancel = new AbortController();
  const gone = (): void => {
    // grpc-js tells of a passed deadline in the same way as of a caller that hung up, and a client, which began to count earlier,
    // hangs up at its own.
    const deadline = call.getDeadline();
    const late = deadline !== Number.POSITIVE_INFINITY && Number(deadline) - deadlineSlackMs <= Date.now();
    cancel.abort(
      late
        ? new RuntimeError("deadline_exceeded", `${rpc}: the caller's deadline passed`)
        : new RuntimeError("canceled", `${rpc}: canceled by the caller`),
    );
  };
  const close = (): void => cancel.abort(new RuntimeError("unavailable", "caissond is stopping"));
  if (closing?.aborted === true) close();
  else closing?.addEventListener("abort", close, { once: true });
  if (call.cancelled) gone();
  else call.once("cancelled", gone);
  const answered = (): void => {
    call.removeListener("cancelled", gone);
    closing?.removeEventListener("abort", close);
  };
  return { signal: cancel.signal, answered };
}

/** One line for each call: how long it took and how it ended. */
export function timed(rpc: string, gate: Pick<Gate, "log">, request: unknown): CallRecord {
  const startedAt = performance.now();
  const fields = (): object => ({ rpc, ...idsOf(request), ms: Math.round((performance.now() - startedAt) * 10) / 10 });
  return {
    done: () => gate.log.debug(fields(), "rpc done"),
    failed: (error) => {
      const status = statusName(toStatus(error).code);
      gate.log[loudness[codeOf(error)] ?? "warn"]({ ...fields(), status, err: error }, "rpc failed");
    },
  };
}

interface CallRecord {
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}
