import { Duplex } from "node:stream";
import type { Headers } from "./header-blocks.ts";

/** What a stream needs of its connection. */
export interface StreamHost {
  /** Calls back when the transport has room again. */
  sendData(id: number, payload: Buffer, fin: boolean, done: (error?: Error | null) => void): void;
  sendReset(id: number): void;
  /** The reader of some stream has taken what there was. */
  wasRead(): void;
  closed(id: number): void;
}

/** One stream of a connection, opened by the client. Destroying it resets it, unless both sides have finished. */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  readonly #host: StreamHost;
  #reset = false;
  #peerFinished = false;

  constructor(host: StreamHost, id: number, headers: Headers) {
    super({ allowHalfOpen: true });
    this.id = id;
    this.headers = headers;
    this.#host = host;
    // Whoever uses the stream sees its error where it matters; nobody else has to.
    this.on("error", () => {});
  }

  get peerFinished(): boolean {
    return this.#peerFinished;
  }

  /** The first value of a header, or "". */
  header(name: string): string {
    return this.headers.get(name)?.[0] ?? "";
  }

  /** Bytes from the client. */
  receive(payload: Buffer, fin: boolean): void {
    if (this.destroyed || this.#peerFinished) return;
    if (payload.length > 0) this.push(payload);
    if (!fin) return;
    this.#peerFinished = true;
    this.push(null);
  }

  /** The client has given the stream up, or the connection is gone. */
  giveUp(error?: Error): void {
    this.#reset = true;
    this.destroy(error);
  }

  override _read(): void {
    this.#host.wasRead();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#host.sendData(this.id, chunk, false, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#host.sendData(this.id, Buffer.alloc(0), true, done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const finished = this.#peerFinished && this.writableFinished;
    if (!this.#reset && !finished) this.#host.sendReset(this.id);
    this.#host.closed(this.id);
    this.#host.wasRead();
    done(error);
  }
}
