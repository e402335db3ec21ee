/** Requests are looked at as bytes before they are decoded: lib/wire-shape.ts says why. */
import { messageShapes } from "../gen/message-shapes.ts";
import { RuntimeError } from "../lib/errors.ts";
import { faultOfMessage } from "../lib/wire-shape.ts";

/** What a method gets in place of a request that is none. */
export class MalformedRequest {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }
}

/** The request, or `invalid_argument` with what is wrong with its bytes. */
export function wellFormed<Request>(rpc: string, request: Request | MalformedRequest): Request {
  if (!(request instanceof MalformedRequest)) return request;
  throw new RuntimeError("invalid_argument", `the request of ${rpc} is malformed: ${request.reason}`);
}

/** Reads the request if its bytes are those of the message that they should be. */
export function readRequest<Request>(
  message: string,
  bytes: Buffer,
  decode: (bytes: Buffer) => Request,
): Request | MalformedRequest {
  const fault = wireFault(message, bytes);
  return fault === undefined ? decode(bytes) : new MalformedRequest(fault);
}

/** Why these bytes are not a message of this type; undefined when they are. */
export const wireFault = (message: string, bytes: Buffer): string | undefined => faultOfMessage(messageShapes, message, bytes);
