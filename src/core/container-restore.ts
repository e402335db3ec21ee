/** A container of a pod saved by CRIU, and made from what was saved: frozen, it waits like a parked init. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path/posix";
import { RuntimeError } from "../lib/errors.ts";
import { makeStateDirectory } from "../lib/state-files.ts";
import { addon } from "../native/addon.ts";
import { parseOwnCgroups } from "./cgroup/hierarchies.ts";
import { admit, attachPointOf, type CreateInput, cgroupsPathOf, planInput, shimSide, treeSlots } from "./container-create.ts";
import { type ContainerPlanInput, cgroupBarrier, planContainerRoot } from "./container-plan.ts";
import type { CheckpointOptions } from "./criu/checkpoint-options.ts";
import { findCriu } from "./criu/criu-program.ts";
import { dump } from "./criu/dump.ts";
import { fitImages } from "./criu/fitted-images.ts";
import { ImageDirectory, type RestoreNotes } from "./criu/image-directory.ts";
import { restore } from "./criu/restore.ts";
import { planBareRoot, planExternals } from "./criu/restore-tree.ts";
import { checkPrivileges, checkSeccomp } from "./criu/restored-check.ts";
import { leavesPod } from "./final-spec.ts";
import { IdmapNamespaces } from "./idmap-namespaces.ts";
import { type PodShape, sharedNamespaces } from "./namespace/pod-shape.ts";
import type { OciSpec } from "./oci.ts";
import { openProcess } from "./open-process.ts";
import type { Op, Plan } from "./plan.ts";
import { nsKind, podPin } from "./plan-schema.ts";
import { PlanSlots } from "./plan-slots.ts";
import type { PodTools } from "./pod-tools.ts";
import { capabilityBits } from "./process/capabilities.ts";
import { processSettings } from "./process/process-settings.ts";
import { wantsListener } from "./process/seccomp-listener.ts";
import type { ContainerRestore, PodSpec, ProcessIdentity } from "./runtime.ts";
import type { Shim } from "./shim/shim.ts";

const freezeDeadlineMs = 10_000;
const sigkill = 9;
const idsMayChange = capabilityBits(["CAP_SETUID"]);
const mayMount = capabilityBits(["CAP_SYS_ADMIN"]);

export interface CheckpointInput {
  readonly tools: PodTools;
  readonly shim: Shim;
  readonly pod: PodSpec;
  readonly containerId: string;
  readonly oci: OciSpec;
  readonly init: ProcessIdentity;
  readonly options: CheckpointOptions & { readonly held?: boolean };
  readonly signal: AbortSignal;
}

export async function checkpointContainer(input: CheckpointInput): Promise<void> {
  const { tools, pod, oci, options } = input;
  refuseUserNamespace(pod);
  if (leavesPod(oci, pod, input.init)) refuseNamespaces();
  const namespace = (type: string) => oci.linux.namespaces?.find((one) => one.type === type);
  await dump({
    what: `container ${input.containerId}`,
    shim: input.shim,
    program: await findCriu(tools.criuPath),
    init: input.init,
    terminal: oci.process.terminal === true,
    maskedPaths: oci.linux.maskedPaths ?? [],
    // Those that are the node's anyway are joined without effect.
    outside: nsKind.net | nsKind.ipc | nsKind.uts | nsKind.cgroup,
    sharedPid: namespace("pid")?.path !== undefined,
    freezer: tools.cgroups.freezer(cgroupsPathOf(oci)),
    held: options.held === true,
    networkHeld: options.held === true && pod.network === "new",
    options,
    signal: input.signal,
  });
}

function refuseUserNamespace(pod: PodShape): void {
  if (pod.user !== null)
    throw new RuntimeError("unimplemented", "a container in a pod with a user namespace cannot be checkpointed or restored");
}

function refuseNamespaces(): never {
  throw new RuntimeError(
    "unimplemented",
    "a container with namespaces that are not its pod's cannot be checkpointed or restored",
  );
}

/** CRIU takes a container back whole, in no moment that these could use. */
function refuseOutside({ linux }: OciSpec): void {
  const listens = linux.seccomp !== undefined && wantsListener(linux.seccomp);
  const found = [
    ...(listens ? ["a seccomp listener"] : []),
    ...(linux.intelRdt === undefined ? [] : ["a class of Intel RDT"]),
    ...(linux.netDevices === undefined ? [] : ["network devices of the node"]),
  ][0];
  if (found !== undefined)
    throw new RuntimeError("unimplemented", `a container with ${found} cannot be made from a checkpoint: start it without one`);
}

export async function restoreInit(input: CreateInput, cgroupsPath: string, from: ContainerRestore): Promise<ProcessIdentity> {
  const { tools, shim, spec, pod, rootfs, signal } = input;
  refuseUserNamespace(pod);
  refuseOutside(spec.oci);
  if (spec.namespaces !== undefined || spec.pidNamespace.kind === "process") refuseNamespaces();
  const program = await findCriu(tools.criuPath);
  using fitted = await fitImages(shim, from, join(attachPointOf(tools.stateDir, spec.id), "..", "images"));
  using images = ImageDirectory.open(fitted.path);
  const notes = images.readNotes();
  if (notes.terminal !== (spec.oci.process.terminal === true))
    throw new RuntimeError(
      "invalid_argument",
      `the checkpoint has ${notes.terminal ? "a" : "no"} terminal, which the container shall ${notes.terminal ? "not " : ""}have`,
    );
  const what = `container ${spec.id}`;
  const profile = spec.oci.linux.seccomp;
  const seccomp = profile === undefined ? undefined : await tools.seccomp.compile(profile);
  checkSeccomp(what, images.path, seccomp?.program);
  using target = input.target === undefined ? undefined : openProcess(input.target);
  using idmaps = new IdmapNamespaces(pod, shim, signal);
  // In the slots of a start: 0 to 2 stay without use.
  const fds = [images.fd, images.fd, images.fd, rootfs.fd, target?.fd ?? images.fd];
  const treeSlot = treeSlots(spec, fds.length);
  fds.push(...(spec.trees ?? []).map(({ fd }) => fd));
  const idmapSlots = await idmaps.prepare(spec.oci.mounts, fds.length);
  fds.push(...idmaps.fds);
  const use = tools.cgroups.use(cgroupsPath);
  const prepared = shimSide(input, use);
  const stdio = await shim.restorePrepare(prepared);
  try {
    const stdioSlot = fds.length;
    fds.push(...stdio);
    // Nobody sees this tree but CRIU: a procfs of the node's is as good as another for making mount points.
    const gathered = await planInput(input, cgroupsPath, {
      proc: { kind: "fresh" },
      idmapSlots,
      treeSlot,
      receivedSlots: fds.length + 1,
    });
    const tasks = [...gathered.cgroupTasks, ...(use.into === "" ? [] : [join(use.into, "cgroup.procs")])];
    const externalsPath = join(attachPointOf(tools.stateDir, spec.id), "..", "criu");
    makeStateDirectory(externalsPath, 0o700);
    const late = tools.cgroups.needsProcess(cgroupsPath);
    const settings = processSettings(spec.oci.process, tools.own, false, seccomp);
    const { bounding } = settings.capabilities;
    const restored = await restore({
      what,
      shim,
      program,
      images,
      notes,
      plan: planRestored({ ...gathered, cgroupTasks: late ? [] : tasks }, mountPointsOf(notes), externalsPath),
      cloneKinds: nsKind.mnt,
      fds,
      rootPath: gathered.attachPath,
      externalsPath,
      stdio: stdio.length === 3 ? [stdioSlot, stdioSlot + 1, stdioSlot + 2] : undefined,
      pidNamespace: pidSlot(input),
      onBarrier: async (number, pid) => {
        if (number === cgroupBarrier) await admit(input, cgroupsPath, pid);
      },
      mayMount: (bounding & mayMount) !== 0n,
      freezer: tools.cgroups.freezer(cgroupsPath),
      networkHeld: pod.network === "new",
      cgroupRoot: input.spec.cgroupNamespace === "private" ? "/" : cgroupsPath,
      shimFreezer: tools.cgroups.freezer(cgroupOfProcess(shim.process.pid)),
      options: { ...from.options, imagesDirectory: images.path, ...labelOf(spec.oci) },
      signal,
    });
    try {
      await tools.cgroups.setFrozen(cgroupsPath, true, AbortSignal.timeout(freezeDeadlineMs));
      checkPrivileges(what, await tools.cgroups.processes(cgroupsPath), {
        uid: spec.oci.process.user.uid,
        bounding,
        mayChangeUser: (bounding & idsMayChange) !== 0n,
        noNewPrivileges: spec.oci.process.noNewPrivileges === true,
        seccomp: seccomp?.program,
      });
      return await shim.restoreAdopt(spec.id, restored.pid, restored.consoleFd);
    } finally {
      if (restored.consoleFd !== undefined) addon.close(restored.consoleFd);
      rmSync(externalsPath, { recursive: true, force: true });
    }
  } catch (error) {
    await shim.forget(spec.id).catch(() => {});
    throw error;
  } finally {
    for (const fd of stdio) addon.close(fd);
  }
}

function planRestored(input: ContainerPlanInput, externals: readonly string[], externalsPath: string): Plan {
  const slots = new PlanSlots(input.receivedSlots);
  const scratch = slots.take();
  const root = planContainerRoot(input, slots);
  return [
    { op: "parent-death-signal", signal: sigkill },
    { op: "clean-start" },
    ...(input.cgroupBarrier ? [{ op: "barrier", number: cgroupBarrier } as const] : []),
    ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
    ...sharedNamespaces(input.pod).map(({ slot, kind }): Op => ({ op: "join-ns", slot, kind })),
    ...(input.cgroupNamespace === "private" ? [{ op: "new-ns", kinds: nsKind.cgroup } as const] : []),
    ...root.outer,
    ...root.inner,
    ...planExternals(externals, externalsPath, scratch),
    ...planBareRoot(input.attachPath, scratch, input.oci.root.readonly === true),
  ];
}

function mountPointsOf({ externals }: RestoreNotes): readonly string[] {
  return externals.map(({ mountPoint }) => mountPoint);
}

function pidSlot({ spec, pod }: CreateInput): number | undefined {
  const { kind } = spec.pidNamespace;
  if (kind === "target")
    throw new RuntimeError("unimplemented", "a container in the PID namespace of another one cannot be restored");
  return kind === "pod" && pod.pid === "pod" ? podPin.pid : undefined;
}

/** The labels of the request, not those of the images. */
function labelOf({ process }: OciSpec): { readonly lsmProfile?: string } {
  if (process.apparmorProfile) return { lsmProfile: `apparmor:${process.apparmorProfile}` };
  if (process.selinuxLabel) return { lsmProfile: `selinux:${process.selinuxLabel}` };
  return {};
}

/** Of the hierarchy by which things are frozen. */
function cgroupOfProcess(pid: number): string {
  const paths = new Map(parseOwnCgroups(readFileSync(`/proc/${pid}/cgroup`, "utf8")));
  return paths.get("freezer") ?? paths.get("") ?? "/";
}
