/** A process's stdio and a caller's stream of messages, joined until the process has ended. */
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { ContainerInput, ContainerStreamResponse } from "../gen/caisson/v1/container.ts";
import { errnoName } from "../lib/errors.ts";
import { invalid, sizeOf } from "./container-requests.ts";

export type SendOutput = (message: ContainerStreamResponse) => Promise<void>;

export interface ProcessStreams {
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  readonly resize: (size: { readonly rows: number; readonly cols: number }) => Promise<void> | void;
  /** undefined: signals are no matter of this call. */
  readonly signal: ((signal: string) => Promise<void>) | undefined;
}

const largestChunk = 256 << 10;
/** How long output may be silent, after the process's end, before nobody waits any longer for others who hold its pipes. */
const quietMs = 500;

/** Copies what the process writes; `finish` resolves when all of that is with the caller. */
export class OutputCopy {
  readonly #send: SendOutput;
  readonly #streams: readonly Readable[];
  readonly #done: Promise<unknown>;
  #lastAt = performance.now();
  #sending = 0;

  constructor({ stdout, stderr }: Pick<ProcessStreams, "stdout" | "stderr">, send: SendOutput) {
    this.#send = send;
    this.#streams = [stdout, stderr].filter((stream) => stream !== undefined);
    this.#done = Promise.all([
      this.#copy(stdout, (chunk) => ({ stdout: chunk })),
      this.#copy(stderr, (chunk) => ({ stderr: chunk })),
    ]);
    // Awaited in the end, which may come later than the failure.
    this.#done.catch(() => {});
  }

  /** Resolves when all outputs have ended. */
  get ended(): Promise<unknown> {
    return this.#done;
  }

  /** The process has ended: the rest of its output, however slowly that is read. */
  async finish(): Promise<void> {
    const ended = this.#done.then(() => true);
    this.#lastAt = performance.now();
    while (!(await Promise.race([ended, sleep(quietMs / 4, false)]))) {
      if (this.#sending === 0 && performance.now() - this.#lastAt > quietMs) break;
    }
    for (const stream of this.#streams) stream.destroy();
  }

  async #copy(stream: Readable | undefined, wrap: (chunk: Buffer) => ContainerStreamResponse): Promise<void> {
    if (stream === undefined) return;
    try {
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        for (let at = 0; at < chunk.length; at += largestChunk) await this.#pass(wrap(chunk.subarray(at, at + largestChunk)));
      }
    } catch (error) {
      // Ours: the stream was destroyed when nothing more came.
      if (errnoName(error) !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
    }
  }

  async #pass(message: ContainerStreamResponse): Promise<void> {
    this.#sending++;
    try {
      await this.#send(message);
    } finally {
      this.#sending--;
      this.#lastAt = performance.now();
    }
  }
}

/** Hands on what the caller sends, in order. A process that takes no input any more loses what comes. */
export async function copyInput(inputs: AsyncIterable<ContainerInput>, streams: ProcessStreams): Promise<void> {
  for await (const input of inputs) {
    if (input.stdin !== undefined) await write(streams.stdin, input.stdin);
    else if (input.closeStdin !== undefined) streams.stdin?.end();
    else if (input.resize !== undefined) await streams.resize(sizeOf(input.resize));
    else if (input.signal !== undefined) {
      if (streams.signal === undefined) throw invalid("signals go through Signal here");
      await streams.signal(input.signal);
    }
  }
}

async function write(stdin: Writable | undefined, bytes: Buffer): Promise<void> {
  if (stdin === undefined) throw invalid("the call was started without stdin");
  if (stdin.destroyed || stdin.writableEnded || stdin.write(bytes)) return;
  const left = new AbortController();
  await Promise.race([once(stdin, "drain", { signal: left.signal }), once(stdin, "close", { signal: left.signal })]).catch(
    () => {},
  );
  left.abort();
}
