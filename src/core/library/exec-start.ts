/** Starts a further process in a running container. */
import { existsSync } from "node:fs";
import { normalize } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { randomHex } from "../../lib/random.ts";
import { addon } from "../../native/addon.ts";
import type { CgroupUse } from "../cgroup/cgroups.ts";
import type { OciProcess } from "../oci.ts";
import { openProcess } from "../open-process.ts";
import { processSettings } from "../process/process-settings.ts";
import { handedBarrier, SeccompHandOver } from "../process/seccomp-listener.ts";
import { findSecurityModules, withLabels } from "../process/security-modules.ts";
import { enterResctrl, findResctrl, rdtBarrier } from "../resctrl.ts";
import type { ProcessIdentity } from "../runtime.ts";
import { readStartTicks } from "../shim/process-handle.ts";
import type { Shim } from "../shim/shim.ts";
import type { Config } from "./config.ts";
import { sendConsole } from "./console-socket.ts";
import type { ContainerCgroup } from "./container-cgroup.ts";
import { helperIdOf } from "./container-shim.ts";
import { notRunning } from "./errors.ts";
import { giveAway, hasNullDevice } from "./init-start.ts";
import type { Machine } from "./machine.ts";
import { hookStateOf } from "./oci-state.ts";
import type { ProcessExit, RunningProcess } from "./process.ts";
import type { ProcessSpec } from "./process-spec.ts";
import { planSetns } from "./setns-plan.ts";
import type { Shape } from "./shape.ts";
import { sigkill, signalNumber } from "./signals.ts";
import { PreparedStdio } from "./stdio.ts";
import { translateConfig } from "./translate.ts";

export interface ExecStart {
  readonly machine: Machine;
  readonly id: string;
  readonly config: Config;
  readonly cgroup: ContainerCgroup;
  readonly shape: Shape;
  readonly init: ProcessIdentity;
  readonly shim: Shim;
  readonly spec: ProcessSpec;
  readonly process: OciProcess;
  readonly signal: AbortSignal;
}

export async function startExec(input: ExecStart): Promise<RunningProcess> {
  const { machine, config, shape, shim, spec, process, signal } = input;
  if (spec.attachable !== undefined)
    throw new RuntimeError("invalid_argument", "only a container's first process can be attached to: give this one pipes");
  using init = openProcess(input.init);
  using stdio = new PreparedStdio(spec, 0, hasNullDevice(config));
  const inUserNamespace = shape.user !== "shared";
  const use = cgroupOfProcess(input.cgroup, spec.subCgroup);
  const oci = withLabels(translateConfig(config, input.process), findSecurityModules());
  const plan = planSetns({
    containerId: input.id,
    oci,
    shape,
    keyring: config.noNewKeyring !== true,
    cgroupTasks: use.taskFiles,
    settings: processSettings(
      process,
      machine.own,
      inUserNamespace,
      config.seccomp === undefined ? undefined : await machine.seccomp.compile(config.seccomp),
    ),
    stdio: stdio.slots,
    keep: stdio.keep,
    init: stdio.fds.length,
    giveAway: giveAway(config, oci, inUserNamespace && machine.caller === undefined ? stdio.pipes : []),
    rootless: machine.caller !== undefined,
  });
  const execId = randomHex(16);
  const request = { id: helperIdOf(input.id), execId, plan, cloneKinds: 0, cgroup: use.into, timeoutMs: 0, signal };
  const handOver = new SeccompHandOver((step) => shim.run(step), signal);
  const onBarrier = async (number: number, pid: number): Promise<void> => {
    const place = findResctrl(input.id, config.intelRdt);
    if (number === rdtBarrier) return place === undefined ? undefined : enterResctrl(place, pid);
    if (number === handedBarrier) return await handOver.handed();
    const state = { ...hookStateOf(input.id, config), status: "running", pid: input.init.pid };
    if (config.seccomp !== undefined) await handOver.connect(pid, { state, profile: config.seccomp });
  };
  const running = await shim.exec({ ...request, fds: [...stdio.fds, init.fd], onBarrier });
  const identity = { pid: running.pid, startTicks: readStartTicks(running.pid) ?? 0n };
  // From here on it is the container's: it lives on when this process ends.
  await shim.execAdopt(helperIdOf(input.id), execId);
  const { consoleSocket } = spec;
  try {
    if (consoleSocket !== undefined) sendConsole(consoleSocket, running.fds[0]);
  } catch (error) {
    shim.execKill(helperIdOf(input.id), execId, sigkill);
    throw error;
  }
  return {
    identity,
    streams: stdio.connect(),
    consoleFd: consoleSocket === undefined ? running.fds[0] : undefined,
    ended: running.ended.then(exitOf, () => unknownExit),
    signal: async (asked) =>
      await signalProcess(identity, signalNumber(asked), () => shim.execKill(helperIdOf(input.id), execId, sigkill)),
  };
}

/** Where a hierarchy lacks the sub-cgroup the container's own is taken, as it may be made in some hierarchies only. */
function cgroupOfProcess({ cgroups, path }: ContainerCgroup, sub: string | undefined): CgroupUse {
  const own = cgroups.use(path);
  if (sub === undefined) return own;
  // Cleaned as if rooted: it cannot climb.
  const below = cgroups.use(normalize(`${path}/${normalize(`/${sub}`)}`));
  const taskFiles = own.taskFiles.map((file, at) =>
    existsSync(below.taskFiles[at] ?? "") ? (below.taskFiles[at] ?? file) : file,
  );
  const into = existsSync(below.into) ? below.into : own.into;
  if (into === own.into && taskFiles.every((file, at) => file === own.taskFiles[at]))
    throw new RuntimeError("invalid_argument", `the container has no cgroup ${JSON.stringify(sub)} below its own`);
  return { ...own, taskFiles, into };
}

export const unknownExit: ProcessExit = { exitCode: 255, signal: 0, known: false, oomKilled: undefined };

function exitOf({ exitCode, signal, known }: { exitCode: number; signal: number; known: boolean }): ProcessExit {
  return { exitCode, signal, known, oomKilled: undefined };
}

/** SIGKILL goes by the helper, which ends the whole session. */
async function signalProcess(identity: ProcessIdentity, signal: number, kill: () => void): Promise<void> {
  if (readStartTicks(identity.pid) !== identity.startTicks) throw notRunning();
  if (signal === sigkill) kill();
  else signalExactly(identity, signal);
}

/** @throws RuntimeError `container not running` when exactly this process has ended. */
export function signalExactly(identity: ProcessIdentity, signal: number): void {
  let process: ReturnType<typeof openProcess>;
  try {
    process = openProcess(identity);
  } catch {
    throw notRunning();
  }
  try {
    addon.pidfdSignal(process.fd, signal);
  } finally {
    process[Symbol.dispose]();
  }
}
