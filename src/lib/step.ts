/**
 * Named steps of the main flows. A test arms one of them through the environment of the daemon:
 *
 *     CAISSON_FAULT=kill:before:pod.network-attach      SIGKILL to itself
 *     CAISSON_FAULT=throw:after:container.shim-create   an internal error
 *     CAISSON_FAULT=pause=5000:before:exec.shim-exec    waits 5 s, so that something else can be killed meanwhile
 *     CAISSON_FAULT_FILE=FILE                           one of these texts, read at each step: a running daemon is armed, disarmed and
 *                                                       let out of a pause by writing the file or removing it
 *     CAISSON_FAULT_TRACE=FILE                          appends each step's name as it is reached, and the fault when it strikes
 *     CAISSON_STEP_TIMES=FILE                           appends each step's name and its milliseconds when it has ended
 *
 * Without them a step is a plain call. `allSteps` is the whole list, so that a test can arm each and fail if one was never reached.
 */
import { appendFileSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "./errors.ts";

export const allSteps = [
  "pod.record-intent",
  "pod.start-shim",
  "pod.record-helper",
  "pod.write-files",
  "pod.write-record",
  "pod.network-attach",
  "pod.sysctls",
  "pod.record-ready",
  "pod.record-limits",
  "pod.record-stopping",
  "pod.network-detach",
  "pod.record-detached",
  "pod.destroy",
  "pod.record-stopped",
  "pod.record-removing",
  "pod.forget",
  "container.record-intent",
  "container.hold-image",
  "container.make-layer",
  "container.open-rootfs",
  "container.make-volumes",
  "container.open-images",
  "container.shim-create",
  "container.write-bundle",
  "container.record-created",
  "container.record-starting",
  "container.shim-start",
  "container.record-running",
  "container.update-limits",
  "container.record-limits",
  "container.record-stop",
  "container.shim-signal",
  "container.shim-kill",
  "container.record-exited",
  "container.acknowledge-exit",
  "container.record-removing",
  "container.shim-remove",
  "container.remove-files",
  "container.remove-bundle",
  "container.release-image",
  "container.forget",
  "exec.shim-exec",
  "log.shim-reopen",
  "image.pull",
  "image.unpack-layer",
  "image.commit-layer",
  "image.record",
  "image.forget",
  "image.remove-layers",
] as const;
/** Those that only a node with the systemd driver reaches. */
export const systemdSteps = ["container.admit"] as const;
/** Of what is taken back after a failure (each undo), and of a daemon's start; no main flow reaches them. */
export const repairSteps = ["undo", "recovery.sandbox", "recovery.sweep"] as const;
export type StepName = (typeof allSteps)[number] | (typeof systemdSteps)[number] | (typeof repairSteps)[number];
const stepNames: ReadonlySet<string> = new Set<StepName>([...allSteps, ...systemdSteps, ...repairSteps]);

export interface Fault {
  readonly action: "kill" | "throw" | "pause";
  readonly pauseMs: number;
  readonly when: "before" | "after";
  readonly step: string;
}

const defaultPauseMs = 10_000;

/** Undefined when nothing is armed; `invalid_argument` for a text that names no fault, so that a test's misspelling is seen. */
export function parseFault(text: string | undefined): Fault | undefined {
  if (text === undefined || text === "") return undefined;
  const [, action, ms, when, step] = /^(kill|throw|pause)(?:=(\d+))?:(before|after):(.+)$/.exec(text) ?? [];
  if (action === undefined || when === undefined || !stepNames.has(step ?? "")) {
    throw new RuntimeError(
      "invalid_argument",
      `CAISSON_FAULT=${text} names no fault: want kill|throw|pause[=MS]:before|after:STEP`,
    );
  }
  return {
    action: action as Fault["action"],
    pauseMs: ms === undefined ? defaultPauseMs : Number(ms),
    when: when as Fault["when"],
    step: step as StepName,
  };
}

let armed = parseFault(process.env.CAISSON_FAULT);
let struck: () => void = () => {};
const faultFile = process.env.CAISSON_FAULT_FILE;
const traceFile = process.env.CAISSON_FAULT_TRACE;
const timesFile = process.env.CAISSON_STEP_TIMES;

/** Arms a fault inside this process, or disarms it: for tests that do not start a daemon. Resolves when it strikes. */
export async function armFault(fault: Fault | undefined): Promise<void> {
  armed = fault;
  if (fault === undefined) return;
  await new Promise<void>((resolve) => {
    struck = resolve;
  });
}

function faultText(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

/** Runs one step. Without a fault, `work` is called before this returns: what it does synchronously is done in the caller's tick. */
export async function step<T>(name: StepName, work: () => T | Promise<T>): Promise<T> {
  if (traceFile !== undefined) appendFileSync(traceFile, `${name}\n`);
  return timesFile === undefined ? await run(name, work) : await timed(name, work, timesFile);
}

async function timed<T>(name: StepName, work: () => T | Promise<T>, file: string): Promise<T> {
  const beganMs = performance.now();
  try {
    return await run(name, work);
  } finally {
    appendFileSync(file, `${name} ${(performance.now() - beganMs).toFixed(3)}\n`);
  }
}

async function run<T>(name: StepName, work: () => T | Promise<T>): Promise<T> {
  if (faultFile !== undefined) armed = parseFault(faultText(faultFile));
  if (armed?.step !== name) return await work();
  if (armed.when === "before") await strike(armed);
  const result = await work();
  if (armed?.when === "after") await strike(armed);
  return result;
}

const pollMs = 5;

/** As long as the fault says, or until its file says something else. */
async function pause(fault: Fault): Promise<void> {
  if (faultFile === undefined) return await sleep(fault.pauseMs);
  const text = faultText(faultFile);
  const until = performance.now() + fault.pauseMs;
  while (performance.now() < until && faultText(faultFile) === text) await sleep(pollMs);
}

async function strike(fault: Fault): Promise<void> {
  struck();
  if (traceFile !== undefined) appendFileSync(traceFile, `${fault.action}:${fault.when}:${fault.step}\n`);
  switch (fault.action) {
    case "kill":
      process.kill(process.pid, "SIGKILL");
      return await sleep(defaultPauseMs);
    case "throw":
      throw new RuntimeError("internal", `fault injected ${fault.when} ${fault.step}`, { step: fault.step });
    case "pause":
      await pause(fault);
  }
}
