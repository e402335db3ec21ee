import type { handleServerStreamingCall, handleUnaryCall, ServerUnaryCall } from "@grpc/grpc-js";
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

function cancellation(call: ServerUnaryCall<unknown, unknown>, rpc: string): Cancellation {
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
  if (call.cancelled) gone();
  else call.once("cancelled", gone);
  return { signal: cancel.signal, answered: () => call.removeListener("cancelled", gone) };
}

/**
 * The one way into a verb: gate, cancellation, log line, status. A handler of grpc-js that throws asynchronously would leave its
 * client hanging, so nothing gets past the promise here.
 */
export function unary<Request, Response>(
  rpc: string,
  gate: Gate,
  verb: (context: CallContext, request: Request) => Promise<Response> | Response,
): handleUnaryCall<Request, Response> {
  return (call, reply) => {
    const startedAt = performance.now();
    const fields = (): object => ({ rpc, ...idsOf(call.request), ms: Math.round((performance.now() - startedAt) * 10) / 10 });
    const { signal, answered } = cancellation(call, rpc);
    const run = async (): Promise<Response> => {
      gate.requireReady();
      return await verb({ signal, log: gate.log }, call.request);
    };
    run().then(
      (response) => {
        // grpc-js says "cancelled" at the end of every call, also of one that went well.
        answered();
        gate.log.debug(fields(), "rpc done");
        reply(null, response);
      },
      (error: unknown) => {
        answered();
        const answer = toStatus(error);
        gate.log[loudness[codeOf(error)] ?? "warn"]({ ...fields(), status: statusName(answer.code), err: error }, "rpc failed");
        reply(answer);
      },
    );
  };
}

const notImplemented = (rpc: string): RuntimeError =>
  new RuntimeError("unimplemented", `${rpc} is not implemented by this version of Caisson`);

interface MethodShape {
  readonly responseStream: boolean;
}

/** Fills a table: every method of the service that it lacks answers UNIMPLEMENTED with the method's name. */
export function withUnimplemented<Table extends object>(
  methods: Readonly<Record<string, MethodShape>>,
  gate: Pick<Gate, "log">,
  table: Partial<Table>,
): Table {
  const rest = Object.entries(methods).map(([name, { responseStream }]) => {
    const rpc = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
    const stream: handleServerStreamingCall<unknown, unknown> = (call) => {
      call.emit("error", toStatus(notImplemented(rpc)));
    };
    const single = unary<unknown, unknown>(rpc, { log: gate.log, requireReady: () => {} }, () => {
      throw notImplemented(rpc);
    });
    return [name, responseStream ? stream : single];
  });
  return { ...Object.fromEntries(rest), ...table } as Table;
}
