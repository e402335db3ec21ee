/** The outer end of a container's pseudo-terminal, as a stream of both directions. */
import { Duplex } from "node:stream";
import { ReadStream } from "node:tty";
import { addon } from "../../native/addon.ts";
import type { ConsoleSize } from "./process-spec.ts";

export class Console extends Duplex {
  /** The master; closed with the stream. */
  readonly fd: number;
  readonly #terminal: ReadStream;

  /** Takes the descriptor. */
  constructor(fd: number) {
    super({ allowHalfOpen: false });
    this.fd = fd;
    this.#terminal = new ReadStream(fd);
    this.#terminal.on("data", (chunk: Buffer) => {
      if (!this.push(chunk)) this.#terminal.pause();
    });
    this.#terminal.on("end", () => this.push(null));
    // EIO: no process has the terminal open any more, which is how a master comes to its end.
    this.#terminal.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EIO") this.push(null);
      else this.destroy(error);
    });
    this.#terminal.pause();
  }

  resize({ rows, cols }: ConsoleSize): void {
    if (!this.destroyed) addon.resizeTerminal(this.fd, rows, cols);
  }

  override _read(): void {
    this.#terminal.resume();
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#terminal.write(chunk, encoding, done);
  }

  /** A terminal has no end of its input: a program that reads lines takes ^D for it. */
  override _final(done: (error?: Error | null) => void): void {
    if (this.#terminal.destroyed || this.readableEnded) done();
    else this.#terminal.write("\x04", done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#terminal.destroy();
    done(error);
  }
}
