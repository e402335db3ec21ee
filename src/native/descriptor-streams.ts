/** Node streams over pipes and terminals that nobody else in this process reads or writes: what the other side of them does not take waits. */
import { Readable, Writable } from "node:stream";
import { addon, isErrno } from "./addon.ts";
import type { PipeReader, PipeWriter } from "./types.ts";

/** Of a pipe: what may lie in it unseen. */
const capacityBytes = 64 << 10;
const lookMs = 20;

/** Takes the descriptor. Ends at the end of the data, at a terminal's hang-up, or as `endAfter` says. */
export class DescriptorReadable extends Readable {
  readonly #reader: PipeReader;
  #flowing = false;
  #bytes = 0;
  #cutOff = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(fd: number) {
    super({ highWaterMark: capacityBytes });
    this.#reader = addon.readPipe(
      fd,
      (chunk) => this.#take(chunk),
      (_errno, mode) => {
        this.#cutOff = mode === 0;
        this.push(null);
      },
    );
    this.#reader.pause();
  }

  /** At its end: whoever wrote has given this reader up, and has more. The mark is an empty mode of the pipe. */
  get cutOff(): boolean {
    return this.#cutOff;
  }

  /**
   * The process behind it has ended: what it wrote still comes, however slowly that is read. What others write who hold the pipe
   * too counts for this long.
   */
  endAfter(graceMs: number): void {
    const graceEnds = performance.now() + graceMs;
    const atFirst = this.#bytes;
    let before = -1;
    this.#timer ??= setInterval(() => {
      if (performance.now() < graceEnds || !this.#flowing) return;
      const quiet = before === this.#bytes;
      before = this.#bytes;
      if (quiet || this.#bytes - atFirst > capacityBytes) this.#finish();
    }, lookMs);
  }

  override _read(): void {
    this.#flowing = true;
    this.#reader.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearInterval(this.#timer);
    this.#reader.close();
    done(error);
  }

  #take(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.push(chunk)) return;
    this.#flowing = false;
    this.#reader.pause();
  }

  #finish(): void {
    clearInterval(this.#timer);
    this.#reader.close();
    this.push(null);
  }
}

/** Takes the descriptor, and closes it at the end. Once nobody reads the other side any more, what is written is dropped. */
export class DescriptorWritable extends Writable {
  readonly #writer: PipeWriter;
  #abandoned = false;

  constructor(fd: number) {
    super({ highWaterMark: capacityBytes });
    this.#writer = addon.writePipe(fd);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    try {
      const rest = this.#abandoned ? chunk.subarray(chunk.length) : chunk.subarray(this.#writer.write(chunk));
      if (rest.length === 0) done();
      else this.#writer.onRoom(() => this._write(rest, _encoding, done));
    } catch (error) {
      this.#abandoned = isErrno(error, "EPIPE", "EIO");
      done(this.#abandoned ? null : (error as Error));
    }
  }

  override _final(done: () => void): void {
    this.#writer.close();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#writer.close();
    done(error);
  }
}
