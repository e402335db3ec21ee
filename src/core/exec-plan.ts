/**
 * The whole plan of a process that joins a running container. It is confined before it is forked into the container's PID
 * namespace: until then no sibling can see it, and afterwards there is nothing to take over (CVE-2016-9962). Pure.
 */
import { toHostId } from "./namespace/id-map.ts";
import type { PodShape } from "./namespace/pod-shape.ts";
import type { OciProcess, OciSpec } from "./oci.ts";
import type { Op, Plan } from "./plan.ts";
import { noSlot, nsKind } from "./plan-schema.ts";
import { planAttributes, planLabels, survivesFork } from "./process/process-attributes.ts";
import { environmentOf, type ProcessSettings, planConfinement, planOomScore } from "./process/process-plan.ts";
import { rdtBarrier } from "./resctrl.ts";

/** Slots of an `exec` request. */
export const execSlot = { stdin: 0, stdout: 1, stderr: 2, init: 3 } as const;

export interface ExecPlanInput {
  readonly containerId: string;
  /** The container's process with the command to run. */
  readonly process: OciProcess;
  readonly memoryPolicy?: OciSpec["linux"]["memoryPolicy"];
  /** What is "new" in it is not the node's for the container. */
  readonly pod: PodShape;
  readonly cgroupNamespace: "private" | "host";
  readonly hostPid: boolean;
  /** v1 `tasks` files; on v2 the child is born in the cgroup. */
  readonly cgroupTasks: readonly string[];
  readonly settings: ProcessSettings;
  /** The process waits until it has the container's class of Intel RDT. */
  readonly classOfService: boolean;
  /** Which of the request's first three descriptors are there; the others are the container's null device. */
  readonly stdio: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean };
}

export function planExec(input: ExecPlanInput): Plan {
  const { process, settings, memoryPolicy } = input;
  const entersPid = !input.hostPid;
  return [
    { op: "clean-start" },
    ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
    planOomScore(settings),
    ...planAttributes(
      { process: inheritable(process, entersPid), linux: memoryPolicy === undefined ? {} : { memoryPolicy } },
      entersPid,
    ),
    ...(input.classOfService ? [{ op: "barrier", number: rdtBarrier } as const] : []),
    ...giveStdio(input),
    { op: "join-process", slot: execSlot.init, kinds: kindsOf(input) },
    planStdio(input),
    ...planLabels(process),
    { op: "keyring", name: `_ses.${input.containerId}` },
    ...planConfinement(process, settings),
    ...(entersPid ? [{ op: "fork" } as const] : []),
    { op: "exec", path: process.args[0] ?? "", args: process.args, env: environmentOf(process.env) },
  ];
}

/** A probe of a container whose scheduler cannot be handed on runs with the default one: better than none. */
function inheritable(process: OciProcess, forks: boolean): OciProcess {
  const { scheduler, ...rest } = process;
  return scheduler === undefined || !forks || survivesFork(scheduler) ? process : rest;
}

/** In a user namespace nobody could give the process the host's pipes any more, and then it could not open /dev/stdout. */
function giveStdio({ process, pod, stdio }: ExecPlanInput): readonly Op[] {
  if (pod.user === null || process.terminal === true) return [];
  const uid = toHostId(process.user.uid, pod.user.uid);
  const gid = toHostId(process.user.gid, pod.user.gid);
  return (["stdin", "stdout", "stderr"] as const)
    .filter((name) => stdio[name])
    .map((name): Op => ({ op: "chown-slot", slot: execSlot[name], uid, gid }));
}

/** Of a terminal the requester gets the master. */
function planStdio({ process, stdio }: ExecPlanInput): Op {
  const { terminal, consoleSize } = process;
  if (terminal === true) {
    return { op: "console", rows: consoleSize?.height ?? 0, cols: consoleSize?.width ?? 0, bindConsole: 0, export: 1 };
  }
  const slotOf = (name: "stdin" | "stdout" | "stderr"): number => (stdio[name] ? execSlot[name] : noSlot);
  return { op: "stdio", stdin: slotOf("stdin"), stdout: slotOf("stdout"), stderr: slotOf("stderr") };
}

/** What the container does not share with the shim; joining one's own user namespace would be refused. */
function kindsOf({ pod, cgroupNamespace, hostPid }: ExecPlanInput): number {
  let kinds: number = nsKind.mnt;
  if (pod.user !== null) kinds |= nsKind.user;
  if (pod.network === "new") kinds |= nsKind.net;
  if (pod.ipc === "new") kinds |= nsKind.ipc;
  if (pod.uts === "new") kinds |= nsKind.uts;
  if (cgroupNamespace === "private") kinds |= nsKind.cgroup;
  if (!hostPid) kinds |= nsKind.pid;
  return kinds;
}
