/** From a config to a parked first process: helper, cgroup, namespaces, plan, fork. Everything is taken back when a step fails. */
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { Undo } from "../../lib/undo.ts";
import type { CgroupUse } from "../cgroup/cgroups.ts";
import { findHostNode } from "../device/host-node.ts";
import { runCreationHooks } from "../hooks.ts";
import { IdmapNamespaces } from "../idmap-namespaces.ts";
import { mapText, toHostId } from "../namespace/id-map.ts";
import { sysctlPath } from "../namespace/sysctl-path.ts";
import { moveNetDevices } from "../network-devices.ts";
import type { OciProcess, OciSpec } from "../oci.ts";
import { nsKind, podPin } from "../plan-schema.ts";
import { processSettings } from "../process/process-settings.ts";
import { handedBarrier, SeccompHandOver, seccompBarrier } from "../process/seccomp-listener.ts";
import { findSecurityModules, withLabels } from "../process/security-modules.ts";
import { enterResctrl, findResctrl, leaveResctrl, makeResctrl, rdtBarrier } from "../resctrl.ts";
import type { CgroupMountSource } from "../rootfs/cgroup-mount.ts";
import { parseMountOptions } from "../rootfs/mount-options.ts";
import type { ProcessIdentity, Rootfs } from "../runtime.ts";
import { createFlag } from "../shim/messages.ts";
import type { PrepareRequest } from "../shim/requests.ts";
import type { Shim } from "../shim/shim.ts";
import type { ShimLink } from "../shim-link.ts";
import type { Config, TimeOffset } from "./config.ts";
import { sendConsole } from "./console-socket.ts";
import { admitProcess, type ContainerCgroup, makeCgroup, removeCgroup } from "./container-cgroup.ts";
import { isMadeAhead, openRoot } from "./container-root.ts";
import { helperIdOf, removeContainerShim, startContainerShim } from "./container-shim.ts";
import { cgroupBarrier, hookBarrier, type InitPlanInput, netDeviceBarrier, planInit, timeBarrier } from "./init-plan.ts";
import type { Machine } from "./machine.ts";
import { hookStateOf } from "./oci-state.ts";
import type { ProcessSpec } from "./process-spec.ts";
import { needsMapper, writeMaps } from "./rootless.ts";
import { JoinedNamespaces, type Shape, shapeOf } from "./shape.ts";
import { PreparedStdio, type StdioStreams } from "./stdio.ts";
import { translateConfig, translateNodes } from "./translate.ts";
import { mountWords } from "./validate.ts";

const parkDeadlineMs = 120_000;
const runDeadlineMs = 30_000;
/** Slots 0 to 2 are the helper's own stdio, which only processes use that are attached to. */
export const firstSlot = 3;

export interface InitStart {
  readonly machine: Machine;
  readonly directory: string;
  readonly id: string;
  readonly shimId: string;
  readonly config: Config;
  readonly cgroup: ContainerCgroup;
  readonly madeParents: readonly string[];
  readonly spec: ProcessSpec;
  /** The process, once the root can be looked into. */
  readonly describe: (root: Rootfs) => Promise<OciProcess>;
  readonly signal: AbortSignal;
}

export interface StartedInit {
  readonly link: ShimLink;
  readonly identity: ProcessIdentity;
  readonly shape: Shape;
  readonly streams: StdioStreams;
  readonly consoleFd: number | undefined;
}

export async function startInit(input: InitStart): Promise<StartedInit> {
  const { machine, directory, shimId, config, cgroup, signal } = input;
  const shape = shapeOf(config);
  await using undo = new Undo(({ failed, error }) => {
    process.emitWarning(`container ${input.id} could not be started and leaves its ${failed}: ${String(error)}`);
  });
  undo.push("cgroup", (undoSignal) => removeCgroup(cgroup, input.madeParents, undoSignal));
  await makeCgroup(cgroup, config);
  undo.push("class of service", async () => leaveResctrl(input.id, config.intelRdt));
  let link: ShimLink | undefined;
  undo.push("helper", (undoSignal) => removeContainerShim(machine, directory, shimId, link, undoSignal));
  link = await startContainerShim(machine, directory, shimId, signal);
  const shim = await link.shim();
  using joined = JoinedNamespaces.open(config, shape);
  await pinUserNamespace(shim, input, joined.fds.get("user"), shape);
  await using root = await openRoot(shim, { config, rootless: machine.caller !== undefined, signal });
  using stdio = new PreparedStdio(input.spec, firstSlot, hasNullDevice(config));
  const forked = await forkInit(input, shim, { shape, joined, stdio, root, process: await input.describe(root) });
  const { consoleSocket } = input.spec;
  if (consoleSocket !== undefined) sendConsole(consoleSocket, forked.consoleFd);
  const consoleFd = consoleSocket === undefined ? forked.consoleFd : undefined;
  undo.commit();
  return { link, shape, identity: forked.identity, streams: stdio.connect(), consoleFd };
}

/** Whether a null device will be at /dev/null for sure. */
export function hasNullDevice({ devices, mounts, namespaces }: Config): boolean {
  if (namespaces?.some(({ type, path }) => type === "mnt" && path !== undefined) === true) return true;
  const hostDev = mounts?.some(
    (mount) => mount.destination === "/dev" && (mount.device === "bind" || parseMountOptions(mountWords(mount)).bind),
  );
  return hostDev === true || devices?.some(({ path }) => path === "/dev/null") === true;
}

/** A new one, or the one to join: kept by the helper, which is how plans and id-mapped mounts refer to it. */
async function pinUserNamespace(
  shim: Shim,
  { config, machine: { caller }, signal }: InitStart,
  joinFd: number | undefined,
  shape: Shape,
): Promise<void> {
  if (shape.user === "shared") return;
  const pin = { op: "pin", slot: 0, pin: podPin.user } as const;
  const what = "user namespace of the container";
  const common = { cloneKinds: 0, deadlineMs: runDeadlineMs, what, signal };
  if (joinFd !== undefined) {
    await shim.run({ ...common, plan: [pin], fds: [joinFd] });
    return;
  }
  const uidMap = mapText(config.uidMappings ?? []);
  const gidMap = mapText(config.gidMappings ?? []);
  const own = [{ op: "open-own-ns", out: 0, kind: nsKind.user }, pin] as const;
  if (caller === undefined || !needsMapper(config, caller)) {
    await shim.run({ ...common, plan: [{ op: "new-userns", uidMap, gidMap }, ...own] });
    return;
  }
  const onBarrier = async (_: number, pid: number): Promise<void> => await writeMaps(config, pid, caller);
  await shim.run({ ...common, plan: [{ op: "mapped-userns", number: mapBarrier }, ...own], onBarrier });
}

export interface Held {
  readonly shape: Shape;
  readonly joined: JoinedNamespaces;
  readonly stdio: PreparedStdio;
  readonly root: Pick<Rootfs, "fd">;
  readonly process: OciProcess;
}

export interface GatheredInit {
  readonly input: InitPlanInput;
  /** From slot `firstSlot` on. */
  readonly fds: readonly number[];
  readonly use: CgroupUse;
  readonly offsets: string;
}

/** All that a plan of the first process says of the machine. */
export async function gatherInit(
  input: InitStart,
  { shape, joined, stdio, root, process, idmaps }: Held & { readonly idmaps: IdmapNamespaces },
): Promise<GatheredInit> {
  const { machine, config, cgroup } = input;
  const oci = withLabels(translateConfig(config, process), findSecurityModules());
  const inUserNamespace = shape.user !== "shared";
  const fds = [...stdio.fds];
  const slots = new Map(
    [...joined.fds].filter(([type]) => type !== "user").map(([type, fd]) => [type, firstSlot + fds.push(fd) - 1] as const),
  );
  const rootSlot = !isMadeAhead(config) ? undefined : firstSlot + fds.push(root.fd) - 1;
  const idmapSlot = await idmaps.prepare(oci.mounts, firstSlot + fds.length);
  fds.push(...idmaps.fds);
  const use = cgroup.cgroups.use(cgroup.path);
  const profile = oci.linux.seccomp;
  const seccomp = profile === undefined ? undefined : await machine.seccomp.compile(profile);
  const hookState = hookStateOf(input.id, config);
  const offsets = timeOffsetsText(config.timeOffsets);
  return {
    input: {
      id: input.id,
      oci,
      shape,
      joined: slots,
      loopback: shape.net === "new",
      sysctls: new Map(Object.entries(oci.linux.sysctl ?? {}).map(([key, value]) => [sysctlPath(key), value])),
      keyring: config.noNewKeyring !== true,
      pivot: config.noPivotRoot !== true,
      waitsForCgroup: cgroup.cgroups.needsProcess(cgroup.path),
      cgroupTasks: use.taskFiles,
      cgroupMount: cgroupMountOf(machine, cgroup, shape),
      settings: processSettings(oci.process, machine.own, inUserNamespace, seccomp),
      attachPath: makeAttachPoint(input.directory, inUserNamespace),
      devices: await nodesOf(config, inUserNamespace),
      links: machine.links,
      stdio: stdio.slots,
      keepsConsole: input.spec.attachable !== undefined,
      keep: stdio.keep,
      giveAway: giveAway(config, oci, inUserNamespace && machine.caller === undefined ? stdio.pipes : []),
      rootless: machine.caller !== undefined,
      timeOffsets: offsets !== "",
      hookState,
      rootSlot,
      idmapSlot,
      receivedSlots: firstSlot + fds.length,
    },
    fds,
    use,
    offsets,
  };
}

async function forkInit(
  input: InitStart,
  shim: Shim,
  held: Held,
): Promise<{ readonly identity: ProcessIdentity; readonly consoleFd: number | undefined }> {
  const { config, signal } = input;
  const { shape } = held;
  const user = shape.user === "shared" ? null : { uid: config.uidMappings ?? [], gid: config.gidMappings ?? [] };
  using idmaps = new IdmapNamespaces({ user }, shim, signal);
  const gathered = await gatherInit(input, { ...held, idmaps });
  const { fds, use, offsets } = gathered;
  const planned = planInit(gathered.input);
  const handOver = new SeccompHandOver((request) => shim.run(request), signal);
  let consoleFd: number | undefined;
  const identity = await shim.create({
    ...shimSide(input, shape, use),
    ...(gathered.input.waitsForCgroup === true ? { cgroup: "" } : {}),
    plan: planned.plan,
    cloneKinds: planned.cloneKinds,
    fds,
    deadlineMs: parkDeadlineMs,
    onBarrier: async (number, pid) => {
      if (number === cgroupBarrier) await admitProcess(input.cgroup, input.id, config, pid);
      if (number === hookBarrier) await runCreationHooks(config.hooks, hookStateOf(input.id, config), pid, signal);
      const place = findResctrl(input.id, config.intelRdt);
      if (number === rdtBarrier && place !== undefined && config.intelRdt !== undefined) {
        makeResctrl(place, config.intelRdt);
        enterResctrl(place, pid);
      }
      if (number === netDeviceBarrier && config.netDevices !== undefined)
        await moveNetDevices(config.netDevices, pid, (request) => shim.run(request), signal);
      if (number === seccompBarrier && config.seccomp !== undefined) {
        const state = { ...hookStateOf(input.id, config), status: "creating", pid };
        await handOver.connect(pid, { state, profile: config.seccomp });
      }
      if (number === handedBarrier) await handOver.handed();
      if (number === timeBarrier) writeFileSync(`/proc/${pid}/timens_offsets`, offsets);
    },
    onExports: ([fd]) => {
      consoleFd = fd;
    },
  });
  return { identity, consoleFd };
}

const mapBarrier = 1;

/** What the helper is told of the container, started or restored. */
export function shimSide(input: InitStart, shape: Shape, use: CgroupUse): PrepareRequest {
  return {
    id: helperIdOf(input.id),
    flags: stdioFlags(input.spec) | (shape.pid === "new" ? 0 : createFlag.killRest),
    cgroup: use.into,
    killPaths: use.killPaths,
    oomPath: use.oomPath,
    logPath: "",
    logLineBytes: 0,
    signal: input.signal,
  };
}

function stdioFlags({ terminal, attachable }: ProcessSpec): number {
  return (
    (terminal === true ? createFlag.terminal : 0) |
    (attachable?.stdin === true ? createFlag.stdin : 0) |
    (attachable?.stdinOnce === true ? createFlag.stdinOnce : 0)
  );
}

function timeOffsetsText(offsets: Config["timeOffsets"]): string {
  const entries: readonly (readonly [string, TimeOffset | undefined])[] = Object.entries(offsets ?? {});
  return entries
    .flatMap(([clock, offset]) => (offset === undefined ? [] : [`${clock} ${offset.secs} ${offset.nanosecs ?? 0}\n`]))
    .join("");
}

/** Pipes of ours, to whoever the process is on the host. A joined user namespace may come without its mappings. */
export function giveAway(
  config: Config,
  { process }: Pick<OciSpec, "process">,
  pipes: readonly number[],
): readonly { readonly slot: number; readonly uid: number; readonly gid: number }[] {
  const { uidMappings = [], gidMappings = [] } = config;
  if (uidMappings.length === 0 || gidMappings.length === 0) return [];
  const uid = toHostId(process.user.uid, uidMappings);
  const gid = toHostId(process.user.gid, gidMappings);
  return pipes.map((slot) => ({ slot, uid, gid }));
}

function cgroupMountOf(machine: Machine, { cgroups, path }: ContainerCgroup, shape: Shape): CgroupMountSource {
  const { mounts } = cgroups.use(path);
  const { unifiedRoot } = machine.cgroups.use(path);
  if (cgroups.hierarchies.version !== "v2") return { kind: "hierarchies", shared: shape.cgroup === "shared", ...mounts };
  return shape.cgroup === "shared" ? { kind: "tree", hostPath: unifiedRoot } : { kind: "fresh" };
}

async function nodesOf(config: Config, inUserNamespace: boolean) {
  const nodes = translateNodes(config.devices ?? []);
  return await Promise.all(
    nodes.map(async (node) => ({ ...node, hostPath: inUserNamespace ? await findHostNode(node) : node.path })),
  );
}

/** In the container's mount namespace only, and gone at pivot. Root of a user namespace may not be able to go there: then /tmp. */
function makeAttachPoint(directory: string, inUserNamespace: boolean): string {
  const path = join(directory, "rootfs");
  try {
    mkdirSync(path, { recursive: true, mode: 0o711 });
  } catch (error) {
    throw new RuntimeError("failed_precondition", `${path} cannot be made`, { path }, error);
  }
  return !inUserNamespace || reachable(path) ? path : "/tmp";
}

function reachable(path: string): boolean {
  for (let at = path; at !== "/"; at = dirname(at)) if ((statSync(at).mode & 0o001) === 0) return false;
  return true;
}
