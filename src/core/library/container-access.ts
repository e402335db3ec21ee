/** What all verbs of a container stand on: its directory, its lock, its helper, and what the system says of it. */
import { readFileSync } from "node:fs";
import { RuntimeError } from "../../lib/errors.ts";
import { readExitRecord } from "../exit-record.ts";
import type { ContainerExit, ProcessIdentity } from "../runtime.ts";
import { shimPhase } from "../shim/messages.ts";
import { ProcessHandle, readStartTicks } from "../shim/process-handle.ts";
import type { Shim } from "../shim/shim.ts";
import type { ShimLink } from "../shim-link.ts";
import { type ContainerCgroup, recordedCgroup } from "./container-cgroup.ts";
import { connectContainerShim, helperIdOf } from "./container-shim.ts";
import type { Status } from "./container-state.ts";
import { lockContainer } from "./directory-lock.ts";
import { doesNotExist, notRunning } from "./errors.ts";
import { unknownExit } from "./exec-start.ts";
import type { Machine } from "./machine.ts";
import type { ProcessExit } from "./process.ts";
import { readState, type SavedState } from "./saved-state.ts";

type OomListener = { readonly onOom: (count: bigint) => void; readonly onEnd: () => void };

export class ContainerAccess {
  readonly machine: Machine;
  readonly id: string;
  readonly directory: string;
  #initEnded = Promise.withResolvers<ProcessExit>();
  readonly #oomListeners = new Set<OomListener>();
  #link: ShimLink | undefined;

  constructor(machine: Machine, id: string, directory: string) {
    this.machine = machine;
    this.id = id;
    this.directory = directory;
  }

  /** @throws RuntimeError `container does not exist`. */
  state(): SavedState {
    return readState(this.directory);
  }

  /** Changes nothing at the same time as anybody else. @throws RuntimeError `container does not exist`. */
  async change<T>(work: (state: SavedState) => Promise<T>): Promise<T> {
    using lock = await lockContainer(this.directory);
    if (lock === undefined) throw doesNotExist();
    return await work(this.state());
  }

  cgroup(state: SavedState): ContainerCgroup {
    return recordedCgroup(this.machine, this.id, state.config, state.cgroup_paths);
  }

  /** The first process, if it lives; a process of before the last boot only looks like it. */
  init(state: SavedState): ProcessIdentity | undefined {
    const identity = { pid: state.init_process_pid, startTicks: BigInt(state.init_process_start) };
    if (identity.pid === 0 || state.caisson.boot_id !== bootId()) return undefined;
    return readStartTicks(identity.pid) === identity.startTicks ? identity : undefined;
  }

  /** The freezer is asked first: a frozen process is paused whatever else is said of it. */
  async status(state: SavedState): Promise<Status> {
    if (state.init_process_pid === 0) return "stopped";
    const { cgroups, path } = this.cgroup(state);
    if (await cgroups.frozen(path)) return "paused";
    if (this.init(state) === undefined) return "stopped";
    const shim = await this.shim(state);
    const told = await shim?.list();
    // The process may have ended while the helper was asked.
    if (this.init(state) === undefined) return "stopped";
    const phase = told?.find(({ id }) => id === helperIdOf(this.id))?.phase;
    return phase === shimPhase.parked || phase === shimPhase.creating ? "created" : "running";
  }

  /** Connected at first use; undefined: it never started, or has ended. */
  async link(state: SavedState): Promise<ShimLink | undefined> {
    if (this.#link === undefined) {
      const link = await connectContainerShim(this.directory, state.caisson.shim_id, AbortSignal.timeout(10_000));
      if (link !== undefined && this.#link === undefined) this.take(link);
      else link?.disconnect();
    }
    return this.#link;
  }

  async shim(state: SavedState): Promise<Shim | undefined> {
    return await (await this.link(state))?.shim();
  }

  async needShim(state: SavedState): Promise<Shim> {
    const shim = await this.shim(state);
    if (shim !== undefined) return shim;
    if (this.init(state) === undefined) throw notRunning();
    throw new RuntimeError("unavailable", `the helper of container ${this.id} has ended: it can only be killed and destroyed`);
  }

  take(link: ShimLink): void {
    this.#link = link;
    // Of this helper's: the end of one that a start had left half-way says nothing of the process that comes after it.
    const initEnded = Promise.withResolvers<ProcessExit>();
    this.#initEnded = initEnded;
    const ended = (exit: ProcessExit) => this.#ended(initEnded, exit);
    link.onExit((exit) => ended(exitOf(exit)));
    link.onOom((_, count) => {
      for (const { onOom } of this.#oomListeners) onOom(count);
    });
    link.onLost(() => {
      if (this.#link === link) this.#link = undefined;
      void readExitRecord(this.directory, helperIdOf(this.id)).then(
        (exit) => ended(exit === undefined ? unknownExit : exitOf(exit)),
        () => ended(unknownExit),
      );
    });
  }

  /** Lets go of the helper, which goes on. */
  release(): ShimLink | undefined {
    const link = this.#link;
    this.#link = undefined;
    return link;
  }

  /** How the first process ended, whoever started it. */
  async initEnd(state: SavedState): Promise<ProcessExit> {
    if (state.init_process_pid === 0) throw notRunning();
    if ((await this.link(state)) !== undefined) return await this.#initEnded.promise;
    using process = ProcessHandle.find(this.init(state) ?? { pid: 0, startTicks: 0n });
    await process?.waitEnded();
    const exit = await readExitRecord(this.directory, helperIdOf(this.id));
    return exit === undefined ? unknownExit : exitOf(exit);
  }

  /** The end of a first process that this object has started or looked at. */
  get initEnded(): Promise<ProcessExit> {
    return this.#initEnded.promise;
  }

  onOom(listener: OomListener): () => void {
    this.#oomListeners.add(listener);
    return () => this.#oomListeners.delete(listener);
  }

  #ended(initEnded: PromiseWithResolvers<ProcessExit>, exit: ProcessExit): void {
    initEnded.resolve(exit);
    for (const { onEnd } of this.#oomListeners) onEnd();
  }
}

function exitOf({ exitCode, signal, known, oomKilled }: ContainerExit): ProcessExit {
  return { exitCode, signal, known, oomKilled };
}

let boot: string | undefined;

export function bootId(): string {
  boot ??= readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  return boot;
}
