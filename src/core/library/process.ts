/** One process of a container, from its description to its end. */
import type { Readable, Writable } from "node:stream";
import { RuntimeError } from "../../lib/errors.ts";
import type { ProcessIdentity } from "../runtime.ts";
import { Console } from "./console.ts";
import { invalidProcess } from "./errors.ts";
import { refuseUnknownProcessFields } from "./known-fields.ts";
import type { ConsoleSize, ProcessSpec } from "./process-spec.ts";
import type { StdioStreams } from "./stdio.ts";

/** How a process ended. */
export interface ProcessExit {
  /** 0 to 255; 128+signal when a signal ended it; 255 when it is not known. */
  readonly exitCode: number;
  /** 0: it ended by itself. */
  readonly signal: number;
  /** False: its helper died before it could tell. */
  readonly known: boolean;
  /** The kernel killed it for want of memory; undefined: not known for this process. */
  readonly oomKilled: boolean | undefined;
}

/** A process that runs: made by the container. */
export interface RunningProcess {
  readonly identity: ProcessIdentity;
  readonly streams: StdioStreams;
  /** Master of the terminal. */
  readonly consoleFd: number | undefined;
  readonly ended: Promise<ProcessExit>;
  readonly signal: (signal: number | string) => Promise<void>;
}

/** Keeps a program alive that waits for a container: connections to helpers alone do not. */
const aliveMs = 60_000;

export class Process {
  readonly spec: ProcessSpec;
  #running: RunningProcess | undefined;
  #console: Console | undefined;

  /** @throws RuntimeError invalid_argument, or unimplemented for a field that nobody would heed. */
  constructor(spec: ProcessSpec) {
    refuseUnknownProcessFields(spec);
    if (spec.args.length === 0 || spec.args[0] === "") throw new RuntimeError("invalid_argument", "args must not be empty");
    const cwd = spec.cwd ?? "/";
    if (!cwd.startsWith("/")) throw new RuntimeError("invalid_argument", "Cwd must be an absolute path");
    this.spec = spec;
  }

  /** As this process sees it. @throws RuntimeError `invalid process` before it was started. */
  get pid(): number {
    return this.#need().identity.pid;
  }

  /** Our end of the process's stdin, where that is "pipe". */
  get stdin(): Writable | undefined {
    return this.#running?.streams.stdin;
  }

  get stdout(): Readable | undefined {
    return this.#running?.streams.stdout;
  }

  get stderr(): Readable | undefined {
    return this.#running?.streams.stderr;
  }

  /** Our end of the process's terminal. */
  get console(): Console | undefined {
    return this.#console;
  }

  resize(size: ConsoleSize): void {
    if (this.#console === undefined) throw new RuntimeError("failed_precondition", "the process has no terminal to resize");
    this.#console.resize(size);
  }

  /** Its end; also what was copied to the caller's streams has been written by then. */
  async wait(): Promise<ProcessExit> {
    const { ended, streams } = this.#need();
    const alive = setInterval(() => {}, aliveMs);
    try {
      const exit = await ended;
      await streams.drained();
      streams.destroy();
      return exit;
    } finally {
      clearInterval(alive);
    }
  }

  /** @throws RuntimeError `invalid process` before it was started; one that has ended is `container not running`'s business, not an error. */
  async signal(signal: number | string): Promise<void> {
    await this.#need().signal(signal);
  }

  /** Called by the container, once. */
  started(running: RunningProcess): void {
    this.#running = running;
    if (running.consoleFd !== undefined) this.#console = new Console(running.consoleFd);
  }

  /** Whether it was started already: a description can be used once. */
  get isStarted(): boolean {
    return this.#running !== undefined;
  }

  #need(): RunningProcess {
    if (this.#running === undefined) throw invalidProcess();
    return this.#running;
  }
}
