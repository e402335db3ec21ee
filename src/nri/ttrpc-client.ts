/** Calls over one connection: a request with a new odd stream id, one response each. */
import { messageShapes } from "../gen/message-shapes.ts";
import { Request, Response } from "../gen/ttrpc/ttrpc.ts";
import { type Code, RuntimeError } from "../lib/errors.ts";
import { faultOfMessage } from "../lib/wire-shape.ts";
import { brokenProtocol, encodeFrame, FrameReader, frameType } from "./frame.ts";
import { codeOfStatus } from "./status-code.ts";

interface Pending {
  readonly method: string;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (why: Error) => void;
}

/** What the peer itself answered in place of a result: the connection is as good as before. */
export class RefusedCall extends RuntimeError {
  constructor(code: Code, message: string) {
    super(code, message);
  }
}

export class TtrpcClient {
  readonly #frames = new FrameReader();
  readonly #pending = new Map<number, Pending>();
  readonly #send: (frame: Buffer) => void;
  #nextStream = 1;
  #closed: Error | undefined;

  constructor(send: (frame: Buffer) => void) {
    this.#send = send;
  }

  /**
   * The payload of the answer. Rejects with RefusedCall when the peer refuses, deadline_exceeded after `timeoutMs`, and with what
   * close() was told.
   */
  async call(service: string, method: string, payload: Uint8Array, timeoutMs: number): Promise<Buffer> {
    if (this.#closed !== undefined) throw this.#closed;
    const stream = this.#nextStream;
    const request = Request.encode({
      service,
      method,
      payload: Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength),
      timeoutNano: BigInt(timeoutMs) * 1_000_000n,
      metadata: [],
    });
    const frame = encodeFrame(stream, frameType.request, request.finish());
    this.#nextStream += 2;
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    this.#pending.set(stream, { method, resolve, reject });
    const timer = setTimeout(() => {
      reject(new RuntimeError("deadline_exceeded", `${method} was not answered in ${timeoutMs} ms`));
    }, timeoutMs);
    try {
      this.#send(frame);
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#pending.delete(stream);
    }
  }

  /** @throws RuntimeError data_loss on what is no answer to a call. */
  receive(bytes: Buffer): void {
    for (const frame of this.#frames.push(bytes)) {
      const pending = this.#pending.get(frame.stream);
      if (frame.type !== frameType.response) throw brokenProtocol(`a frame of type ${frame.type} where only responses come`);
      if (pending === undefined) throw brokenProtocol(`a response on stream ${frame.stream}, on which nothing was asked`);
      this.#pending.delete(frame.stream);
      const fault = faultOfMessage(messageShapes, "ttrpc.Response", frame.data);
      if (fault !== undefined) throw brokenProtocol(`the response to ${pending.method} is malformed: ${fault}`);
      const { status, payload } = Response.decode(frame.data);
      if (status === undefined || status.code === 0) pending.resolve(payload);
      else pending.reject(new RefusedCall(codeOfStatus(status.code), status.message));
    }
  }

  close(why: Error): void {
    this.#closed ??= why;
    for (const { reject } of this.#pending.values()) reject(why);
    this.#pending.clear();
  }
}
