import { Metadata, status } from "@grpc/grpc-js";
import { type Code, messageOf, RuntimeError } from "../lib/errors.ts";

/** Each of our codes as gRPC's; forgetting one does not compile. */
const grpcCodes: Readonly<Record<Code, status>> = {
  invalid_argument: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  already_exists: status.ALREADY_EXISTS,
  failed_precondition: status.FAILED_PRECONDITION,
  permission_denied: status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
  resource_exhausted: status.RESOURCE_EXHAUSTED,
  out_of_range: status.OUT_OF_RANGE,
  unimplemented: status.UNIMPLEMENTED,
  unavailable: status.UNAVAILABLE,
  deadline_exceeded: status.DEADLINE_EXCEEDED,
  canceled: status.CANCELLED,
  aborted: status.ABORTED,
  data_loss: status.DATA_LOSS,
  unknown: status.UNKNOWN,
  internal: status.INTERNAL,
};

/** Trailers must stay under the header limits of clients; the log has the whole text. */
const longestDetails = 4096;

export interface Status {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
}

/**
 * What a client is told of an error. A foreign error is INTERNAL whatever its `code` says: grpc-js trusts any integer there, and an
 * exit code of 5 would read as NOT_FOUND.
 */
export function toStatus(error: unknown): Status {
  const code = error instanceof RuntimeError ? grpcCodes[error.code] : status.INTERNAL;
  const text = messageOf(error);
  const cut = text.length > longestDetails ? `${text.slice(0, longestDetails)}...` : text;
  // grpc-js puts the text through encodeURI, which throws at half a surrogate pair.
  return { code, details: cut.toWellFormed(), metadata: new Metadata() };
}

/** The name of a status code as people know it. */
export const statusName = (code: status): string => status[code] ?? String(code);
