/** From a container spec to a parked init: cgroup, descriptors, plan, fork. */
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path/posix";
import { RuntimeError } from "../lib/errors.ts";
import { makeStateDirectory, removeStateTree } from "../lib/state-files.ts";
import { step } from "../lib/step.ts";
import { addon } from "../native/addon.ts";
import type { CgroupUse } from "./cgroup/cgroups.ts";
import { cgroupsPathOfOci } from "./cgroup/systemd-names.ts";
import { checkSetUp, initBarriers } from "./container-barriers.ts";
import { type ContainerPlanInput, cgroupBarrier, createSlot, planContainer } from "./container-plan.ts";
import { restoreInit } from "./container-restore.ts";
import { deviceNodes } from "./device/default-devices.ts";
import { applyDeviceRules } from "./device/device-cgroup.ts";
import { deviceProperties } from "./device/device-properties.ts";
import { findHostNode } from "./device/host-node.ts";
import { finalSpec } from "./final-spec.ts";
import { type HookState, hookStateOfSpec } from "./hooks.ts";
import { IdmapNamespaces } from "./idmap-namespaces.ts";
import type { OciMount, OciSpec } from "./oci.ts";
import { openProcess } from "./open-process.ts";
import { hasOwnNetwork, OpenNamespaces, type PlannedNamespaces, shapeWithout } from "./other-namespaces.ts";
import type { PodTools } from "./pod-tools.ts";
import { copyProcOf, podProcPath, procTakesPidns } from "./proc-source.ts";
import { processSettings } from "./process/process-settings.ts";
import { findSecurityModules, withLabels } from "./process/security-modules.ts";
import { sweepResctrl } from "./resctrl.ts";
import type { CgroupMountSource } from "./rootfs/cgroup-mount.ts";
import type { ProcSource } from "./rootfs/mount-plan.ts";
import type { ContainerSpec, PodSpec, ProcessIdentity, Rootfs } from "./runtime.ts";
import { createFlag } from "./shim/messages.ts";
import type { PrepareRequest } from "./shim/requests.ts";
import type { Shim } from "./shim/shim.ts";

/** Bounds everything up to the parked init; a copy of image volumes is the longest part. */
const parkDeadlineMs = 120_000;
const clearDeadlineMs = 20_000;

export interface CreateInput {
  readonly tools: PodTools;
  readonly shim: Shim;
  readonly pod: PodSpec;
  readonly spec: ContainerSpec;
  readonly rootfs: Rootfs;
  /** First process of the container whose PID namespace is joined. */
  readonly target: ProcessIdentity | undefined;
  readonly signal: AbortSignal;
}

export interface CreatedContainer {
  readonly process: ProcessIdentity;
  readonly oci: OciSpec;
}

export async function createContainer(input: CreateInput): Promise<CreatedContainer> {
  const { tools, spec, pod } = input;
  const cgroupsPath = cgroupsPathOf(spec.oci);
  refuseUnsupported(spec.oci);
  checkSetUp(spec.oci, hasOwnNetwork(pod, spec.namespaces));
  withLabels(spec.oci, findSecurityModules());
  await relabelVolumes(input);
  const late = tools.cgroups.needsProcess(cgroupsPath);
  if (!late) await tools.cgroups.make(cgroupsPath, spec.oci.linux.resources ?? {});
  try {
    if (!late) guardDevices(input, cgroupsPath);
    const init =
      spec.restore === undefined ? await forkInit(input, cgroupsPath) : await restoreInit(input, cgroupsPath, spec.restore);
    return { process: init, oci: finalSpec(spec, pod, init, input.target) };
  } catch (error) {
    await removeAttachPoint(tools.stateDir, spec.id);
    await tools.cgroups.clear(cgroupsPath, AbortSignal.timeout(clearDeadlineMs)).catch((stuck: unknown) => {
      tools.log.warn({ err: stuck, id: spec.id }, "the cgroup of a container that could not be created stays");
    });
    sweepResctrl(spec.id);
    throw error;
  }
}

export function cgroupsPathOf(oci: OciSpec): string {
  const path = oci.linux.cgroupsPath;
  if (path === undefined) throw new RuntimeError("invalid_argument", "the spec has no linux.cgroupsPath");
  return cgroupsPathOfOci(path);
}

async function relabelVolumes({ shim, spec, signal }: CreateInput): Promise<void> {
  for (const { path, follow, label } of spec.relabels ?? []) {
    const plan = [{ op: "relabel", path, follow: follow ? 1 : 0, label }] as const;
    await shim.run({ plan, cloneKinds: 0, deadlineMs: parkDeadlineMs, what: `SELinux label of ${path}`, signal });
  }
}

function guardDevices({ tools, spec }: CreateInput, cgroupsPath: string): void {
  const { devices } = tools.cgroups.use(cgroupsPath);
  if (devices !== undefined) applyDeviceRules(devices, spec.oci.linux.resources?.devices ?? []);
}

/** The child waits: it goes on in its cgroup, with all limits and rules in force. */
export async function admit(input: CreateInput, cgroupsPath: string, pid: number): Promise<void> {
  const { tools, spec } = input;
  const resources = spec.oci.linux.resources ?? {};
  const devices = deviceProperties(resources.devices ?? []);
  await step("container.admit", () => tools.cgroups.admit(cgroupsPath, { pid, containerId: spec.id, resources, devices }));
  guardDevices(input, cgroupsPath);
}

/** What no plan carries out yet is refused: a container with less protection than was asked for is worse than none. */
function refuseUnsupported({ linux }: OciSpec): void {
  const asked: readonly (readonly [name: string, value: unknown])[] = [["linux.sysctl", Object.keys(linux.sysctl ?? {})[0]]];
  const found = asked.find(([, value]) => value !== undefined);
  if (found !== undefined) {
    throw new RuntimeError("unimplemented", `${found[0]} (${String(found[1])}) is not supported for containers yet`);
  }
}

async function forkInit(input: CreateInput, cgroupsPath: string): Promise<ProcessIdentity> {
  const { tools, shim, spec, pod, rootfs, signal } = input;
  using idmaps = new IdmapNamespaces(pod, shim, signal);
  using target = input.target === undefined ? undefined : openProcess(input.target);
  using proc = await procFor(input, target?.fd);
  await using opened = await OpenNamespaces.open(pod, spec.namespaces);
  const fds = [rootfs.fd, target?.fd, proc.fd].filter((fd) => fd !== undefined);
  const treeSlot = treeSlots(spec, createSlot.root + fds.length);
  fds.push(...(spec.trees ?? []).map(({ fd }) => fd));
  const idmapSlots = await idmaps.prepare(spec.oci.mounts, createSlot.root + fds.length);
  fds.push(...idmaps.fds);
  const namespaces = opened.planned(createSlot.root + fds.length);
  fds.push(...opened.fds);
  const receivedSlots = createSlot.root + fds.length;
  const slots = { proc: proc.source, idmapSlots, treeSlot, namespaces, receivedSlots };
  const planned = planContainer(await planInput(input, cgroupsPath, slots));
  const use = tools.cgroups.use(cgroupsPath);
  const late = tools.cgroups.needsProcess(cgroupsPath);
  const run: Shim["run"] = (request) => shim.run(request);
  const others = initBarriers({ id: spec.id, oci: spec.oci, state: hookState(input), run, signal });
  return await shim.create({
    ...shimSide(input, use),
    plan: planned.plan,
    cloneKinds: planned.cloneKinds,
    fds,
    cgroup: late ? "" : use.into,
    onBarrier: async (number, pid) => {
      if (number === cgroupBarrier) await admit(input, cgroupsPath, pid);
      else await others(number, pid);
    },
    deadlineMs: parkDeadlineMs,
  });
}

/** What the helper is told of the container, started or restored. */
export function shimSide({ tools, spec, signal }: CreateInput, use: CgroupUse): PrepareRequest {
  return {
    id: spec.id,
    flags: flagsOf(spec),
    cgroup: use.into,
    killPaths: use.killPaths,
    oomPath: use.oomPath,
    logPath: spec.logPath ?? "",
    logLineBytes: tools.logLineBytes,
    signal,
  };
}

function hookState({ pod, spec }: CreateInput): HookState {
  return hookStateIn(pod, spec.id, spec.oci);
}

/** The bundle is where config.json lies by the time of the first hook. */
export function hookStateIn(pod: PodSpec, id: string, oci: OciSpec): HookState {
  return hookStateOfSpec(id, join(pod.runDir, "containers", id), oci);
}

export function treeSlots({ trees = [] }: ContainerSpec, first: number): (mount: OciMount) => number | undefined {
  const slots = new Map(trees.map(({ destination }, at) => [destination, first + at]));
  return ({ destination }) => slots.get(destination);
}

interface ProcForContainer extends Disposable {
  readonly source: ProcSource;
  /** Travels with the request behind the target's pidfd. */
  readonly fd: number | undefined;
}

async function procFor({ tools, shim, pod, spec, signal }: CreateInput, targetFd: number | undefined): Promise<ProcForContainer> {
  const none = { fd: undefined, [Symbol.dispose]: () => {} };
  const joins = spec.pidNamespace.kind === "pod" || targetFd !== undefined;
  if (!joins || procTakesPidns(tools, shim)) return { source: { kind: "fresh" }, ...none };
  if (targetFd === undefined) return { source: { kind: "tree", hostPath: podProcPath(pod.runDir) }, ...none };
  const fd = await copyProcOf(shim, targetFd, signal);
  return { source: { kind: "slot", slot: createSlot.target + 1 }, fd, [Symbol.dispose]: () => addon.close(fd) };
}

interface Slots {
  readonly proc: ProcSource;
  readonly idmapSlots: ReturnType<IdmapNamespaces["slotFor"]>;
  readonly treeSlot: (mount: OciMount) => number | undefined;
  readonly namespaces?: PlannedNamespaces;
  readonly receivedSlots: number;
}

export async function planInput(input: CreateInput, cgroupsPath: string, slots: Slots): Promise<ContainerPlanInput> {
  const { tools, spec, pod } = input;
  const { oci } = spec;
  const profile = oci.linux.seccomp;
  const [attachPath, devices, seccomp] = await Promise.all([
    makeAttachPoint(tools.stateDir, spec.id, pod.user !== null),
    devicesOf(oci, pod.user !== null),
    profile === undefined ? undefined : tools.seccomp.compile(profile),
  ]);
  return {
    id: spec.id,
    oci,
    pod: shapeWithout(pod, spec.namespaces),
    ...(slots.namespaces === undefined ? {} : { namespaces: slots.namespaces }),
    pidNamespace: spec.pidNamespace,
    cgroupNamespace: spec.cgroupNamespace,
    cgroupBarrier: tools.cgroups.needsProcess(cgroupsPath),
    cgroupTasks: tools.cgroups.use(cgroupsPath).taskFiles,
    cgroupMount: cgroupMountOf(tools, spec, cgroupsPath),
    hookState: hookState(input),
    settings: processSettings(oci.process, tools.own, pod.user !== null, seccomp),
    attachPath,
    devices,
    links: tools.links,
    volumes: spec.volumes,
    stdin: spec.stdin,
    proc: slots.proc,
    idmapSlot: slots.idmapSlots,
    treeSlot: slots.treeSlot,
    receivedSlots: slots.receivedSlots,
  };
}

async function devicesOf(oci: OciSpec, inUserNamespace: boolean) {
  const nodes = deviceNodes(oci.linux.devices ?? []);
  return await Promise.all(
    nodes.map(async (node) => ({ ...node, hostPath: inUserNamespace ? await findHostNode(node) : node.path })),
  );
}

function cgroupMountOf(tools: PodTools, spec: ContainerSpec, cgroupsPath: string): CgroupMountSource {
  const { mounts, unifiedRoot } = tools.cgroups.use(cgroupsPath);
  if (tools.cgroups.hierarchies.version !== "v2")
    return { kind: "hierarchies", shared: spec.cgroupNamespace !== "private", ...mounts };
  return spec.cgroupNamespace === "private" ? { kind: "fresh" } : { kind: "tree", hostPath: unifiedRoot };
}

function flagsOf(spec: ContainerSpec): number {
  return (
    (spec.stdin ? createFlag.stdin : 0) |
    (spec.stdin && spec.stdinOnce ? createFlag.stdinOnce : 0) |
    (spec.oci.process.terminal === true ? createFlag.terminal : 0) |
    // Nobody else ends what init leaves behind.
    (spec.pidNamespace.kind === "private" ? 0 : createFlag.killRest)
  );
}

export function attachPointOf(stateDir: string, id: string): string {
  return join(stateDir, "containers", id, "rootfs");
}

/**
 * A directory that the container's root can reach in its copy of the host's tree. Its mount exists in the container's mount
 * namespace only. Where the state directory is closed to others, root of a user namespace takes /tmp: what is there is covered in that
 * namespace alone, and gone at pivot.
 */
async function makeAttachPoint(stateDir: string, id: string, inUserNamespace: boolean): Promise<string> {
  const path = attachPointOf(stateDir, id);
  makeStateDirectory(path, 0o711);
  return !inUserNamespace || (await reachable(path)) ? path : "/tmp";
}

async function reachable(path: string): Promise<boolean> {
  for (let at = path; at !== "/"; at = dirname(at)) {
    if (((await stat(at)).mode & 0o001) === 0) return false;
  }
  return true;
}

export async function removeAttachPoint(stateDir: string, id: string): Promise<void> {
  await removeStateTree(dirname(attachPointOf(stateDir, id)));
}
