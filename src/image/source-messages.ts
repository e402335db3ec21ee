/** What goes between the JS thread and the thread that reads from registries and layouts. Everything is cloned on its way. */
import { type Code, type ErrorFields, errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import type { Descriptor } from "./documents.ts";
import type { RegistrySourceOptions, SourceLog } from "./registry-source.ts";

/** Of what the thread makes a source. It goes with every question, so that the thread may forget a source, or end, at any time. */
export type SourceSpec = { readonly id: number } & (
  | { readonly kind: "registry"; readonly options: Omit<RegistrySourceOptions, "http" | "tokens" | "log"> }
  | { readonly kind: "layout"; readonly name: string; readonly dir: string }
);

export type Question =
  | { readonly method: "hint" | "manifest"; readonly tagOrDigest: string }
  | { readonly method: "document"; readonly descriptor: Descriptor; readonly maxBytes: number; readonly what: string }
  | { readonly method: "feed"; readonly descriptor: Descriptor; readonly fd: number };

export type ToThread =
  | { readonly kind: "ask"; readonly call: number; readonly source: SourceSpec; readonly question: Question }
  | { readonly kind: "abort"; readonly call: number };

export type FromThread =
  | { readonly kind: "answer"; readonly call: number; readonly value: unknown }
  | { readonly kind: "failure"; readonly call: number; readonly error: PlainError }
  | {
      readonly kind: "log";
      readonly level: LogLevel;
      readonly fields: Readonly<Record<string, unknown>>;
      readonly error: PlainError | undefined;
      readonly text: string;
    };

export type LogLevel = keyof SourceLog;

export interface ThreadData {
  readonly progressTimeoutMs: number;
  /** Where compiled code is kept; undefined: nowhere. */
  readonly compileCache: string | undefined;
}

/** A clone of an error is no RuntimeError any more, and has lost its code and fields. */
export interface PlainError {
  readonly message: string;
  readonly stack: string | undefined;
  readonly runtime: { readonly code: Code; readonly fields: ErrorFields } | undefined;
  /** Symbolic, of an error of Node's or undici's. */
  readonly errno: string | undefined;
  readonly cause: PlainError | undefined;
}

export function toPlain(error: unknown): PlainError {
  const cause = error instanceof Error ? error.cause : undefined;
  return {
    message: messageOf(error),
    stack: error instanceof Error ? error.stack : undefined,
    runtime: error instanceof RuntimeError ? { code: error.code, fields: error.fields } : undefined,
    errno: error instanceof RuntimeError ? undefined : errnoName(error),
    cause: cause === undefined ? undefined : toPlain(cause),
  };
}

export function fromPlain({ message, stack, runtime, errno, cause: inner }: PlainError): Error {
  const cause = inner === undefined ? undefined : fromPlain(inner);
  if (runtime !== undefined) return new RuntimeError(runtime.code, message, runtime.fields, cause);
  const error = new Error(message, cause === undefined ? undefined : { cause });
  return Object.assign(error, { stack }, errno === undefined ? {} : { code: errno });
}
