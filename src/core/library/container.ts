/**
 * A container, in libcontainer's verbs. What it is lies in its directory and in the system: any process may load it, and it outlives the
 * one that made it. Changes are made one at a time, whoever asks; reads never wait.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, openSync, readlinkSync } from "node:fs";
import { resolve } from "node:path/posix";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { codeOf, errnoName, messageOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import { removeStateTree } from "../../lib/state-files.ts";
import { openFlag } from "../../native/constants.ts";
import { attachToContainer, type ContainerInputs } from "../container-attach.ts";
import { type CheckpointOptions, type RestoreOptions, timeoutOf } from "../criu/checkpoint-options.ts";
import { HostRootfs } from "../host-rootfs.ts";
import type { OciProcess } from "../oci.ts";
import { findResctrl, leaveResctrl } from "../resctrl.ts";
import type { AttachedStreams, AttachRequest, Rootfs } from "../runtime.ts";
import { checkConfig } from "./check-config.ts";
import type { Config } from "./config.ts";
import { bootId, ContainerAccess } from "./container-access.ts";
import { cgroupOf, changeCgroup, freezeCgroup, missingParents, refuseUsedCgroup, removeCgroup } from "./container-cgroup.ts";
import { runPoststart, runPoststop } from "./container-hooks.ts";
import { checkId } from "./container-id.ts";
import { helperIdOf, removeContainerShim } from "./container-shim.ts";
import { advance, type Status } from "./container-state.ts";
import { type ContainerStats, readContainerStats } from "./container-stats.ts";
import { lockContainer } from "./directory-lock.ts";
import { alreadyExists, isPaused, notPaused, notRunning, stillRunning } from "./errors.ts";
import { EventQueue } from "./event-queue.ts";
import { signalExactly, startExec } from "./exec-start.ts";
import { type InitStart, type StartedInit, startInit } from "./init-start.ts";
import { findMachine } from "./machine.ts";
import { type PressureLevel, watchMemoryPressure } from "./memory-pressure.ts";
import { type OciState, ociStateOf } from "./oci-state.ts";
import { withNamespacePaths } from "./other-namespaces.ts";
import type { Process, ProcessExit } from "./process.ts";
import type { ConsoleSize } from "./process-spec.ts";
import { outsideKinds } from "./restore-plan.ts";
import { refuseCriu, refuseUnmappedUser } from "./rootless.ts";
import { readState, type SavedState, writeState } from "./saved-state.ts";
import { shapeOf } from "./shape.ts";
import { sharedParents } from "./shared-parents.ts";
import { sigkill, signalNumber } from "./signals.ts";
import { translateProcess } from "./translate.ts";
import { resolveUser } from "./user.ts";
import { namespaceOf } from "./validate.ts";

const startDeadlineMs = 120_000;
const freezeDeadlineMs = 30_000;
const destroyDeadlineMs = 60_000;
const keepAliveMs = 60_000;
/** No hierarchy tells anybody that a freezer was opened. */
const resumePollMs = 50;

/** Kills by the kernel for want of memory, since the start of the container. */
export interface OomEvent {
  readonly count: bigint;
}

export interface ExecOptions {
  /** Wait until a paused container is resumed, instead of failing. */
  readonly ignorePaused?: boolean;
  /** Ends such a wait. */
  readonly signal?: AbortSignal;
}

export class Container {
  readonly id: string;
  readonly #access: ContainerAccess;
  readonly #inputs: ContainerInputs = new Map();

  private constructor(access: ContainerAccess) {
    this.id = access.id;
    this.#access = access;
  }

  /**
   * Makes a container, without any process: it is stopped. `stateDir` is made where it is missing, 0700.
   * @throws RuntimeError invalid_argument for a bad id or config, already_exists, failed_precondition when its cgroup is in use.
   */
  static async create(stateDir: string, id: string, asked: Config): Promise<Container> {
    checkId(id);
    const config = withNamespacePaths(asked, resolve(stateDir, id));
    const machine = await findMachine();
    checkConfig(config, machine);
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    const directory = resolve(stateDir, id);
    if (isContainer(directory)) throw alreadyExists();
    const cgroup = cgroupOf(machine, id, config);
    await refuseUsedCgroup(cgroup);
    mkdirSync(directory, { recursive: true, mode: 0o711 });
    using lock = await lockContainer(directory);
    // A directory without a state is what a process left that was killed right here.
    if (lock === undefined || isContainer(directory)) throw alreadyExists();
    const madeParents = [...new Set([...sharedParents(stateDir, cgroup), ...missingParents(cgroup)])];
    writeState(directory, {
      id,
      init_process_pid: 0,
      init_process_start: 0,
      created: new Date().toISOString(),
      config,
      rootless: machine.caller !== undefined,
      cgroup_paths: Object.fromEntries(cgroup.cgroups.directories(cgroup.path)),
      namespace_paths: {},
      external_descriptors: [],
      intel_rdt_path: "",
      intel_rdt_mon_path: "",
      caisson: { shim_id: randomBytes(32).toString("hex"), boot_id: bootId(), made_parents: madeParents },
    });
    return new Container(new ContainerAccess(machine, id, directory));
  }

  /** Finds a container that this or any other process has made. @throws RuntimeError not_found `container does not exist`. */
  static async load(stateDir: string, id: string): Promise<Container> {
    checkId(id);
    const directory = resolve(stateDir, id);
    readState(directory);
    return new Container(new ContainerAccess(await findMachine(), id, directory));
  }

  /** What is recorded of it. */
  state(): SavedState {
    return this.#access.state();
  }

  config(): Config {
    return this.state().config;
  }

  /** A container that was destroyed is stopped. */
  async status(): Promise<Status> {
    try {
      return await this.#access.status(this.state());
    } catch (error) {
      if (codeOf(error) === "not_found") return "stopped";
      throw error;
    }
  }

  async ociState(): Promise<OciState> {
    const state = this.state();
    return ociStateOf(state, await this.#access.status(state));
  }

  /**
   * Starts a process: the container's first one waits, fully set up, for exec(); a further one runs at once.
   * @throws RuntimeError failed_precondition `container already has init process`, `container not running`, `container paused`.
   */
  async start(process: Process): Promise<void> {
    if (process.isStarted) throw new RuntimeError("failed_precondition", "the process was started already: make another one");
    await this.#access.change(async (state) => {
      const isInit = process.spec.init ?? state.init_process_pid === 0;
      if (!isInit) await this.#startFurther(state, process);
      else if (state.init_process_pid !== 0) throw new RuntimeError("failed_precondition", "container already has init process");
      else await this.#startInit(state, process);
    });
  }

  /**
   * Without a process: lets the first one go, which start() has set up. With one: starts it in the running container; in a paused one, if
   * that is said to be ignored, as soon as somebody resumes it.
   */
  async exec(process?: Process, { ignorePaused = false, signal }: ExecOptions = {}): Promise<void> {
    if (process === undefined) return await this.#release();
    if (this.state().init_process_pid === 0) throw notRunning();
    for (;;) {
      try {
        return await this.start(process);
      } catch (error) {
        // By the error and not by asking before: somebody may pause it between the two.
        if (!ignorePaused || messageOf(error) !== isPaused().message) throw error;
      }
      await sleep(resumePollMs, undefined, signal === undefined ? {} : { signal });
    }
  }

  /** Starts a process and lets it run. */
  async run(process: Process): Promise<void> {
    const isInit = process.spec.init ?? this.state().init_process_pid === 0;
    await this.start(process);
    if (isInit) await this.exec();
  }

  /** How the first process ended, whichever process has started it. Resolves at once when it has ended already. */
  async wait(signal?: AbortSignal): Promise<ProcessExit> {
    const alive = setInterval(() => {}, keepAliveMs);
    const gaveUp = Promise.withResolvers<never>();
    const giveUp = () => gaveUp.reject(signal?.reason);
    signal?.addEventListener("abort", giveUp, { once: true });
    try {
      signal?.throwIfAborted();
      return await Promise.race([this.#access.initEnd(this.state()), gaveUp.promise]);
    } finally {
      clearInterval(alive);
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /**
   * Joins the first process's stdio, where it was started as attachable; output is what is written from now on.
   * @throws RuntimeError failed_precondition `container not running`.
   */
  async attach(request: Omit<AttachRequest, "stdinOnce">, signal: AbortSignal): Promise<AttachedStreams> {
    const state = this.state();
    const { attachable } = state.caisson;
    if ((await this.#access.status(state)) === "stopped") throw notRunning();
    if (attachable === undefined)
      throw new RuntimeError("failed_precondition", `container ${this.id} was not started as attachable: its stdio is elsewhere`);
    const shim = await this.#access.needShim(state);
    const asked = { ...request, stdinOnce: attachable.stdinOnce === true };
    return await attachToContainer(shim, this.#inputs, helperIdOf(this.id), asked, signal);
  }

  /** Of the first process's terminal, where it was started as attachable. */
  async resize({ rows, cols }: ConsoleSize): Promise<void> {
    const shim = await this.#access.needShim(this.state());
    await shim.resize(helperIdOf(this.id), "", rows, cols);
  }

  /** Pids of all processes in its cgroup and below, as this process sees them. */
  async processes(): Promise<readonly number[]> {
    const { cgroups, path } = this.#access.cgroup(this.state());
    return await cgroups.processes(path);
  }

  /** @throws RuntimeError failed_precondition `cgroup not exist`. */
  async stats(): Promise<ContainerStats> {
    const state = this.state();
    return await readContainerStats(this.#access.cgroup(state), this.#access.init(state));
  }

  /** Changes the limits of the cgroup, all or none; nothing else can be changed. */
  async set(config: Config): Promise<void> {
    checkConfig(config, this.#access.machine);
    await this.#access.change(async (state) => {
      if ((await this.#access.status(state)) === "stopped") throw notRunning();
      const wanted = { ...state.config, cgroups: { ...state.config.cgroups, resources: config.cgroups?.resources ?? {} } };
      if (!isDeepStrictEqual(withoutResources(wanted), withoutResources(config))) {
        throw new RuntimeError("invalid_argument", "only cgroups.resources of a container can be changed");
      }
      const cgroup = this.#access.cgroup(state);
      try {
        await changeCgroup(cgroup, wanted);
      } catch (error) {
        await changeCgroup(cgroup, state.config).catch((stuck: unknown) => {
          throw wrapError(`${String(error)}; putting back the former values failed`, stuck);
        });
        throw error;
      }
      writeState(this.#access.directory, { ...state, config: wanted });
    });
  }

  /** @throws RuntimeError failed_precondition `container not running`, also when it is paused already. */
  async pause(): Promise<void> {
    await this.#access.change(async (state) => {
      const status = await this.#access.status(state);
      if (status !== "running" && status !== "created") throw notRunning();
      advance(status, "paused");
      await freezeCgroup(this.#access.cgroup(state), true, AbortSignal.timeout(freezeDeadlineMs));
    });
  }

  /** @throws RuntimeError failed_precondition `container not paused`. */
  async resume(): Promise<void> {
    await this.#access.change(async (state) => {
      if ((await this.#access.status(state)) !== "paused") throw notPaused();
      await freezeCgroup(this.#access.cgroup(state), false, AbortSignal.timeout(freezeDeadlineMs));
    });
  }

  /**
   * To the first process; SIGKILL to all, where no PID namespace of their own ends the others with it. Does not wait for their end.
   * @throws RuntimeError failed_precondition `container not running`.
   */
  async signal(signal: number | string): Promise<void> {
    const number = signalNumber(signal);
    const state = this.state();
    const { cgroups, path } = this.#access.cgroup(state);
    const init = this.#access.init(state);
    if (
      number === sigkill &&
      namespaceOf(state.config, "pid")?.path === undefined &&
      namespaceOf(state.config, "pid") !== undefined
    ) {
      if (init === undefined) throw notRunning();
      signalExactly(init, number);
    } else if (number === sigkill && cgroups.directories(path).size > 0) await this.#killAll(state);
    else if (init === undefined) throw notRunning();
    else signalExactly(init, number);
    // v1 delivers nothing to what is frozen.
    if (number === sigkill) await cgroups.setFrozen(path, false, AbortSignal.timeout(freezeDeadlineMs));
  }

  /** Each growth of the number of OOM kills while somebody listens; ends with the container. */
  async notifyOOM(): Promise<EventQueue<OomEvent>> {
    const state = this.state();
    await this.#access.needShim(state);
    const queue = new EventQueue<OomEvent>(() => stop());
    const stop = this.#access.onOom({ onOom: (count) => queue.push({ count }), onEnd: () => queue.end() });
    return queue;
  }

  /** Memory pressure of that level or above, on cgroup v1; ends with the container's cgroup. */
  notifyMemoryPressure(level: PressureLevel): EventQueue<PressureLevel> {
    return watchMemoryPressure(this.state().cgroup_paths, level);
  }

  /**
   * Saves the running or paused container, which ends unless it is to go on. Further processes of start() and exec() are not saved.
   * @throws RuntimeError failed_precondition without a fitting CRIU; unimplemented for containers that cannot be saved; else what CRIU
   * could not save. The container then goes on as before.
   */
  async checkpoint(options: CheckpointOptions): Promise<void> {
    refuseCriu(this.#access.machine.caller);
    const { dump, findCriu, refuseUnsupportedShape } = await loadCriu();
    await this.#access.change(async (state) => {
      const status = await this.#access.status(state);
      const init = this.#access.init(state);
      if (init === undefined || (status !== "running" && status !== "paused"))
        throw new RuntimeError("failed_precondition", `Container cannot be checkpointed in ${status} state`);
      const shape = state.caisson.shape ?? shapeOf(state.config);
      refuseUnsupportedShape(shape);
      const { cgroups, path } = this.#access.cgroup(state);
      await dump({
        what: `container ${this.id}`,
        shim: await this.#access.needShim(state),
        program: await findCriu(),
        init,
        terminal: state.caisson.terminal === true,
        maskedPaths: state.config.maskPaths ?? [],
        outside: outsideKinds(shapeOf(state.config)),
        freezer: cgroups.freezer(path),
        options,
        signal: AbortSignal.timeout(timeoutOf(options)),
      });
      if (options.leaveRunning !== true && options.preDump !== true) await this.wait();
    });
  }

  /**
   * Starts the container from a checkpoint, as run() starts it from its program. The process says what descriptors 0, 1 and 2 become
   * where they were pipes; what it would execute is not looked at.
   * @throws RuntimeError not_found or data_loss for images that are not there or not whole; else what CRIU could not restore.
   */
  async restore(process: Process, options: RestoreOptions): Promise<void> {
    refuseCriu(this.#access.machine.caller);
    const { startRestored } = await loadCriu();
    if (process.isStarted) throw new RuntimeError("failed_precondition", "the process was started already: make another one");
    await this.#access.change(async (state) => {
      if (state.init_process_pid !== 0) throw new RuntimeError("failed_precondition", "container already has init process");
      await this.#startInit(state, process, async (input) => await startRestored(input, options));
      await (await this.#access.needShim(this.state())).start(helperIdOf(this.id), AbortSignal.timeout(startDeadlineMs));
    });
  }

  /**
   * Takes away everything of a container that does not run. One that waits for exec() is killed first. Idempotent.
   * @throws RuntimeError failed_precondition `container still running`, `container paused`.
   */
  async destroy(): Promise<void> {
    using lock = await lockContainer(this.#access.directory);
    if (lock === undefined) return;
    const state = stateOrUndefined(this.#access.directory);
    if (state !== undefined) await this.#takeDown(state);
    await removeStateTree(this.#access.directory);
    if (state !== undefined) await runPoststop(state, AbortSignal.timeout(destroyDeadlineMs));
  }

  /** Lets go of the container, which goes on; this object connects again when it needs to. */
  [Symbol.dispose](): void {
    for (const input of this.#inputs.values()) input[Symbol.dispose]();
    this.#inputs.clear();
    this.#access.release()?.disconnect();
  }

  async #takeDown(state: SavedState): Promise<void> {
    const status = await this.#access.status(state);
    if (status === "running") throw stillRunning();
    const cgroup = this.#access.cgroup(state);
    const signal = AbortSignal.timeout(destroyDeadlineMs);
    if (status === "paused") {
      if (this.#access.init(state) !== undefined) throw isPaused();
      await cgroup.cgroups.setFrozen(cgroup.path, false, signal);
    }
    await this.#endHelper(state);
    await removeCgroup(cgroup, state.caisson.made_parents, signal);
    leaveResctrl(this.id, state.config.intelRdt);
  }

  /** With whatever it has started. Before the first process there is one only if a start was killed half-way. Whether there was one. */
  async #endHelper(state: SavedState): Promise<boolean> {
    const link = await this.#access.link(state);
    this.#access.release();
    const { machine, directory } = this.#access;
    await removeContainerShim(machine, directory, state.caisson.shim_id, link, AbortSignal.timeout(destroyDeadlineMs));
    return link !== undefined;
  }

  async #startInit(
    state: SavedState,
    process: Process,
    start: (input: InitStart) => Promise<StartedInit> = startInit,
  ): Promise<void> {
    const { machine, directory } = this.#access;
    const { config } = state;
    // What a path leads to may have changed since create().
    checkConfig(config, machine);
    const cgroup = this.#access.cgroup(state);
    if (await this.#endHelper(state)) {
      // Linux kills at birth whoever is cloned into a cgroup that cgroup.kill was ever written to (seen in 6.18): it has to be a new one.
      await removeCgroup(cgroup, [], AbortSignal.timeout(destroyDeadlineMs));
    }
    await refuseUsedCgroup(cgroup);
    const madeParents = [...new Set([...state.caisson.made_parents, ...missingParents(cgroup)])];
    writeState(directory, { ...state, caisson: { ...state.caisson, made_parents: madeParents } });
    const started = await start({
      machine,
      directory,
      id: this.id,
      shimId: state.caisson.shim_id,
      config,
      cgroup,
      madeParents,
      spec: process.spec,
      describe: async (root) => await this.#describe(config, process, root),
      signal: AbortSignal.timeout(startDeadlineMs),
    });
    const { pid, startTicks } = started.identity;
    this.#access.take(started.link);
    writeState(directory, {
      ...state,
      init_process_pid: pid,
      init_process_start: Number(startTicks),
      intel_rdt_path: findResctrl(this.id, config.intelRdt)?.group ?? "",
      intel_rdt_mon_path: findResctrl(this.id, config.intelRdt)?.monitor ?? "",
      namespace_paths: namespacePaths(config, pid),
      external_descriptors: [0, 1, 2].map((fd) => linkOf(`/proc/${pid}/fd/${fd}`)),
      caisson: {
        ...state.caisson,
        boot_id: bootId(),
        shape: started.shape,
        terminal: process.spec.terminal === true,
        made_parents: madeParents,
        ...attachableOf(process),
      },
    });
    process.started({ ...started, ended: this.#access.initEnded, signal: async (signal) => await this.signal(signal) });
  }

  async #startFurther(state: SavedState, process: Process): Promise<void> {
    const status = await this.#access.status(state);
    if (status === "paused") throw isPaused();
    const init = this.#access.init(state);
    if (status !== "running" || init === undefined) throw notRunning();
    const shape = state.caisson.shape ?? shapeOf(state.config);
    await using root = new HostRootfs(openSync(`/proc/${init.pid}/root`, openFlag.path | openFlag.directory));
    const running = await startExec({
      machine: this.#access.machine,
      id: this.id,
      config: state.config,
      cgroup: this.#access.cgroup(state),
      shape,
      init,
      shim: await this.#access.needShim(state),
      spec: process.spec,
      process: await this.#describe(state.config, process, root),
      signal: AbortSignal.timeout(startDeadlineMs),
    });
    process.started(running);
  }

  async #describe(config: Config, process: Process, root: Rootfs): Promise<OciProcess> {
    const user = await resolveUser(process.spec.user, root);
    const { caller } = this.#access.machine;
    if (caller !== undefined) refuseUnmappedUser(config, user, caller);
    const described = translateProcess(config, process.spec, user);
    return { oomScoreAdj: this.#access.machine.ownOomScoreAdj, ...described };
  }

  async #release(): Promise<void> {
    await this.#access.change(async (state) => {
      const status = await this.#access.status(state);
      if (status !== "created") throw new RuntimeError("failed_precondition", `cannot start ${cannotStart[status]}`);
      const shim = await this.#access.needShim(state);
      await shim.start(helperIdOf(this.id), AbortSignal.timeout(startDeadlineMs));
      await runPoststart(state, AbortSignal.timeout(startDeadlineMs), async () => {
        // It may have ended by itself meanwhile.
        await this.signal("KILL").catch(() => {});
        await this.#access.initEnd(state);
      });
    });
  }

  async #killAll(state: SavedState): Promise<void> {
    const { cgroups, path } = this.#access.cgroup(state);
    const wasAlive = this.#access.init(state) !== undefined;
    if (!wasAlive && (await cgroups.processes(path)).length === 0) throw notRunning();
    await cgroups.kill(path, AbortSignal.timeout(destroyDeadlineMs));
  }
}

/** CRIU's messages and what reads them are a third of the library's code, which few containers need. */
async function loadCriu() {
  const [program, dumping, restoring] = await Promise.all([
    import("../criu/criu-program.ts"),
    import("../criu/dump.ts"),
    import("./restore-start.ts"),
  ]);
  return { ...program, ...dumping, ...restoring };
}

const cannotStart: Readonly<Record<Exclude<Status, "created">, string>> = {
  stopped: "a container that has stopped",
  running: "an already running container",
  paused: "a container in the paused state",
};

function attachableOf({ spec }: Process): Pick<SavedState["caisson"], "attachable"> {
  return spec.attachable === undefined ? {} : { attachable: spec.attachable };
}

function isContainer(directory: string): boolean {
  return stateOrUndefined(directory) !== undefined;
}

function stateOrUndefined(directory: string): SavedState | undefined {
  try {
    return readState(directory);
  } catch (error) {
    if (codeOf(error) === "not_found") return undefined;
    throw error;
  }
}

function withoutResources({ cgroups, ...config }: Config): object {
  const { resources: _, ...place } = cgroups ?? {};
  return { ...config, cgroups: place };
}

/** libcontainer's names of the types. */
const savedTypes = {
  user: "NEWUSER",
  ipc: "NEWIPC",
  uts: "NEWUTS",
  net: "NEWNET",
  pid: "NEWPID",
  mnt: "NEWNS",
  cgroup: "NEWCGROUP",
  time: "NEWTIME",
};

function namespacePaths(config: Config, pid: number): Record<string, string> {
  return Object.fromEntries((config.namespaces ?? []).map(({ type }) => [savedTypes[type], `/proc/${pid}/ns/${type}`]));
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    // An ordinary user cannot look into a process that waits for its release.
    if (errnoName(error) === "ENOENT" || errnoName(error) === "EACCES") return "";
    throw error;
  }
}
