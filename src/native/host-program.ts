/** Runs a program of the host: bounded output, a deadline, the whole process group killed when it passes. */
import { setTimeout as sleep } from "node:timers/promises";
import { addon } from "./addon.ts";
import type { ChildExit, PipeReader, Spawned } from "./types.ts";

export interface HostProgram {
  /** Absolute. */
  readonly path: string;
  readonly argv: readonly string[];
  /** All of it: nothing is inherited. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: Uint8Array;
  /** More than this ends the program. */
  readonly maxStdoutBytes: number;
  /** Only the end is kept. */
  readonly maxStderrBytes: number;
  /**
   * A lock whose descriptor the program inherits as 3: it then comes to its end though the daemon dies, and whoever takes the lock knows
   * that it has. null: it is killed with the daemon.
   */
  readonly lock: ProgramLock | null;
}

export interface ProgramLock {
  readonly fd: number;
  /** Told the pid of the program, which leads its process group, as soon as there is one. */
  heldBy(pid: number): void;
}

export interface ProgramResult {
  readonly exit: ChildExit;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Why it was killed by us, if it was. */
  readonly killed: "aborted" | "output" | undefined;
}

const sigkill = 9;
/** How long pipes are still read after the program has ended, while a child of it may hold them. */
const drainMs = 1000;
/** A process in an uninterruptible wait does not die of a SIGKILL: nobody shall wait for it for ever. */
const killWaitMs = 5000;

class Output {
  readonly ended: Promise<void>;
  #chunks: Buffer[] = [];
  #size = 0;
  readonly #reader: PipeReader;

  constructor(fd: number, accept: (size: number) => boolean, keepEnd: number | undefined) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#reader = addon.readPipe(
      fd,
      (chunk) => {
        if (!accept(this.#size + chunk.length)) return;
        this.#chunks.push(chunk);
        this.#size += chunk.length;
        if (keepEnd !== undefined) this.#forget(keepEnd);
      },
      () => resolve(),
    );
  }

  #forget(keep: number): void {
    while (this.#chunks.length > 1 && this.#size - (this.#chunks[0]?.length ?? 0) >= keep) {
      this.#size -= this.#chunks.shift()?.length ?? 0;
    }
  }

  take(): Buffer {
    this.#reader.close();
    return Buffer.concat(this.#chunks);
  }
}

function start(program: HostProgram): { spawned: Spawned; stdout: number; stderr: number } {
  const open: number[] = [];
  const keep: number[] = [];
  try {
    const stdin = addon.sealedMemfd("stdin", program.stdin, false);
    open.push(stdin);
    const [stdout, stdoutWriter] = addon.pipe(0);
    open.push(stdoutWriter);
    keep.push(stdout);
    const [stderr, stderrWriter] = addon.pipe(0);
    open.push(stderrWriter);
    keep.push(stderr);
    const spawned = addon.spawn({
      path: program.path,
      imageFd: null,
      argv: program.argv,
      env: Object.entries(program.env).map(([name, value]) => `${name}=${value}`),
      cwd: null,
      fds: [stdin, stdoutWriter, stderrWriter, ...(program.lock === null ? [] : [program.lock.fd])],
      parentDeathSignal: program.lock === null ? sigkill : 0,
      newSession: true,
    });
    program.lock?.heldBy(spawned.pid);
    return { spawned, stdout, stderr };
  } catch (error) {
    for (const fd of keep) addon.close(fd);
    throw error;
  } finally {
    for (const fd of open) addon.close(fd);
  }
}

/** Resolves however the program ends; throws only when it cannot be started or does not die. `signal` kills its process group. */
export async function runHostProgram(program: HostProgram, signal: AbortSignal): Promise<ProgramResult> {
  signal.throwIfAborted();
  const { spawned, stdout, stderr } = start(program);
  let killed: ProgramResult["killed"];
  let ended = false;
  const gaveUp = new AbortController();
  const undying = Promise.withResolvers<never>();
  undying.promise.catch(() => {});
  const kill = (why: "aborted" | "output"): void => {
    if (ended || killed !== undefined) return;
    killed = why;
    try {
      addon.killGroup(spawned.pid, sigkill);
    } catch {
      // Called from listeners, where a throw would end the daemon. It has just ended by itself: its exit is about to arrive.
    }
    sleep(killWaitMs, undefined, { signal: gaveUp.signal }).then(
      () => undying.reject(new Error(`${program.path} (pid ${spawned.pid}) does not die of SIGKILL`)),
      () => {},
    );
  };
  const onAbort = (): void => kill("aborted");
  const fits = (size: number): boolean => {
    if (size <= program.maxStdoutBytes) return true;
    kill("output");
    return false;
  };
  const out = new Output(stdout, fits, undefined);
  const err = new Output(stderr, () => true, program.maxStderrBytes);
  signal.addEventListener("abort", onAbort);
  try {
    // The group is signalled only until the leader is reaped: after that its number may be somebody else's.
    const reaped = addon.waitChild(spawned.pidfd).finally(() => {
      ended = true;
    });
    reaped.catch(() => {});
    const exit = await Promise.race([reaped, undying.promise]);
    const drained = Promise.all([out.ended, err.ended]);
    await Promise.race([drained, sleep(drainMs, undefined, { signal: gaveUp.signal }).catch(() => {})]);
    return { exit, stdout: out.take(), stderr: err.take().subarray(-program.maxStderrBytes), killed };
  } finally {
    gaveUp.abort();
    signal.removeEventListener("abort", onAbort);
    out.take();
    err.take();
    addon.close(spawned.pidfd);
  }
}
