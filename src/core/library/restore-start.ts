/** From a checkpoint to a first process that waits, frozen, as start() leaves one that waits. Everything is taken back when a step fails. */
import { mkdirSync, readlinkSync, rmSync } from "node:fs";
import { join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { Undo } from "../../lib/undo.ts";
import { addon } from "../../native/addon.ts";
import { checkRestoreOptions, type RestoreOptions } from "../criu/checkpoint-options.ts";
import { findCriu } from "../criu/criu-program.ts";
import { ImageDirectory } from "../criu/image-directory.ts";
import { restore } from "../criu/restore.ts";
import { runCreationHooks } from "../hooks.ts";
import { IdmapNamespaces } from "../idmap-namespaces.ts";
import { sendConsole } from "./console-socket.ts";
import { admitProcess, makeCgroup, removeCgroup } from "./container-cgroup.ts";
import { openRoot } from "./container-root.ts";
import { removeContainerShim, shimCgroupOf, startContainerShim } from "./container-shim.ts";
import { cgroupBarrier } from "./init-plan.ts";
import { firstSlot, gatherInit, type InitStart, type StartedInit, shimSide } from "./init-start.ts";
import { hookStateOf } from "./oci-state.ts";
import { planRestore } from "./restore-plan.ts";
import { JoinedNamespaces, type Shape, shapeOf } from "./shape.ts";
import { PreparedStdio } from "./stdio.ts";

/** @throws RuntimeError unimplemented for what CRIU cannot save, or give again, here. */
export function refuseUnsupportedShape(shape: Shape): void {
  const refuse = (what: string): never => {
    throw new RuntimeError("unimplemented", `a container ${what} cannot be checkpointed or restored`);
  };
  if (shape.user !== "shared") refuse("with a user namespace");
  if (shape.mnt !== "new") refuse("without a mount namespace of its own");
  if (shape.pid === "joined") refuse("in the PID namespace of another one");
  if (shape.time === "joined") refuse("in the time namespace of another one");
}

export async function startRestored(input: InitStart, options: RestoreOptions): Promise<StartedInit> {
  const { machine, directory, shimId, config, cgroup, signal } = input;
  checkRestoreOptions(options);
  const shape = shapeOf(config);
  refuseUnsupportedShape(shape);
  const program = await findCriu();
  using images = ImageDirectory.open(options.imagesDirectory);
  const notes = images.readNotes();
  if (notes.terminal !== (input.spec.terminal === true))
    throw new RuntimeError("invalid_argument", `the process of the checkpoint has ${notes.terminal ? "a" : "no"} terminal`);
  if (input.spec.attachable !== undefined || (input.spec.extraFiles?.length ?? 0) > 0)
    throw new RuntimeError("unimplemented", "a restored process cannot be attached to, nor get further descriptors");
  await using undo = new Undo(({ failed, error }) => {
    process.emitWarning(`container ${input.id} could not be restored and leaves its ${failed}: ${String(error)}`);
  });
  undo.push("cgroup", (undoSignal) => removeCgroup(cgroup, input.madeParents, undoSignal));
  await makeCgroup(cgroup, config);
  let link: StartedInit["link"] | undefined;
  undo.push("helper", (undoSignal) => removeContainerShim(machine, directory, shimId, link, undoSignal));
  link = await startContainerShim(machine, directory, shimId, signal);
  const shim = await link.shim();
  using joined = JoinedNamespaces.open(config, shape);
  await using root = await openRoot(shim, { config, rootless: false, signal });
  const described = await input.describe(root);
  using stdio = new PreparedStdio({ ...input.spec, terminal: false }, firstSlot, false);
  using idmaps = new IdmapNamespaces({ user: null }, shim, signal);
  const gathered = await gatherInit(input, { shape, joined, stdio, root, process: described, idmaps });
  const use = gathered.use;
  const late = gathered.input.waitsForCgroup === true;
  const externalsPath = join(directory, "criu");
  mkdirSync(externalsPath, { recursive: true, mode: 0o700 });
  undo.push("mount point", () => rmSync(externalsPath, { recursive: true }));
  const planned = planRestore({
    ...gathered.input,
    cgroupTasks: [...use.taskFiles, ...(late || use.into === "" ? [] : [join(use.into, "cgroup.procs")])],
    // One more: CRIU's socket comes behind ours.
    receivedSlots: gathered.input.receivedSlots + 1,
    externalMounts: notes.externals.map(({ mountPoint }) => mountPoint),
    externalsPath,
  });
  const prepared = shimSide(input, shape, use);
  for (const fd of await shim.restorePrepare(prepared)) addon.close(fd);
  const { stdin, stdout, stderr } = stdio.slots;
  const restored = await restore({
    what: `container ${input.id}`,
    shim,
    program,
    images,
    notes,
    plan: planned.plan,
    cloneKinds: planned.cloneKinds,
    // Slots 0 to 2 stay empty, as in a start: any descriptor will do.
    fds: [images.fd, images.fd, images.fd, ...gathered.fds],
    rootPath: gathered.input.attachPath,
    externalsPath,
    stdio: input.spec.terminal === true ? undefined : [stdin, stdout, stderr],
    mayMount: true,
    onBarrier: async (number, pid) => {
      if (number === cgroupBarrier) await admitProcess(cgroup, input.id, config, pid);
    },
    freezer: cgroup.cgroups.freezer(cgroup.path),
    cgroupRoot: shape.cgroup === "new" ? "/" : cgroup.path,
    shimFreezer: machine.shimCgroups.freezer(shimCgroupOf(shimId)),
    options: {
      ...options,
      onStep: async (step, pid) => {
        if (step === "setup-namespaces") await runCreationHooks(config.hooks, hookStateOf(input.id, config), pid, signal);
        await options.onStep?.(step, pid);
      },
    },
    signal,
  });
  // The terminal is the caller's.
  const identity = await shim.restoreAdopt(prepared.id, restored.pid, undefined);
  rmSync(externalsPath, { recursive: true });
  const { consoleSocket } = input.spec;
  if (consoleSocket !== undefined) sendConsole(consoleSocket, restored.consoleFd);
  const consoleFd = consoleSocket === undefined ? restored.consoleFd : undefined;
  undo.commit();
  return { link, shape: shapeNow(shape, identity.pid), identity, streams: stdio.connect(), consoleFd };
}

/** CRIU gives a time namespace to what had none, so that its clocks go on where they were. */
function shapeNow(shape: Shape, pid: number): Shape {
  if (shape.time !== "shared" || readlinkSync(`/proc/${pid}/ns/time`) === readlinkSync("/proc/self/ns/time")) return shape;
  return { ...shape, time: "new" };
}
