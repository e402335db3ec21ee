/** One execution of a CNI plugin (CNI 1.1.0, section 2). */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Code, messageOf, RuntimeError } from "../lib/errors.ts";
import { type ProgramLock, type ProgramResult, runHostProgram } from "../native/host-program.ts";
import type { JsonObject } from "./network-list.ts";

export type Command = "ADD" | "DEL" | "CHECK" | "STATUS" | "GC";

export interface PluginCall {
  readonly command: Command;
  readonly type: string;
  readonly config: JsonObject;
  readonly containerId: string;
  /** Empty: gone already (DEL), or not about a container (STATUS, GC). */
  readonly netns: string;
  readonly ifName: string;
  readonly args: string;
  readonly binDirs: readonly string[];
  /** Lock that the plugin holds as long as it lives, also without its daemon; null: it ends with the daemon. */
  readonly lock: ProgramLock | null;
}

const maxResultBytes = 4 * 1024 * 1024;
const maxLogBytes = 64 * 1024;
const shownLogBytes = 2048;

/** CNI's well-known error codes that matter to a caller. */
const tryAgainLater = 11;
const notAvailable = [50, 51];

async function findPlugin(type: string, binDirs: readonly string[]): Promise<string> {
  for (const directory of binDirs) {
    const path = join(directory, type);
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return path;
    } catch {
      // Not in this directory.
    }
  }
  throw new RuntimeError("failed_precondition", `CNI plugin ${type} is not in ${binDirs.join(", ")}: install it there`, {
    plugin: type,
  });
}

const aboutNode: ReadonlySet<Command> = new Set(["STATUS", "GC"]);

/** Plugins get this and nothing of the daemon's own environment. PATH: they start iptables, nft, ip and modprobe. */
function environment(call: PluginCall): Record<string, string> {
  return {
    PATH: process.env.PATH || "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    CNI_COMMAND: call.command,
    CNI_PATH: call.binDirs.join(":"),
    ...(aboutNode.has(call.command) ? {} : { CNI_CONTAINERID: call.containerId, CNI_IFNAME: call.ifName, CNI_ARGS: call.args }),
    ...(call.netns === "" ? {} : { CNI_NETNS: call.netns }),
  };
}

/** Text of a plugin for a message: one line, no control characters. */
function tidy(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, " ").trim();
}

interface PluginError {
  readonly code: number;
  readonly text: string;
}

/** The specification says stderr, all implementations print the error to stdout. */
function errorOf(result: ProgramResult): PluginError {
  try {
    const parsed: unknown = JSON.parse(result.stdout.toString("utf8"));
    if (typeof parsed === "object" && parsed !== null && "msg" in parsed) {
      const { code, msg, details } = parsed as { code?: unknown; msg: unknown; details?: unknown };
      const more = typeof details === "string" && details !== "" ? `; ${details}` : "";
      return { code: typeof code === "number" ? code : 0, text: tidy(`${String(msg)}${more}`).slice(0, 2 * shownLogBytes) };
    }
  } catch {
    // Not JSON: fall through to what there is.
  }
  const text = tidy((result.stderr.length > 0 ? result.stderr : result.stdout).subarray(-shownLogBytes).toString("utf8"));
  const how = result.exit.signal > 0 ? `killed by signal ${result.exit.signal}` : `exit code ${result.exit.code}`;
  return { code: 0, text: text === "" ? how : `${how}: ${text}` };
}

function codeFor(error: PluginError): Code {
  return error.code === tryAgainLater || notAvailable.includes(error.code) ? "unavailable" : "internal";
}

/**
 * Runs the plugin and returns what it printed (undefined when nothing). `signal` kills it: its reason says whether a deadline passed or
 * the caller went away.
 */
export async function runPlugin(call: PluginCall, signal: AbortSignal): Promise<JsonObject | undefined> {
  const fields = { plugin: call.type, command: call.command };
  const failed = (code: Code, why: string, cause?: unknown): RuntimeError =>
    new RuntimeError(code, `CNI plugin ${call.type} failed to ${call.command}: ${why}`, fields, cause);
  const path = await findPlugin(call.type, call.binDirs);
  let result: ProgramResult;
  try {
    result = await runHostProgram(
      {
        path,
        argv: [path],
        env: environment(call),
        stdin: Buffer.from(JSON.stringify(call.config)),
        maxStdoutBytes: maxResultBytes,
        maxStderrBytes: maxLogBytes,
        lock: call.lock,
      },
      signal,
    );
  } catch (error) {
    if (signal.aborted) throw abortError(call, signal, error);
    throw failed("internal", messageOf(error), error);
  }
  if (result.killed === "aborted") throw abortError(call, signal);
  if (result.killed === "output") throw failed("internal", `it printed more than ${maxResultBytes} bytes`);
  if (result.exit.code !== 0) {
    const error = errorOf(result);
    throw new RuntimeError(
      codeFor(error),
      `CNI plugin ${call.type} failed to ${call.command}: ${error.text}${error.code > 0 ? ` (CNI error ${error.code})` : ""}`,
      { ...fields, cniCode: error.code },
    );
  }
  if (result.stdout.length === 0) return undefined;
  try {
    const parsed: unknown = JSON.parse(result.stdout.toString("utf8"));
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)) return parsed as JsonObject;
  } catch (error) {
    throw failed("internal", `its output is not JSON: ${messageOf(error)}`, error);
  }
  throw failed("internal", "its output is not a JSON object");
}

function abortError(call: PluginCall, signal: AbortSignal, cause?: unknown): RuntimeError {
  const { reason } = signal;
  if (reason instanceof RuntimeError) return reason;
  const overdue = reason instanceof Error && reason.name === "TimeoutError";
  return new RuntimeError(
    overdue ? "deadline_exceeded" : "canceled",
    `CNI plugin ${call.type} was killed during ${call.command}: ${overdue ? "it did not end in time" : "the call was canceled"}`,
    { plugin: call.type, command: call.command },
    cause,
  );
}
