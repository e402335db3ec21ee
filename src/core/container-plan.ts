/**
 * The whole plan of a container's init. Where the pod has a user namespace, everything that needs the host's powers comes first
 * (outer phase) and is handed over as descriptors; then the process joins the user namespace for good (inner phase). Pure.
 */

import { setUpBarrier, waitsForSetUp } from "./container-barriers.ts";
import type { DeviceNode } from "./device/default-devices.ts";
import { type HookState, planHooks } from "./hooks.ts";
import { toHostId } from "./namespace/id-map.ts";
import { type PodShape, sharedNamespaces } from "./namespace/pod-shape.ts";
import type { OciMount, OciSpec } from "./oci.ts";
import type { PlannedNamespaces } from "./other-namespaces.ts";
import type { Op, Plan } from "./plan.ts";
import { noSlot, nsKind, podPin } from "./plan-schema.ts";
import { PlanSlots } from "./plan-slots.ts";
import { planAttributes, planLabels } from "./process/process-attributes.ts";
import { environmentOf, type ProcessSettings, planConfinement, planLimits, planOomScore } from "./process/process-plan.ts";
import type { CgroupMountSource } from "./rootfs/cgroup-mount.ts";
import { labelledMounts } from "./rootfs/mount-label.ts";
import type { ProcSource } from "./rootfs/mount-plan.ts";
import { type PlannedRootfs, planRootfs } from "./rootfs/rootfs-plan.ts";
import type { PidNamespace } from "./runtime.ts";

/** Slots that come with a `create` request: stdio made by the shim, then the request's own descriptors in this order. */
export const createSlot = { stdin: 0, stdout: 1, stderr: 2, root: 3, target: 4 } as const;

/** Number of the barrier at which a child is in no cgroup of its own yet. */
export const cgroupBarrier = 0;

export interface ContainerPlanInput {
  readonly id: string;
  readonly oci: OciSpec;
  /** Without what the container has otherwise. */
  readonly pod: PodShape;
  readonly namespaces?: PlannedNamespaces;
  readonly pidNamespace: PidNamespace;
  readonly cgroupNamespace: "private" | "host";
  /** The child waits until somebody has made its cgroup around it. */
  readonly cgroupBarrier: boolean;
  /** v1 `tasks` files; on v2 the child is born in its cgroup, or put there at the barrier. */
  readonly cgroupTasks: readonly string[];
  readonly cgroupMount: CgroupMountSource;
  readonly settings: ProcessSettings;
  readonly hookState: HookState;
  /** Where the root is attached, in the container's mount namespace. */
  readonly attachPath: string;
  readonly devices: readonly (DeviceNode & { readonly hostPath: string })[];
  readonly links: readonly { readonly path: string; readonly target: string }[];
  readonly volumes: readonly { readonly path: string; readonly hostPath: string }[];
  readonly stdin: boolean;
  readonly proc: ProcSource;
  /** Slot of the user namespace for an id-mapped mount, beyond the pod's own. */
  readonly idmapSlot: (mount: OciMount) => number | undefined;
  /** Slot of a mount's content that came with the request. */
  readonly treeSlot: (mount: OciMount) => number | undefined;
  /** Descriptors that come with the request, stdio included. */
  readonly receivedSlots: number;
}

export interface ContainerPlan {
  readonly cloneKinds: number;
  readonly plan: Plan;
}

const sigkill = 9;

export function planContainer(input: ContainerPlanInput): ContainerPlan {
  const { oci, pod } = input;
  const pid = pidPlan(input);
  const inUserNamespace = pod.user !== null;
  const rootfs = planContainerRoot(input, new PlanSlots(input.receivedSlots));
  const cgroupKind = input.cgroupNamespace === "private" ? nsKind.cgroup : 0;
  const { joined = [], made = 0 } = input.namespaces ?? {};
  const joins = [...sharedNamespaces(pod), ...joined].map(({ slot, kind }): Op => ({ op: "join-ns", slot, kind }));
  const newKinds = made | cgroupKind;
  const entering = inUserNamespace
    ? [
        ...rootfs.outer,
        { op: "join-ns", slot: podPin.user, kind: nsKind.user } as const,
        ...joins,
        { op: "new-ns", kinds: nsKind.mnt | pid.newKind | newKinds } as const,
        ...planMade(input),
        ...pid.enter,
      ]
    : [
        ...joins,
        ...(newKinds === 0 ? [] : [{ op: "new-ns", kinds: newKinds } as const]),
        ...planMade(input),
        ...pid.enter,
        ...rootfs.outer,
      ];
  return {
    cloneKinds: inUserNamespace ? 0 : nsKind.mnt | pid.newKind,
    plan: [
      // The shim is the only one who can reap and log this process: without it, it must not stay.
      { op: "parent-death-signal", signal: sigkill },
      { op: "clean-start" },
      ...(input.cgroupBarrier ? [{ op: "barrier", number: cgroupBarrier } as const] : []),
      ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
      planOomScore(input.settings),
      ...planAttributes(
        oci,
        [...pid.enter, ...pid.leave].some(({ op }) => op === "fork"),
      ),
      ...(inUserNamespace ? planHandOver(input) : []),
      // After the last attach, else the container would see its place in the host's hierarchy.
      ...entering,
      ...rootfs.inner,
      ...(waitsForSetUp(oci) ? [{ op: "barrier", number: setUpBarrier } as const] : []),
      ...planHooks("createContainer", oci.hooks, input.hookState, "creating"),
      ...rootfs.pivot,
      planStdio(input),
      ...rootfs.seal,
      ...planIdentity(oci),
      ...planLabels(oci.process),
      { op: "keyring", name: `_ses.${input.id}` },
      ...planConfinement(oci.process, input.settings),
      ...pid.leave,
      { op: "park" },
      ...planHooks("startContainer", oci.hooks, input.hookState, "created"),
      { op: "parent-death-signal", signal: 0 },
      { op: "exec", path: oci.process.args[0] ?? "", args: oci.process.args, env: environmentOf(oci.process.env) },
    ],
  };
}

/** The root with everything in it. */
export function planContainerRoot(input: ContainerPlanInput, slots: PlanSlots): PlannedRootfs {
  const { oci, pod } = input;
  return planRootfs({
    mounts: labelledMounts(oci),
    inUserNamespace: pod.user !== null,
    idmapSlot: input.idmapSlot,
    treeSlot: input.treeSlot,
    cgroup: input.cgroupMount,
    proc: input.proc,
    slots,
    rootSlot: createSlot.root,
    attachPath: input.attachPath,
    readonlyRoot: oci.root.readonly === true,
    rootPropagation: oci.linux.rootfsPropagation,
    devices: input.devices,
    links: input.links,
    volumes: input.volumes,
    maskedPaths: oci.linux.maskedPaths ?? [],
    readonlyPaths: oci.linux.readonlyPaths ?? [],
    cwd: oci.process.cwd,
  });
}

interface PidPlan {
  /** Kind to create, or 0. */
  readonly newKind: number;
  /** Joins; a namespace of its own is entered as well. */
  readonly enter: readonly Op[];
  /** Enters a shared namespace when nothing is left that a sibling could take over. */
  readonly leave: readonly Op[];
}

function pidPlan(input: ContainerPlanInput): PidPlan {
  const { kind } = input.pidNamespace;
  const none: PidPlan = { newKind: 0, enter: [], leave: [] };
  if (kind === "host") return none;
  // unshare moves only children into the new namespace; without a user namespace clone does it all.
  if (kind === "private") return { ...none, newKind: nsKind.pid, enter: input.pod.user === null ? [] : [{ op: "fork" }] };
  const join: Op =
    kind === "pod"
      ? { op: "join-ns", slot: podPin.pid, kind: nsKind.pid }
      : { op: "join-process", slot: createSlot.target, kinds: nsKind.pid };
  // A sibling with CAP_SYS_PTRACE sees whoever is in the namespace: it is entered fully confined (CVE-2016-9962).
  return { newKind: 0, enter: [join], leave: [{ op: "fork" }] };
}

/** What only the host's root can do for a process that is about to lose that power. */
function planHandOver(input: ContainerPlanInput): readonly Op[] {
  const { user } = input.pod;
  if (user === null) return [];
  const { oci, settings } = input;
  const uid = toHostId(oci.process.user.uid, user.uid);
  const gid = toHostId(oci.process.user.gid, user.gid);
  const pipes =
    oci.process.terminal === true ? [] : [createSlot.stdout, createSlot.stderr, ...(input.stdin ? [createSlot.stdin] : [])];
  return [
    ...pipes.map((slot): Op => ({ op: "chown-slot", slot, uid, gid })),
    // Raising a hard limit needs CAP_SYS_RESOURCE in the initial user namespace; the soft ones follow at the end.
    ...planLimits(settings.limits.filter(({ resource }) => settings.raises.has(resource))),
  ];
}

function planStdio(input: ContainerPlanInput): Op {
  const { terminal, consoleSize } = input.oci.process;
  if (terminal === true) {
    return { op: "console", rows: consoleSize?.height ?? 0, cols: consoleSize?.width ?? 0, bindConsole: 1, export: 0 };
  }
  return {
    op: "stdio",
    stdin: input.stdin ? createSlot.stdin : noSlot,
    stdout: createSlot.stdout,
    stderr: createSlot.stderr,
  };
}

/** New namespaces as a pod's are made. */
function planMade({ namespaces, oci }: ContainerPlanInput): readonly Op[] {
  const { made = 0 } = namespaces ?? {};
  return [
    ...((made & nsKind.net) === 0 ? [] : [{ op: "loopback-up" } as const]),
    ...((made & nsKind.uts) === 0 || oci.hostname === undefined ? [] : [{ op: "hostname", name: oci.hostname } as const]),
  ];
}

/** Host and domain name, where the container has a UTS namespace of its own and not the pod's. */
function planIdentity(oci: OciSpec): readonly Op[] {
  const own = oci.linux.namespaces?.some(({ type, path }) => type === "uts" && path === undefined) === true;
  if (!own) return [];
  return [
    ...(oci.hostname === undefined ? [] : [{ op: "hostname", name: oci.hostname } as const]),
    ...(oci.domainname === undefined ? [] : [{ op: "domainname", name: oci.domainname } as const]),
  ];
}
