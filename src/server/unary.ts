import type { handleServerStreamingCall, handleUnaryCall } from "@grpc/grpc-js";
import { RuntimeError } from "../lib/errors.ts";
import { type CallContext, cancellation, type Gate, timed } from "./call.ts";
import { toStatus } from "./status.ts";
import { wellFormed } from "./wire-check.ts";

/**
 * The one way into a verb: gate, cancellation, log line, status. A handler of grpc-js that throws asynchronously would leave its
 * client hanging, so nothing gets past the promise here.
 */
export function unary<Request, Response>(
  rpc: string,
  gate: Pick<Gate, "requireReady" | "log">,
  verb: (context: CallContext, request: Request) => Promise<Response> | Response,
): handleUnaryCall<Request, Response> {
  return (call, reply) => {
    const record = timed(rpc, gate, call.request);
    const { signal, answered } = cancellation(call, rpc);
    const run = async (): Promise<Response> => {
      gate.requireReady();
      return await verb({ signal, log: gate.log }, wellFormed(rpc, call.request));
    };
    run().then(
      (response) => {
        // grpc-js says "cancelled" at the end of every call, also of one that went well.
        answered();
        record.done();
        reply(null, response);
      },
      (error: unknown) => {
        answered();
        record.failed(error);
        reply(toStatus(error));
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
