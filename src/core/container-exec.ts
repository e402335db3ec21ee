/** Runs a command in a running container and collects what it writes. */
import { randomUUID } from "node:crypto";
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

const unknownEnd = 255;

export async function execInContainer(input: ExecInput): Promise<ExecResult> {
  const { tools, shim, pod, containerId, oci, request, signal } = input;
  const profile = oci.linux.seccomp;
  const seccomp = profile === undefined ? undefined : await tools.seccomp.compile(profile);
  const process = { ...oci.process, args: request.args, terminal: false };
  const use = tools.cgroups.use(cgroupsPathOf(oci));
  using init = openProcess(input.init);
  const plan = planExec({
    containerId,
    process,
    pod,
    ...joinedKinds(oci),
    cgroupTasks: use.taskFiles,
    settings: processSettings(process, tools.own, pod.user !== null, seccomp),
    hasStdin: false,
  });
  const exec = {
    id: containerId,
    execId: randomUUID(),
    plan,
    cloneKinds: 0,
    cgroup: use.into,
    timeoutMs: request.timeoutMs,
    signal,
  };
  return resultOf(await execWithOutput(shim, exec, request, [init.fd]));
}

function resultOf({ stdout, stderr, ending }: ExecOutput): ExecResult {
  return { stdout, stderr, exitCode: ending.known ? ending.exitCode : unknownEnd, timedOut: ending.timedOut };
}
