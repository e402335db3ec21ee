/** A command whose streams a client has: what exec and attach have in common, whatever carries the streams. */
import type { Readable, Writable } from "node:stream";
import { codeOf, messageOf, RuntimeError } from "../lib/errors.ts";

export interface TerminalSize {
  /** 1 to 65535 each. */
  readonly rows: number;
  readonly columns: number;
}

/** The client's sides of the streams. Reading and writing wait for the client. */
export interface RemoteStreams {
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  readonly stderr: Writable | undefined;
  /** The last size that the client has told so far. */
  readonly size: () => TerminalSize | undefined;
  /** Told of each later one. */
  readonly onResize: (listener: (size: TerminalSize) => void) => void;
}

export interface CommandOutcome {
  /** 0 to 255; 128 and a signal's number for one that a signal ended. */
  readonly exitCode: number;
}

/** What a token stands for. */
export interface RemoteCommand {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  /**
   * Runs the command and copies its streams; resolves when all output has been written. `gone` fires when the client has gone, was
   * silent for too long, or the daemon stops: the command is then given up.
   */
  readonly run: (streams: RemoteStreams, gone: AbortSignal) => Promise<CommandOutcome>;
}

/** Protocol versions of remote commands, and what the error stream carries in each. */
export const commandProtocols = {
  "v5.channel.k8s.io": "status",
  "v4.channel.k8s.io": "status",
  "v3.channel.k8s.io": "text",
  "v2.channel.k8s.io": "text",
  "channel.k8s.io": "text",
} as const;
export type CommandProtocol = keyof typeof commandProtocols;
/** v5 exists only over WebSocket: SPDY has always had half-closed streams. */
export const spdyCommandProtocols: readonly CommandProtocol[] = [
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
  "channel.k8s.io",
];

export type CommandResult = { readonly outcome: CommandOutcome } | { readonly error: unknown };

/** Runs the command; an error is a result as well: the client is told on its error stream. */
export async function resultOf(command: RemoteCommand, streams: RemoteStreams, gone: AbortSignal): Promise<CommandResult> {
  try {
    return { outcome: await command.run(streams, gone) };
  } catch (error) {
    return { error };
  }
}

/** The bytes of the error stream: a meta/v1 Status, or in older protocols a sentence when something went wrong. */
export function errorStreamText(protocol: CommandProtocol, result: CommandResult): string {
  if (commandProtocols[protocol] === "status") return JSON.stringify(statusOf(result));
  const status = statusOf(result);
  return "message" in status ? status.message : "";
}

function statusOf(result: CommandResult) {
  if ("error" in result) return failureOf(result.error);
  const { exitCode } = result.outcome;
  if (exitCode === 0) return { metadata: {}, status: "Success" } as const;
  return {
    metadata: {},
    status: "Failure",
    reason: "NonZeroExitCode",
    message: `command terminated with non-zero exit code: exit code ${exitCode}`,
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  } as const;
}

function failureOf(error: unknown) {
  const message = error instanceof RuntimeError || codeOf(error) !== "internal" ? messageOf(error) : "unexpected failure";
  return {
    metadata: {},
    status: "Failure",
    reason: "InternalError",
    code: 500,
    message: `Internal error occurred: ${message}`,
    details: { causes: [{ message }] },
  } as const;
}
