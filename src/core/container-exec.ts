/** Runs a command in a running container and collects what it writes. */
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { errnoName } from "../lib/errors.ts";
import { errnoOf } from "../native/addon.ts";
import { cgroupsPathOf } from "./container-create.ts";
import { planExec } from "./exec-plan.ts";
import { joinedKinds } from "./final-spec.ts";
import type { OciSpec } from "./oci.ts";
import { openProcess } from "./open-process.ts";
import type { PodTools } from "./pod-tools.ts";
import { processSettings } from "./process/process-settings.ts";
import type { ExecRequest, ExecResult, PodSpec, ProcessIdentity } from "./runtime.ts";
import { type ExecOutput, execWithOutput } from "./shim/exec-output.ts";
import type { Shim } from "./shim/shim.ts";

export interface ExecInput {
  readonly tools: PodTools;
  readonly shim: Shim;
  readonly pod: PodSpec;
  readonly containerId: string;
  readonly oci: OciSpec;
  readonly init: ProcessIdentity;
  readonly request: ExecRequest;
  readonly signal: AbortSignal;
}

/** EBUSY: the container enabled controllers below its cgroup, so that only leaves take processes; ENOENT: it moved itself away. */
const movedAway = new Set([16, 2, 95]);
const unknownEnd = 255;

export async function execInContainer(input: ExecInput): Promise<ExecResult> {
  const { tools, oci } = input;
  const use = tools.cgroups.use(cgroupsPathOf(oci));
  try {
    return resultOf(await launch(input, use.into));
  } catch (error) {
    const other = use.into === "" || !isForkFailure(error) ? undefined : await cgroupOfInit(input);
    if (other === undefined || other === use.into) throw error;
    return resultOf(await launch(input, other));
  }
}

async function launch(input: ExecInput, into: string): Promise<ExecOutput> {
  const { tools, shim, pod, containerId, oci, request, signal } = input;
  const profile = oci.linux.seccomp;
  const seccomp = profile === undefined ? undefined : await tools.seccomp.compile(profile);
  const process = { ...oci.process, args: request.args, terminal: false };
  using init = openProcess(input.init);
  const plan = planExec({
    containerId,
    process,
    pod,
    ...joinedKinds(oci),
    cgroupTasks: tools.cgroups.use(cgroupsPathOf(oci)).taskFiles,
    settings: processSettings(process, tools.own, pod.user !== null, seccomp),
    hasStdin: false,
  });
  const exec = { id: containerId, execId: randomUUID(), plan, cloneKinds: 0, cgroup: into, timeoutMs: request.timeoutMs, signal };
  return await execWithOutput(shim, exec, request, [init.fd]);
}

function resultOf({ stdout, stderr, ending }: ExecOutput): ExecResult {
  return { stdout, stderr, exitCode: ending.known ? ending.exitCode : unknownEnd, timedOut: ending.timedOut };
}

/** The shim could not fork into the cgroup; failures of the plan name an operation. */
function isForkFailure(error: unknown): boolean {
  const noOperation = error instanceof Error && !(typeof (error as { fields?: { op?: unknown } }).fields?.op === "number");
  return noOperation && movedAway.has(errnoOf(error) ?? 0);
}

async function cgroupOfInit({ tools, oci, init }: ExecInput): Promise<string | undefined> {
  try {
    return tools.cgroups.directoryFor(cgroupsPathOf(oci), await readFile(`/proc/${init.pid}/cgroup`, "utf8"));
  } catch (error) {
    if (errnoName(error) === "ENOENT" || errnoName(error) === "ESRCH") return undefined;
    throw error;
  }
}
