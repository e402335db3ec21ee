/**
 * A container, in libcontainer's verbs. What it is lies in its directory and in the system: any process may load it, and it outlives the
 * one that made it. Changes are made one at a time, whoever asks; reads never wait.
 */
import { resolve } from "node:path/posix";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, messageOf, RuntimeError } from "../../lib/errors.ts";
import { removeStateTree } from "../../lib/state-files.ts";
import { attachToContainer, type ContainerInputs } from "../container-attach.ts";
import type { CheckpointOptions, RestoreOptions } from "../criu/checkpoint-options.ts";
import type { AttachedStreams, AttachRequest } from "../runtime.ts";
import { checkConfig } from "./check-config.ts";
import type { Config } from "./config.ts";
import { ContainerAccess } from "./container-access.ts";
import { freezeCgroup } from "./container-cgroup.ts";
import { changeLimits } from "./container-change.ts";
import { loadCriu, saveContainer } from "./container-checkpoint.ts";
import { startFirst } from "./container-first.ts";
import { startFurther } from "./container-further.ts";
import { runPoststart, runPoststop } from "./container-hooks.ts";
import { checkId } from "./container-id.ts";
import { makeContainer, stateOrUndefined } from "./container-making.ts";
import { takeDown } from "./container-removal.ts";
import { helperIdOf } from "./container-shim.ts";
import { signalContainer } from "./container-signal.ts";
import { advance, type Status } from "./container-state.ts";
import { type ContainerStats, readContainerStats } from "./container-stats.ts";
import { destroyDeadlineMs, freezeDeadlineMs, startDeadlineMs } from "./deadlines.ts";
import { lockContainer } from "./directory-lock.ts";
import { isPaused, notPaused, notRunning } from "./errors.ts";
import { EventQueue } from "./event-queue.ts";
import { findMachine } from "./machine.ts";
import { type PressureLevel, watchMemoryPressure } from "./memory-pressure.ts";
import { type OciState, ociStateOf } from "./oci-state.ts";
import type { Process, ProcessExit } from "./process.ts";
import type { ConsoleSize } from "./process-spec.ts";
import { refuseCriu } from "./rootless.ts";
import { readState, type SavedState } from "./saved-state.ts";

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
    return new Container(await makeContainer(stateDir, id, asked));
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
      if (!isInit) await startFurther(this.#access, state, process);
      else if (state.init_process_pid !== 0) throw new RuntimeError("failed_precondition", "container already has init process");
      else await startFirst(this.#access, state, process, (signal) => this.signal(signal));
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
    await this.#access.change(async (state) => await changeLimits(this.#access, state, config));
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
    await signalContainer(this.#access, this.state(), signal);
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
    await this.#access.change(async (state) => {
      await saveContainer(this.#access, state, options);
      if (options.leaveRunning !== true && options.preDump !== true) await this.wait();
    });
  }

  /**
   * Starts the container from a checkpoint, as run() starts it from its program. The process says what descriptors 0, 1 and 2 become
   * where they were pipes; what it would execute is not looked at. Hooks run but for those inside the container: prestart and
   * createRuntime when its namespaces are there, poststart when it goes on.
   * @throws RuntimeError not_found or data_loss for images that are not there or not whole; else what CRIU could not restore.
   */
  async restore(process: Process, options: RestoreOptions): Promise<void> {
    refuseCriu(this.#access.machine.caller);
    const { startRestored } = await loadCriu();
    if (process.isStarted) throw new RuntimeError("failed_precondition", "the process was started already: make another one");
    await this.#access.change(async (state) => {
      if (state.init_process_pid !== 0) throw new RuntimeError("failed_precondition", "container already has init process");
      await startFirst(
        this.#access,
        state,
        process,
        (signal) => this.signal(signal),
        async (input) => await startRestored(input, options),
      );
      const restored = this.state();
      await (await this.#access.needShim(restored)).start(helperIdOf(this.id), AbortSignal.timeout(startDeadlineMs));
      await this.#hookStarted(restored);
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
    if (state !== undefined) await takeDown(this.#access, state);
    await removeStateTree(this.#access.directory);
    if (state !== undefined) await runPoststop(state, AbortSignal.timeout(destroyDeadlineMs));
  }

  /** Lets go of the container, which goes on; this object connects again when it needs to. */
  [Symbol.dispose](): void {
    for (const input of this.#inputs.values()) input[Symbol.dispose]();
    this.#inputs.clear();
    this.#access.release()?.disconnect();
  }

  async #release(): Promise<void> {
    await this.#access.change(async (state) => {
      const status = await this.#access.status(state);
      if (status !== "created") throw new RuntimeError("failed_precondition", `cannot start ${cannotStart[status]}`);
      const shim = await this.#access.needShim(state);
      await shim.start(helperIdOf(this.id), AbortSignal.timeout(startDeadlineMs));
      await this.#hookStarted(state);
    });
  }

  async #hookStarted(state: SavedState): Promise<void> {
    await runPoststart(state, AbortSignal.timeout(startDeadlineMs), async () => {
      // It may have ended by itself meanwhile.
      await this.signal("KILL").catch(() => {});
      await this.#access.initEnd(state);
    });
  }
}

const cannotStart: Readonly<Record<Exclude<Status, "created">, string>> = {
  stopped: "a container that has stopped",
  running: "an already running container",
  paused: "a container in the paused state",
};
