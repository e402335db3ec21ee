/** The three descriptors of a process: what the caller gave, pipes to its streams, or the null device. */
import { closeSync, openSync } from "node:fs";
import { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { noSlot } from "../plan-schema.ts";
import type { StdioSlots } from "./init-plan.ts";
import type { Attachable, Input, Output, ProcessSpec } from "./process-spec.ts";

/** How long output of a process that has ended is still copied while others hold its pipes. */
const drainMs = 2000;

/** The caller's ends. */
export interface StdioStreams {
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  /** Resolves when what is copied to the caller's streams has been copied, at the latest `drainMs` after the call. */
  readonly drained: () => Promise<void>;
  readonly destroy: () => void;
}

/** What a request needs: the process's ends, until the shim has its copies; then our own ends become streams. */
export class PreparedStdio implements Disposable {
  /** Descriptors that travel with the request. */
  readonly fds: number[] = [];
  /** Slots of pipes that are ours to give to the process's user. */
  readonly pipes: number[] = [];
  readonly slots: StdioSlots;
  /** Slots of the further descriptors. */
  readonly keep: readonly number[];
  readonly #owned: number[] = [];
  readonly #ours: { stdin: number | undefined; stdout: number | undefined; stderr: number | undefined } = {
    stdin: undefined,
    stdout: undefined,
    stderr: undefined,
  };
  readonly #spec: ProcessSpec;
  readonly #firstSlot: number;
  readonly #hasNull: boolean;

  /** hasNull: the container has a null device of its own. The descriptors go into slots from `firstSlot` on. */
  constructor(spec: ProcessSpec, firstSlot: number, hasNull: boolean) {
    this.#spec = spec;
    this.#firstSlot = firstSlot;
    this.#hasNull = hasNull;
    try {
      if (spec.terminal === true || spec.attachable !== undefined) {
        refuseOwnStdio(spec);
        this.slots = spec.terminal === true ? noStdio : helpersSlots(spec.attachable, hasNull);
        if (spec.terminal !== true) this.pipes.push(...Object.values(this.slots).filter((slot) => slot !== noSlot));
      } else {
        this.slots = { stdin: this.#prepare("stdin"), stdout: this.#prepare("stdout"), stderr: this.#prepare("stderr") };
      }
      this.keep = checkedExtraFiles(spec).map((fd) => this.#slotFor(fd));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Closes what the process has by now, and makes streams of the rest. */
  connect(): StdioStreams {
    this.#closeOwned();
    const { stdin: inFd, stdout: outFd, stderr: errFd } = this.#ours;
    const stdin = inFd === undefined ? undefined : new Socket({ fd: inFd, readable: false, writable: true });
    const stdout = outFd === undefined ? undefined : new Socket({ fd: outFd, readable: true, writable: false });
    const stderr = errFd === undefined ? undefined : new Socket({ fd: errFd, readable: true, writable: false });
    this.#ours.stdin = this.#ours.stdout = this.#ours.stderr = undefined;
    const copying = [copyOut(stdout, this.#spec.stdout), copyOut(stderr, this.#spec.stderr)];
    copyIn(this.#spec.stdin, stdin);
    // A process that ends before it has read everything is no error of ours.
    for (const socket of [stdin, stdout, stderr]) socket?.on("error", () => {});
    return {
      stdin: this.#spec.stdin === "pipe" ? stdin : undefined,
      stdout: this.#spec.stdout === "pipe" ? stdout : undefined,
      stderr: this.#spec.stderr === "pipe" ? stderr : undefined,
      drained: async () => await Promise.race([Promise.all(copying).then(() => {}), sleep(drainMs, undefined, { ref: false })]),
      destroy: () => {
        stdin?.destroy();
        if (this.#spec.stdout !== "pipe") stdout?.destroy();
        if (this.#spec.stderr !== "pipe") stderr?.destroy();
      },
    };
  }

  [Symbol.dispose](): void {
    this.#closeOwned();
    for (const fd of Object.values(this.#ours)) if (fd !== undefined) closeSync(fd);
    this.#ours.stdin = this.#ours.stdout = this.#ours.stderr = undefined;
  }

  #closeOwned(): void {
    for (const fd of this.#owned.splice(0)) closeSync(fd);
  }

  #prepare(name: "stdin" | "stdout" | "stderr"): number {
    const asked: Input | Output = this.#spec[name] ?? "null";
    if (typeof asked === "number") return this.#slotFor(asked);
    if (asked === "null") {
      if (this.#hasNull) return noSlot;
      return this.#slotFor(this.#own(openSync("/dev/null", "r+")));
    }
    const [read, write] = addon.pipe(0);
    const [theirs, ours] = name === "stdin" ? [read, write] : [write, read];
    this.#ours[name] = ours;
    const slot = this.#slotFor(this.#own(theirs));
    this.pipes.push(slot);
    return slot;
  }

  #own(fd: number): number {
    this.#owned.push(fd);
    return fd;
  }

  #slotFor(fd: number): number {
    this.fds.push(fd);
    return this.#firstSlot + this.fds.length - 1;
  }
}

const noStdio: StdioSlots = { stdin: noSlot, stdout: noSlot, stderr: noSlot };
const mostExtraFiles = 32;

/** Slots 0 to 2 of a first process are the helper's own pipes. */
function helpersSlots({ stdin }: Attachable = {}, hasNull: boolean): StdioSlots {
  return { stdin: stdin === true || !hasNull ? 0 : noSlot, stdout: 1, stderr: 2 };
}

function refuseOwnStdio({ terminal, stdin, stdout, stderr }: ProcessSpec): void {
  if ([stdin, stdout, stderr].every((one) => one === undefined)) return;
  const why = terminal === true ? "a process with a terminal" : "a process that is attached to";
  throw new RuntimeError("invalid_argument", `${why} has no stdin, stdout and stderr of its own`);
}

function checkedExtraFiles({ extraFiles = [] }: ProcessSpec): readonly number[] {
  if (extraFiles.length <= mostExtraFiles) return extraFiles;
  throw new RuntimeError(
    "invalid_argument",
    `${extraFiles.length} descriptors are too many to pass on: at most ${mostExtraFiles}`,
  );
}

function isStream<T extends Readable | Writable>(value: Input | Output | undefined): value is T & (Input | Output) {
  return typeof value === "object";
}

function copyIn(source: Input | undefined, stdin: Socket | undefined): void {
  if (stdin === undefined || !isStream<Readable>(source)) return;
  source.pipe(stdin);
  stdin.on("close", () => source.unpipe(stdin));
}

/** The caller's stream stays open: it may be shared, as process.stdout is. */
async function copyOut(source: Socket | undefined, target: Output | undefined): Promise<void> {
  if (source === undefined || !isStream<Writable>(target)) return;
  const done = Promise.withResolvers<void>();
  source.pipe(target, { end: false });
  source.on("close", () => done.resolve());
  target.on("error", () => source.destroy());
  await done.promise;
}
