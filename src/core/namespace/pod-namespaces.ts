/**
 * How a pod gets its namespaces. They are made by short-lived children of the shim and live on as pins that the shim keeps; the
 * network namespace is also bound to a file for CNI plugins. With a user namespace that one comes first, so that it owns the others.
 */
import type { Op, Plan } from "../plan.ts";
import { nsKind, openTreeFlag, podPin } from "../plan-schema.ts";
import { mapText } from "./id-map.ts";
import { type PodShape, sharedNamespaces } from "./pod-shape.ts";

const sigkill = 9;
/** MOUNT_ATTR_NOSUID, NODEV, NOEXEC. */
const hardened = 2 | 4 | 8;

/** One `run` of the shim: kinds that the child is born with, and what it does. */
export interface RunStep {
  readonly cloneKinds: number;
  readonly plan: Plan;
}

export interface PodNamespacesInput extends PodShape {
  readonly hostname: string;
  readonly netnsPath: string | null;
}

/** In this order, without the PID namespace. Empty for a pod that has nothing of its own. */
export function planPodNamespaces(pod: PodNamespacesInput): readonly RunStep[] {
  const made = sharedNamespaces(pod);
  const kinds = made.reduce((bits, { kind }) => bits | kind, 0);
  const steps: RunStep[] = [];
  if (pod.user !== null) {
    const owner: Op[] = [
      { op: "new-userns", uidMap: mapText(pod.user.uid), gidMap: mapText(pod.user.gid) },
      { op: "open-own-ns", out: 0, kind: nsKind.user },
      { op: "pin", slot: 0, pin: podPin.user },
    ];
    steps.push({ cloneKinds: 0, plan: [...owner, ...(kinds === 0 ? [] : [newKinds(kinds)]), ...settings(pod), ...pins(pod)] });
    // A process inside the user namespace has no power over the host's mount tree: a second one binds.
    if (pod.netnsPath !== null && pod.network === "new") {
      const joined: Op = { op: "join-ns", slot: podPin.net, kind: nsKind.net };
      steps.push({ cloneKinds: 0, plan: [joined, { op: "bind-own-ns", kind: nsKind.net, path: pod.netnsPath }] });
    }
  } else if (kinds !== 0) {
    const bound: readonly Op[] =
      pod.netnsPath !== null && pod.network === "new" ? [{ op: "bind-own-ns", kind: nsKind.net, path: pod.netnsPath }] : [];
    steps.push({ cloneKinds: kinds, plan: [...settings(pod), ...pins(pod), ...bound] });
  }
  return steps;
}

function newKinds(kinds: number): Op {
  return { op: "new-ns", kinds };
}

function settings(pod: PodNamespacesInput): readonly Op[] {
  return [
    ...(pod.network === "new" ? [{ op: "loopback-up" } as const] : []),
    ...(pod.uts === "new" ? [{ op: "hostname", name: pod.hostname } as const] : []),
  ];
}

function pins(pod: PodShape): readonly Op[] {
  return sharedNamespaces(pod).flatMap(({ slot, kind }): Op[] => [
    { op: "open-own-ns", out: 1, kind },
    { op: "pin", slot: 1, pin: slot },
  ]);
}

/** Before any container could trace this process. */
function planProc(): readonly Op[] {
  return [
    { op: "fsmount", out: 1, type: "proc", source: "proc", options: [], attrs: hardened },
    { op: "export", slot: 1 },
  ];
}

/** Sends back the file of the network namespace's interface counters, as a path. `self` is a process in the namespace by then. */
export function planNetworkCounters(): RunStep {
  return {
    cloneKinds: 0,
    plan: [
      { op: "join-ns", slot: podPin.net, kind: nsKind.net },
      { op: "open-host", out: 0, path: "/proc/self/net/dev" },
      { op: "export", slot: 0 },
    ],
  };
}

/** Puts the mount that came with the request at a host path. */
export function planAttach(hostPath: string): RunStep {
  return { cloneKinds: 0, plan: [{ op: "attach-host", slot: 0, path: hostPath }] };
}

/** What a process sees at /proc in the mount namespace of the process in slot 0, as a copy without what is mounted over its parts. */
export function planProcOfProcess(): RunStep {
  return {
    cloneKinds: 0,
    plan: [
      { op: "join-process", slot: 0, kinds: nsKind.mnt },
      { op: "open-tree", out: 1, path: "/proc", flags: openTreeFlag.clone | openTreeFlag.inRoot | openTreeFlag.noFollow },
      { op: "export", slot: 1 },
    ],
  };
}

/**
 * Process 1 of a shared PID namespace. With `withProc` a procfs of the namespace is sent back, for containers on kernels where only a
 * process inside can mount one. The reaper joins what the containers have, so that it stands in no namespace of the host. */
export function planReaper(pod: PodShape, withProc: boolean): RunStep {
  const user: readonly Op[] = pod.user === null ? [] : [{ op: "join-ns", slot: podPin.user, kind: nsKind.user }];
  return {
    cloneKinds: 0,
    plan: [
      // A dead shim ends its pod: with process 1 the kernel kills everything in the namespace.
      { op: "parent-death-signal", signal: sigkill },
      { op: "clean-start" },
      ...user,
      ...sharedNamespaces(pod).map(({ slot, kind }): Op => ({ op: "join-ns", slot, kind })),
      { op: "new-ns", kinds: nsKind.pid | nsKind.mnt },
      { op: "fork" },
      { op: "open-own-ns", out: 0, kind: nsKind.pid },
      { op: "pin", slot: 0, pin: podPin.pid },
      ...(withProc ? planProc() : []),
      { op: "reaper" },
    ],
  };
}

/** Sets sysctls (keys below /proc/sys, with slashes) in the pod's namespaces. */
export function planSysctls(pod: PodShape, sysctls: ReadonlyMap<string, string>): RunStep {
  return {
    cloneKinds: 0,
    plan: [
      ...sharedNamespaces(pod).map(({ slot, kind }): Op => ({ op: "join-ns", slot, kind })),
      ...[...sysctls].map(([key, value]): Op => ({ op: "sysctl", key, value })),
    ],
  };
}

export interface ShmInput {
  readonly hostPath: string;
  readonly bytes: number;
  /** Host ids of the pod's root. */
  readonly uid: number;
  readonly gid: number;
}

/** The pod's one /dev/shm, on the host's side so that it survives every container. */
export function planShm(shm: ShmInput): RunStep {
  const options = [
    "mode=1777",
    `size=${shm.bytes}`,
    ...(shm.uid === 0 && shm.gid === 0 ? [] : [`uid=${shm.uid}`, `gid=${shm.gid}`]),
  ];
  return {
    cloneKinds: 0,
    plan: [
      { op: "fsmount", out: 0, type: "tmpfs", source: "shm", options, attrs: hardened },
      { op: "attach-host", slot: 0, path: shm.hostPath },
    ],
  };
}
