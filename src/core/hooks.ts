/**
 * Hooks (runtime-spec "POSIX-platform Hooks"). Those of the runtime's namespaces are programs of this process; those of the container's
 * are operations of its plan. Every hook gets its own environment and nothing else (CVE-2025-23266), and the state on stdin.
 */
import { RuntimeError } from "../lib/errors.ts";
import { runHostProgram } from "../native/host-program.ts";
import type { HookName, OciHook, OciHooks, OciSpec } from "./oci.ts";
import { hookNames } from "./oci.ts";
import type { Op } from "./plan.ts";

/** The state that hooks see, without what changes: status and pid. */
export interface HookState {
  readonly ociVersion: string;
  readonly id: string;
  readonly bundle: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Of a container whose specification lies in that directory. */
export function hookStateOfSpec(id: string, bundle: string, { ociVersion, annotations = {} }: OciSpec): HookState {
  return { ociVersion, id, bundle, annotations };
}

/** Whether hooks of the runtime's namespaces run before the pivot: the plan then waits for them. */
export function hasCreationHooks(hooks: OciHooks | undefined): boolean {
  return (hooks?.prestart?.length ?? 0) + (hooks?.createRuntime?.length ?? 0) > 0;
}

/** Namespaces and mounts are there, the root is not pivoted yet. */
export async function runCreationHooks(
  hooks: OciHooks | undefined,
  state: HookState,
  pid: number,
  signal: AbortSignal,
): Promise<void> {
  const moment = { status: "creating", pid } as const;
  await runHooks("prestart", hooks, state, moment, signal);
  await runHooks("createRuntime", hooks, state, moment, signal);
}

export interface HookMoment {
  readonly status: "creating" | "created" | "running" | "stopped";
  /** Absent when stopped. */
  readonly pid?: number;
}

const maxOutputBytes = 64 << 10;
const shownOutputBytes = 2048;

/** @throws RuntimeError invalid_argument. */
export function checkHooks(hooks: OciHooks | undefined): void {
  for (const [name, list] of Object.entries(hooks ?? {})) {
    if (!hookNames.some((known) => known === name)) throw invalid(`hooks.${name} is not known`);
    list.forEach(({ path, env = [], timeout }, index) => {
      const what = `hooks.${name}[${index}]`;
      if (!path.startsWith("/")) throw invalid(`${what}.path ${JSON.stringify(path)} is not absolute`);
      if (timeout !== undefined && !(timeout > 0 && timeout < 1 << 21))
        throw invalid(`${what}.timeout ${timeout} is not a time in seconds`);
      for (const entry of env)
        if (entry.indexOf("=") <= 0) throw invalid(`${what}.env ${JSON.stringify(entry)} is not NAME=value`);
    });
  }
}

/** One after another; the first that fails ends it. @throws RuntimeError `error running NAME hook #INDEX: why`. */
export async function runHooks(
  name: HookName,
  hooks: OciHooks | undefined,
  state: HookState,
  moment: HookMoment,
  signal: AbortSignal,
): Promise<void> {
  for (const [index, hook] of (hooks?.[name] ?? []).entries()) {
    const failure = await failureOf(name, index, hook, { ...state, ...moment }, signal);
    if (failure !== undefined) throw failure;
  }
}

/** The container is gone: whatever they do, the next one runs all the same, and failures are only told. */
export async function runPoststopHooks(
  hooks: OciHooks | undefined,
  state: HookState,
  signal: AbortSignal,
  tell: (failure: RuntimeError) => void,
): Promise<void> {
  for (const [index, hook] of (hooks?.poststop ?? []).entries()) {
    const failure = await failureOf("poststop", index, hook, { ...state, status: "stopped" }, signal);
    if (failure !== undefined) tell(failure);
  }
}

async function failureOf(
  name: HookName,
  index: number,
  hook: OciHook,
  state: object,
  signal: AbortSignal,
): Promise<RuntimeError | undefined> {
  const why = await runHook(hook, state, signal);
  if (why === undefined) return undefined;
  return new RuntimeError("failed_precondition", `error running ${name} hook #${index}: ${why}`, { hook: hook.path });
}

async function runHook(
  { path, args, env = [], timeout }: OciHook,
  state: object,
  signal: AbortSignal,
): Promise<string | undefined> {
  const program = {
    path,
    argv: args === undefined || args.length === 0 ? [path] : args,
    env: Object.fromEntries(env.map((entry): [string, string] => splitEnv(entry))),
    stdin: Buffer.from(JSON.stringify(state)),
    maxStdoutBytes: maxOutputBytes,
    maxStderrBytes: shownOutputBytes,
    lock: null,
  };
  const late = timeout === undefined ? undefined : AbortSignal.timeout(timeout * 1000);
  const limits = late === undefined ? signal : AbortSignal.any([signal, late]);
  let result: Awaited<ReturnType<typeof runHostProgram>>;
  try {
    result = await runHostProgram(program, limits);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  const { exit, stdout, stderr, killed } = result;
  if (killed === "aborted" && late?.aborted === true) return `hook ran past specified timeout of ${timeout?.toFixed(1)}s`;
  if (killed !== undefined)
    return killed === "output" ? `it wrote more than ${maxOutputBytes} bytes` : "the operation was given up";
  if (exit.code === 0) return undefined;
  const end = exit.code < 0 ? `signal ${exit.signal}` : `exit status ${exit.code}`;
  const shown = (bytes: Buffer) => bytes.subarray(-shownOutputBytes).toString().trim();
  return `${end}, stdout: ${shown(stdout)}, stderr: ${shown(stderr)}`;
}

/** Operations for hooks that run in the container's namespaces; the helper fills in the pid that the container sees. */
export function planHooks(
  name: "createContainer" | "startContainer",
  hooks: OciHooks | undefined,
  state: HookState,
  status: HookMoment["status"],
): readonly Op[] {
  return (hooks?.[name] ?? []).map(({ path, args, env = [], timeout = 0 }, index): Op => {
    const rest = JSON.stringify({ ...state, status });
    return {
      op: "hook",
      name,
      index,
      path,
      args: args === undefined || args.length === 0 ? [path] : args,
      env,
      before: '{"pid":',
      after: `,${rest.slice(1)}`,
      timeoutMs: Math.ceil(timeout * 1000),
    };
  });
}

function splitEnv(entry: string): [string, string] {
  const at = entry.indexOf("=");
  return [entry.slice(0, at), entry.slice(at + 1)];
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
