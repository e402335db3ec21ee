/** The one error class of the runtime. */

/** What kind of failure it is; src/server maps each to a gRPC status by an exhaustive table. */
export type Code =
  | "invalid_argument"
  | "not_found"
  | "already_exists"
  | "failed_precondition"
  | "permission_denied"
  | "unauthenticated"
  | "resource_exhausted"
  | "out_of_range"
  | "unimplemented"
  | "unavailable"
  | "deadline_exceeded"
  | "canceled"
  | "aborted"
  | "data_loss"
  | "unknown"
  | "internal";

export type ErrorFields = Readonly<Record<string, string | number>>;

/**
 * Made where the fact is known. `message` is for people: lower case, names the object, the cause and, where there is one, the
 * remedy. `fields` are for logs and tests. Context is added by wrapping with `cause`.
 */
export class RuntimeError extends Error {
  override readonly name = "RuntimeError";
  readonly code: Code;
  readonly fields: ErrorFields;

  constructor(code: Code, message: string, fields: ErrorFields = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.fields = fields;
  }
}

/** The text of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The code of a RuntimeError, `internal` for everything else. */
export function codeOf(error: unknown): Code {
  return error instanceof RuntimeError ? error.code : "internal";
}

/** Adds context in front of a message and keeps the code and the fields. */
export function wrapError(context: string, error: unknown, fields: ErrorFields = {}): RuntimeError {
  const inner = error instanceof RuntimeError ? error.fields : {};
  return new RuntimeError(codeOf(error), `${context}: ${messageOf(error)}`, { ...inner, ...fields }, error);
}

/** The symbolic name of a Node system error (`ENOENT`), or undefined. */
export function errnoName(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
