/**
 * The whole plan of a library container's first process. Namespaces come in the only order in which all of them can be had: what is
 * joined while the host's powers last, then the user namespace, then what is new and shall belong to it. An ordinary user has no such
 * powers: the user namespace comes first, and all that follows belongs to it. Pure.
 */
import type { DeviceNode } from "../device/default-devices.ts";
import { type HookState, hasCreationHooks, planHooks } from "../hooks.ts";
import type { OciMount, OciSpec } from "../oci.ts";
import type { Op, Plan } from "../plan.ts";
import { nsKind, podPin } from "../plan-schema.ts";
import { PlanSlots } from "../plan-slots.ts";
import { planAttributes, planLabels } from "../process/process-attributes.ts";
import { environmentOf, type ProcessSettings, planConfinement, planLimits, planOomScore } from "../process/process-plan.ts";
import { rdtBarrier } from "../resctrl.ts";
import type { CgroupMountSource } from "../rootfs/cgroup-mount.ts";
import { labelledMounts } from "../rootfs/mount-label.ts";
import { planRootfs } from "../rootfs/rootfs-plan.ts";
import type { NamespaceType } from "./config.ts";
import { planTree } from "./root-plan.ts";
import type { Shape } from "./shape.ts";

/** Number of the barrier at which the process is in no cgroup of its own yet. */
export const cgroupBarrier = 0;
/** Number of the barrier at which the clock offsets of a new time namespace are written. */
export const timeBarrier = 1;
/** Number of the barrier at which hooks of the runtime's namespaces run: everything is mounted, nothing is pivoted. */
export const hookBarrier = 2;

/** Number of the barrier at which network devices are moved in. */
export const netDeviceBarrier = 5;

/** Slots of stdin, stdout and stderr; noSlot is the container's own null device. */
export interface StdioSlots {
  readonly stdin: number;
  readonly stdout: number;
  readonly stderr: number;
}

export interface InitPlanInput {
  readonly id: string;
  readonly oci: OciSpec;
  readonly shape: Shape;
  /** Slots of the namespaces that are joined; a user namespace, joined or new, is the pod's pin. */
  readonly joined: ReadonlyMap<NamespaceType, number>;
  readonly loopback: boolean;
  /** Keys below /proc/sys, with slashes. */
  readonly sysctls: ReadonlyMap<string, string>;
  readonly keyring: boolean;
  /** Else the root is moved over "/". */
  readonly pivot: boolean;
  /** Its cgroup is made around it. */
  readonly waitsForCgroup?: boolean;
  /** v1 `tasks` files; on v2 the child is born in its cgroup, or put there at the barrier. */
  readonly cgroupTasks: readonly string[];
  readonly cgroupMount: CgroupMountSource;
  readonly settings: ProcessSettings;
  /** Where the root is attached, in the container's mount namespace. */
  readonly attachPath: string;
  readonly devices: readonly (DeviceNode & { readonly hostPath: string })[];
  readonly links: readonly { readonly path: string; readonly target: string }[];
  readonly stdio: StdioSlots;
  /** The terminal's other end stays with the helper. */
  readonly keepsConsole: boolean;
  /** Slots that become descriptors 3, 4 and so on. */
  readonly keep: readonly number[];
  /** Pipes that are given to the process before the host's powers go; ids of the host. */
  readonly giveAway: readonly { readonly slot: number; readonly uid: number; readonly gid: number }[];
  readonly timeOffsets: boolean;
  /** An ordinary user's, who has power over mounts and namespaces inside its user namespace alone. */
  readonly rootless?: boolean;
  readonly hookState: HookState;
  /** Slot of the root as a detached mount; absent: `oci.root.path` is the root. */
  readonly rootSlot?: number | undefined;
  readonly idmapSlot: (mount: OciMount) => number | undefined;
  /** Descriptors that come with the request, the shim's own three included. */
  readonly receivedSlots: number;
}

const sigkill = 9;
/** Order of joins: what needs paths of the host, or changes them, comes last. */
export const joinOrder = ["net", "ipc", "uts", "cgroup", "time", "pid", "mnt"] as const;

export function planInit(input: InitPlanInput): { readonly cloneKinds: number; readonly plan: Plan } {
  const { oci, shape, settings, rootless = false } = input;
  const slots = new PlanSlots(input.receivedSlots);
  const root = shape.mnt === "new" ? planRoot(input, slots) : noRoot;
  const namespaces = planNamespaces(input);
  return {
    cloneKinds: namespaces.born,
    plan: [
      // The shim is the only one who can reap this process: without it, it must not stay.
      { op: "parent-death-signal", signal: sigkill },
      // Behind it an ordinary user's process no longer owns its own procfs files.
      ...(rootless ? [planOomScore(settings)] : []),
      { op: "clean-start" },
      ...planCgroupBarrier(input),
      ...(oci.linux.intelRdt === undefined ? [] : [{ op: "barrier", number: rdtBarrier } as const]),
      ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
      ...(rootless ? [] : [planOomScore(settings)]),
      ...planAttributes(oci, namespaces.forks),
      ...(shape.user === "shared" || rootless ? [] : planHandOver(input)),
      ...(rootless ? [] : root.outer),
      ...namespaces.enter,
      ...(rootless ? root.outer : []),
      ...(Object.keys(oci.linux.netDevices ?? {}).length > 0 ? [{ op: "barrier", number: netDeviceBarrier } as const] : []),
      ...(input.loopback ? [{ op: "loopback-up" } as const] : []),
      // While the procfs at hand is the host's: nothing of it is masked yet.
      ...[...input.sysctls].map(([key, value]): Op => ({ op: "sysctl", key, value })),
      ...root.inner,
      ...(hasCreationHooks(oci.hooks) ? [{ op: "barrier", number: hookBarrier } as const] : []),
      ...planHooks("createContainer", oci.hooks, input.hookState, "creating"),
      ...(input.pivot ? root.pivot : root.pivot.map((op): Op => (op.op === "pivot" ? { op: "move-root" } : op))),
      planStdio(oci, input.stdio, input.keepsConsole),
      ...root.seal,
      ...(oci.hostname === undefined ? [] : [{ op: "hostname", name: oci.hostname } as const]),
      ...(oci.domainname === undefined ? [] : [{ op: "domainname", name: oci.domainname } as const]),
      ...planLabels(oci.process),
      ...(input.keyring ? [{ op: "keyring", name: `_ses.${input.id}` } as const] : []),
      ...planKeep(input.keep),
      ...planConfinement(oci.process, settings),
      // A namespace that others live in is entered with nothing left to take over (CVE-2016-9962).
      ...(namespaces.forksLast ? [{ op: "fork" } as const] : []),
      { op: "park" },
      ...planHooks("startContainer", oci.hooks, input.hookState, "created"),
      { op: "parent-death-signal", signal: 0 },
      { op: "exec", path: oci.process.args[0] ?? "", args: oci.process.args, env: environmentOf(oci.process.env) },
    ],
  };
}

export function planCgroupBarrier({ waitsForCgroup = false }: Pick<InitPlanInput, "waitsForCgroup">): readonly Op[] {
  return waitsForCgroup ? [{ op: "barrier", number: cgroupBarrier }] : [];
}

interface PlannedNamespaces {
  /** Kinds that the process is born with. */
  readonly born: number;
  readonly enter: readonly Op[];
  readonly forksLast: boolean;
  readonly forks: boolean;
}

function planNamespaces(input: InitPlanInput): PlannedNamespaces {
  const { shape, joined } = input;
  const isNew = (type: NamespaceType) => shape[type] === "new";
  const kinds = (types: readonly NamespaceType[]) => types.filter(isNew).reduce((bits, type) => bits | nsKind[type], 0);
  const inUser = shape.user !== "shared";
  // Born into a new PID namespace, the fork that enters a new time namespace would make a second process of it.
  const pidLater = inUser || isNew("time");
  const born = inUser ? 0 : kinds(["mnt", "net", "ipc", "uts", ...(pidLater ? [] : (["pid"] as const))]);
  // After the last attach, else the container would see its place in the host's hierarchy.
  const unshared = kinds(["mnt", "net", "ipc", "uts", "pid", "cgroup", "time"]) & ~born;
  const forksEarly = pidLater && isNew("pid");
  const forksLast = !forksEarly && (shape.pid === "joined" || isNew("time"));
  const joins = joinOrder.flatMap((type): Op[] => {
    const slot = joined.get(type);
    return slot === undefined ? [] : [{ op: "join-ns", slot, kind: nsKind[type] }];
  });
  const user: readonly Op[] = inUser ? [{ op: "join-ns", slot: podPin.user, kind: nsKind.user }] : [];
  return {
    born,
    forksLast,
    forks: forksEarly || forksLast,
    enter: [
      ...(input.rootless === true ? [...user, ...joins] : [...joins, ...user]),
      ...(unshared === 0 ? [] : [{ op: "new-ns", kinds: unshared } as const]),
      // Written from outside: the offsets belong to whoever is root of the parent namespace.
      ...(input.timeOffsets ? [{ op: "barrier", number: timeBarrier } as const] : []),
      ...(forksEarly ? [{ op: "fork" } as const] : []),
    ],
  };
}

export interface PlannedRoot {
  readonly outer: readonly Op[];
  readonly inner: readonly Op[];
  readonly pivot: readonly Op[];
  readonly seal: readonly Op[];
}

const noRoot: PlannedRoot = { outer: [], inner: [], pivot: [], seal: [] };

/** The root with everything in it, as of a start. */
export function planRoot(input: InitPlanInput, slots: PlanSlots): PlannedRoot {
  const { oci } = input;
  const rootSlot = input.rootSlot ?? slots.take();
  const planned = planRootfs({
    mounts: labelledMounts(oci),
    inUserNamespace: input.shape.user !== "shared",
    idmapSlot: input.idmapSlot,
    treeSlot: () => undefined,
    cgroup: input.cgroupMount,
    proc: { kind: "fresh" },
    slots,
    rootSlot,
    attachPath: input.attachPath,
    readonlyRoot: oci.root.readonly === true,
    rootPropagation: oci.linux.rootfsPropagation,
    devices: input.devices,
    links: input.links,
    volumes: [],
    maskedPaths: oci.linux.maskedPaths ?? [],
    readonlyPaths: oci.linux.readonlyPaths ?? [],
    cwd: oci.process.cwd,
  });
  return {
    ...planned,
    outer: [
      ...(input.rootSlot === undefined ? planTree(oci.root.path, oci.linux.rootfsPropagation, rootSlot) : []),
      ...planned.outer,
    ],
  };
}

/** What only the host's root can do for a process that is about to lose that power. */
function planHandOver({ giveAway, settings }: InitPlanInput): readonly Op[] {
  return [
    ...giveAway.map(({ slot, uid, gid }): Op => ({ op: "chown-slot", slot, uid, gid })),
    ...planLimits(settings.limits.filter(({ resource }) => settings.raises.has(resource))),
  ];
}

/** In front of seccomp, which may know none of the calls that it takes. */
export function planKeep(slots: readonly number[]): readonly Op[] {
  return slots.length === 0 ? [] : [{ op: "keep", slots }];
}

export function planStdio({ process }: Pick<OciSpec, "process">, stdio: StdioSlots, keepsConsole: boolean): Op {
  if (process.terminal !== true) return { op: "stdio", ...stdio };
  const { height = 0, width = 0 } = process.consoleSize ?? {};
  return { op: "console", rows: height, cols: width, bindConsole: 1, export: keepsConsole ? 0 : 1 };
}
