/** Runs commands in a running container: one that is waited for and whose output is collected, or one whose streams are handed out. */
import { randomUUID } from "node:crypto";
import { execBarriers } from "./container-barriers.ts";
import { cgroupsPathOf, hookStateIn } from "./container-create.ts";
import { planExec } from "./exec-plan.ts";
import { joinedKinds, shapeInside } from "./final-spec.ts";
import type { OciProcess, OciSpec } from "./oci.ts";
import { openProcess } from "./open-process.ts";
import type { PodTools } from "./pod-tools.ts";
import { processSettings } from "./process/process-settings.ts";
import type { ExecRequest, ExecResult, PodSpec, ProcessIdentity, StreamedExec, StreamedExecRequest } from "./runtime.ts";
import { type ExecOutput, execWithOutput } from "./shim/exec-output.ts";
import { execWithStreams } from "./shim/exec-streams.ts";
import type { ExecRequest as ShimExecRequest } from "./shim/requests.ts";
import type { Shim } from "./shim/shim.ts";

export interface ExecInput<R> {
  readonly tools: PodTools;
  readonly shim: Shim;
  readonly pod: PodSpec;
  readonly containerId: string;
  readonly oci: OciSpec;
  readonly init: ProcessIdentity;
  readonly request: R;
  readonly signal: AbortSignal;
}

const unknownEnd = 255;

export async function execInContainer(input: ExecInput<ExecRequest>): Promise<ExecResult> {
  const { shim, oci, request } = input;
  const process = { ...oci.process, args: request.args, terminal: false };
  using init = openProcess(input.init);
  const exec = await prepareExec(input, process, { stdin: false, stdout: true, stderr: true }, request.timeoutMs);
  return resultOf(await execWithOutput(shim, exec, request, [init.fd]));
}

export async function streamInContainer(input: ExecInput<StreamedExecRequest>): Promise<StreamedExec> {
  const { shim, oci, request } = input;
  using init = openProcess(input.init);
  const exec = await prepareExec(input, streamedProcess(oci.process, request), request, 0);
  return await execWithStreams(shim, exec, request, [init.fd]);
}

/** Programs that draw on a terminal want to know its kind. */
function streamedProcess(process: OciProcess, { args, terminal, size }: StreamedExecRequest): OciProcess {
  const { consoleSize: _, ...rest } = process;
  if (!terminal) return { ...rest, args, terminal };
  const env = process.env ?? [];
  return {
    ...rest,
    args,
    terminal,
    env: env.some((entry) => entry.startsWith("TERM=")) ? env : [...env, "TERM=xterm"],
    ...(size === undefined ? {} : { consoleSize: { height: size.rows, width: size.columns } }),
  };
}

type Stdio = Parameters<typeof planExec>[0]["stdio"];

async function prepareExec(
  input: ExecInput<unknown>,
  process: OciProcess,
  { stdin, stdout, stderr }: Stdio,
  timeoutMs: number,
): Promise<Omit<ShimExecRequest, "fds">> {
  const { tools, pod, containerId, oci, shim, signal } = input;
  const profile = oci.linux.seccomp;
  const seccomp = profile === undefined ? undefined : await tools.seccomp.compile(profile);
  const use = tools.cgroups.use(cgroupsPathOf(oci));
  const plan = planExec({
    containerId,
    process,
    ...(oci.linux.memoryPolicy === undefined ? {} : { memoryPolicy: oci.linux.memoryPolicy }),
    pod: shapeInside(pod, oci),
    ...joinedKinds(oci),
    cgroupTasks: use.taskFiles,
    settings: processSettings(process, tools.own, pod.user !== null, seccomp),
    classOfService: oci.linux.intelRdt !== undefined,
    stdio: { stdin, stdout, stderr },
  });
  const state = hookStateIn(pod, containerId, oci);
  const run: Shim["run"] = (request) => shim.run(request);
  const onBarrier = execBarriers({ id: containerId, oci, state, run, signal }, input.init.pid);
  return { id: containerId, execId: randomUUID(), plan, cloneKinds: 0, cgroup: use.into, timeoutMs, signal, onBarrier };
}

function resultOf({ stdout, stderr, ending }: ExecOutput): ExecResult {
  return { stdout, stderr, exitCode: ending.known ? ending.exitCode : unknownEnd, timedOut: ending.timedOut };
}
