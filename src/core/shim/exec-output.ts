import { closeSync, openSync } from "node:fs";
import { addon } from "../../native/addon.ts";
import type { PipeReader } from "../../native/types.ts";
import { canceled } from "./client.ts";
import type { ExecEnding, ExecRequest } from "./requests.ts";
import type { Shim } from "./shim.ts";

export interface OutputLimits {
  /** Most bytes kept of both streams together; the rest is read and dropped. */
  readonly maxOutputBytes: number;
  /** How long output is still read after the process has ended while others hold the pipes. */
  readonly drainMs: number;
}

export interface ExecOutput {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Bytes beyond the limit were dropped. */
  readonly truncated: boolean;
  readonly ending: ExecEnding;
}

const killSignal = 9;

/** Two pipes read until both end, until the drain deadline after the process, or until closed. */
export class OutputCollector implements Disposable {
  readonly #chunks: readonly [Buffer[], Buffer[]] = [[], []];
  readonly #readers: PipeReader[] = [];
  readonly #done = Promise.withResolvers<void>();
  readonly #limits: OutputLimits;
  #left: number;
  #open = 0;
  #drain: NodeJS.Timeout | undefined;
  truncated = false;

  constructor(limits: OutputLimits) {
    this.#limits = limits;
    this.#left = limits.maxOutputBytes;
  }

  /** Reads stdout (0) or stderr (1) from this descriptor, which it takes. */
  read(stream: 0 | 1, fd: number): void {
    const reader = addon.readPipe(
      fd,
      (chunk) => this.#keep(stream, chunk),
      () => this.#ended(),
    );
    this.#readers.push(reader);
    this.#open++;
  }

  /** The process has ended: what it wrote is in the pipes already, what its children write counts for a while. */
  processEnded(): void {
    this.#drain ??= setTimeout(() => this.#done.resolve(), this.#limits.drainMs);
  }

  /** Resolves when nothing more will be read. */
  async finished(): Promise<{ readonly stdout: Buffer; readonly stderr: Buffer }> {
    await this.#done.promise;
    return { stdout: Buffer.concat(this.#chunks[0]), stderr: Buffer.concat(this.#chunks[1]) };
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#drain);
    for (const reader of this.#readers) reader.close();
    this.#done.resolve();
  }

  #keep(stream: 0 | 1, chunk: Buffer): void {
    const kept = chunk.length <= this.#left ? chunk : chunk.subarray(0, this.#left);
    if (kept.length < chunk.length) this.truncated = true;
    this.#left -= kept.length;
    if (kept.length > 0) this.#chunks[stream].push(kept);
  }

  #ended(): void {
    this.#open--;
    if (this.#open === 0) this.#done.resolve();
  }
}

/**
 * Runs an exec and collects what it writes. Slots 0 to 2 of the plan are the null device and the two pipes, `further` follow, lent
 * during the call. When the caller's signal fires, the session of the exec is killed and nobody waits for its end.
 */
export async function execWithOutput(
  shim: Shim,
  request: Omit<ExecRequest, "fds">,
  limits: OutputLimits,
  further: readonly number[] = [],
): Promise<ExecOutput> {
  const { id, execId, signal } = request;
  using collector = new OutputCollector(limits);
  const running = await launch(shim, request, collector, further);
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => {
    shim.execKill(id, execId, killSignal);
    aborted.reject(canceled(`exec in container ${id}`, signal?.reason));
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    if (signal?.aborted === true) onAbort();
    const ending = await Promise.race([running.ended, aborted.promise]);
    collector.processEnded();
    const output = await Promise.race([collector.finished(), aborted.promise]);
    return { ...output, truncated: collector.truncated, ending };
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** Our copies of the child's ends are closed in any case, or the pipes would never end. */
async function launch(shim: Shim, request: Omit<ExecRequest, "fds">, collector: OutputCollector, further: readonly number[]) {
  const lent: number[] = [];
  const pipe = (stream: 0 | 1): number => {
    const [readEnd, writeEnd] = addon.pipe(0);
    lent.push(writeEnd);
    collector.read(stream, readEnd);
    return writeEnd;
  };
  try {
    const stdin = openSync("/dev/null", "r");
    lent.push(stdin);
    return await shim.exec({ ...request, fds: [stdin, pipe(0), pipe(1), ...further] });
  } finally {
    for (const fd of lent) closeSync(fd);
  }
}
