import { type handleBidiStreamingCall, Metadata } from "@grpc/grpc-js";
import type { Send } from "../cri/stream-chunks.ts";
import { type CallContext, cancellation, type Gate, timed } from "./call.ts";
import { write } from "./server-stream.ts";
import { toStatus } from "./status.ts";
import { wellFormed } from "./wire-check.ts";

/** The one way into a verb that talks in both directions. It ends when the verb does, whether or not the caller has said all. */
export function bidiStream<Request, Response>(
  rpc: string,
  gate: Gate,
  verb: (context: CallContext, requests: AsyncIterator<Request>, send: Send<Response>) => Promise<void>,
): handleBidiStreamingCall<Request, Response> {
  return (call) => {
    const record = timed(rpc, gate, undefined);
    const { signal, answered } = cancellation(call, rpc, gate.closing);
    const send: Send<Response> = (message, cut = signal) => write(call, message, cut);
    const run = async (): Promise<void> => {
      gate.requireReady();
      call.sendMetadata(new Metadata());
      await verb({ signal, log: gate.log }, checked(rpc, call), send);
    };
    run().then(
      () => {
        answered();
        record.done();
        call.end();
      },
      (error: unknown) => {
        answered();
        record.failed(error);
        call.emit("error", toStatus(error));
      },
    );
  };
}

/** One message is read when it is asked for: what is not asked for waits with the caller. */
async function* checked<Request>(rpc: string, call: AsyncIterable<Request>): AsyncGenerator<Request> {
  for await (const request of call) yield wellFormed(rpc, request);
}
