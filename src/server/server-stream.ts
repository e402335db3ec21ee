import { once } from "node:events";
import { type handleServerStreamingCall, Metadata, type ServerWritableStream } from "@grpc/grpc-js";
import type { Send } from "../cri/stream-chunks.ts";
import { type CallContext, cancellation, type Gate, timed } from "./call.ts";
import { toStatus } from "./status.ts";
import { wellFormed } from "./wire-check.ts";

/**
 * The one way into a verb that answers with a stream; it ends when the verb does. As in `unary`, nothing gets past the promise here.
 * The verb is entered before the headers go out: a client that has them is subscribed.
 */
export function serverStream<Request, Response>(
  rpc: string,
  gate: Gate,
  verb: (context: CallContext, request: Request, send: Send<Response>) => Promise<void>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const record = timed(rpc, gate, call.request);
    const { signal, answered } = cancellation(call, rpc, gate.closing);
    const send: Send<Response> = (message, cut = signal) => write(call, message, cut);
    const run = async (): Promise<void> => {
      gate.requireReady();
      const done = verb({ signal, log: gate.log }, wellFormed(rpc, call.request), send);
      call.sendMetadata(new Metadata());
      await done;
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
        // Messages that were sent before still arrive first.
        call.emit("error", toStatus(error));
      },
    );
  };
}

/** Resolves when the stream takes more: at most a handful of messages wait in memory for a client that does not read. */
export async function write<Response>(
  call: Pick<ServerWritableStream<unknown, Response>, "write"> & NodeJS.EventEmitter,
  message: Response,
  cut: AbortSignal,
): Promise<void> {
  cut.throwIfAborted();
  if (call.write(message)) return;
  try {
    await once(call, "drain", { signal: cut });
  } catch (error) {
    cut.throwIfAborted();
    throw error;
  }
}
