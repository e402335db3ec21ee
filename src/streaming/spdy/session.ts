/**
 * The server's side of a SPDY/3.1 connection as Kubernetes' Go clients speak it: only clients open streams, and there is no flow
 * control but TCP's. spdystream never sends WINDOW_UPDATE, so honouring the 64 KiB window of the draft would stall every stream; it
 * drops data on streams that have not been replied to, so SYN_REPLY comes first.
 */
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../lib/errors.ts";
import {
  dataHead,
  type Frame,
  FrameReader,
  goaway,
  goawayStatus,
  mostDataBytes,
  ping,
  rstStatus,
  rstStream,
  synReply,
} from "./frames.ts";
import { HeaderCompressor, HeaderDecompressor, type Headers } from "./header-blocks.ts";
import { SpdyStream, type StreamHost } from "./stream.ts";

export interface SessionOptions {
  /** Whether the server takes a stream with these headers; another one is refused. */
  readonly accepts: (headers: Headers) => boolean;
  /** A stream that has been replied to. */
  readonly onStream: (stream: SpdyStream) => void;
}

/** Most bytes of all streams together that wait for their readers; beyond it the connection is not read. */
const mostUnreadBytes = 256 << 10;
const mostStreams = 4096;
/** While the connection is not read, only writing shows that the client is gone. */
const probeMs = 10_000;
/** How long a client may take to close a connection that has been ended: closing it first could throw away what it has not read. */
const lingerMs = 10_000;

const noHeaders: Headers = new Map();

export class SpdySession implements StreamHost {
  readonly #transport: Duplex;
  readonly #options: SessionOptions;
  readonly #reader = new FrameReader();
  readonly #compressor = new HeaderCompressor();
  readonly #decompressor = new HeaderDecompressor();
  readonly #streams = new Map<number, SpdyStream>();
  #lastId = 0;
  #nextPing = 2;
  #closing = false;
  #room: (() => void) | undefined;
  #drained: ((error?: Error) => void)[] = [];

  constructor(transport: Duplex, options: SessionOptions) {
    this.#transport = transport;
    this.#options = options;
    transport.on("drain", () => this.#onDrain());
    transport.on("close", () => this.#onGone());
    transport.on("error", () => {});
  }

  /**
   * Reads until the client closes the connection, and then gives all streams up. `head` are bytes that came with the upgrade.
   * @throws RuntimeError invalid_argument when the client breaks the protocol; the connection is gone then.
   */
  async run(head: Buffer): Promise<void> {
    try {
      await this.#take(head);
      for await (const chunk of this.#transport.iterator({ destroyOnReturn: false })) await this.#take(chunk);
    } catch (error) {
      if (!(error instanceof RuntimeError)) return; // the transport's own: the client is gone
      if (!this.#transport.destroyed) this.#transport.write(goaway(this.#lastId, goawayStatus.protocolError));
      throw error;
    } finally {
      this.#end();
      this.#onGone();
      this.#compressor[Symbol.dispose]();
      this.#decompressor[Symbol.dispose]();
    }
  }

  /** Says that nothing more will come, and waits until the client has closed the connection. Streams must have been ended before. */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.wasRead();
    const transport = this.#transport;
    if (transport.destroyed) return;
    transport.write(goaway(this.#lastId, goawayStatus.ok));
    const closed = new Promise<void>((resolve) => transport.once("close", () => resolve()));
    const sent = new Promise<void>((resolve) => transport.end(resolve));
    await Promise.race([sent, closed]);
    const timer = new AbortController();
    await Promise.race([closed, sleep(lingerMs, undefined, { signal: timer.signal }).catch(() => {})]);
    timer.abort();
    transport.destroy();
  }

  /** Says the end, and does not wait for ever until a client has read that far. */
  #end(): void {
    const transport = this.#transport;
    const timer = setTimeout(() => transport.destroy(), lingerMs);
    transport.once("close", () => clearTimeout(timer));
    transport.end(() => transport.destroy());
    if (transport.closed) clearTimeout(timer);
  }

  /** Ends the connection at once. */
  destroy(): void {
    this.#transport.destroy();
  }

  sendData(id: number, payload: Buffer, fin: boolean, done: (error?: Error | null) => void): void {
    const transport = this.#transport;
    if (transport.destroyed || transport.writableEnded) {
      done(new RuntimeError("canceled", "the client is gone"));
      return;
    }
    transport.cork();
    let room = true;
    for (let at = 0; at === 0 || at < payload.length; at += mostDataBytes) {
      const piece = payload.subarray(at, at + mostDataBytes);
      room = transport.write(dataHead(id, piece.length, fin && at + piece.length === payload.length));
      if (piece.length > 0) room = transport.write(piece);
    }
    transport.uncork();
    if (room || !transport.writableNeedDrain) done();
    else this.#drained.push(done);
  }

  sendReset(id: number): void {
    this.#send(rstStream(id, rstStatus.cancel));
  }

  wasRead(): void {
    // A stream asks for more before what it had has left its buffer.
    if (this.#room !== undefined) process.nextTick(() => this.#look());
  }

  #look(): void {
    if (this.#closing || this.#unread() <= mostUnreadBytes) this.#room?.();
  }

  closed(id: number): void {
    this.#streams.delete(id);
  }

  #send(frame: Buffer): void {
    if (!this.#transport.destroyed && !this.#transport.writableEnded) this.#transport.write(frame);
  }

  async #take(chunk: Buffer): Promise<void> {
    for (const frame of this.#reader.read(chunk)) {
      await this.#handle(frame);
      if (this.#unread() > mostUnreadBytes) await this.#untilRead();
    }
  }

  async #handle(frame: Frame): Promise<void> {
    switch (frame.type) {
      case "syn-stream":
        await this.#opened(frame.id, frame.fin, await this.#decompressor.decompress(frame.block));
        return;
      case "data": {
        const stream = this.#streams.get(frame.id);
        if (stream !== undefined) stream.receive(frame.payload, frame.fin);
        // Of a stream that has just been closed here, something may be under way still.
        else if (frame.id > this.#lastId) this.#send(rstStream(frame.id, rstStatus.invalidStream));
        return;
      }
      case "headers":
        // They mean nothing to us, but the decompressor must have seen them.
        await this.#decompressor.decompress(frame.block);
        if (frame.fin) this.#streams.get(frame.id)?.receive(Buffer.alloc(0), true);
        return;
      case "rst-stream":
        this.#streams.get(frame.id)?.giveUp();
        return;
      case "ping":
        // The answer to one of ours is even.
        if (frame.id % 2 === 1) this.#send(ping(frame.id));
        return;
      case "syn-reply":
        throw new RuntimeError("invalid_argument", "malformed SPDY: SYN_REPLY for a stream that was not opened here");
      case "settings":
      case "window-update":
      case "goaway":
        return;
    }
  }

  async #opened(id: number, fin: boolean, headers: Headers): Promise<void> {
    if (id % 2 === 0 || id <= this.#lastId) {
      this.#send(rstStream(id, rstStatus.protocolError));
      return;
    }
    this.#lastId = id;
    if (this.#closing || this.#streams.size >= mostStreams || !this.#options.accepts(headers)) {
      this.#send(rstStream(id, rstStatus.refusedStream));
      return;
    }
    const stream = new SpdyStream(this, id, headers);
    this.#streams.set(id, stream);
    this.#send(synReply(id, await this.#compressor.compress(noHeaders)));
    this.#options.onStream(stream);
    if (fin) stream.receive(Buffer.alloc(0), true);
  }

  #unread(): number {
    let bytes = 0;
    for (const stream of this.#streams.values()) bytes += stream.readableLength;
    return bytes;
  }

  async #untilRead(): Promise<void> {
    if (this.#closing || this.#transport.destroyed) return;
    const probe = setInterval(() => {
      this.#send(ping(this.#nextPing));
      this.#nextPing = (this.#nextPing + 2) % 0x8000_0000 || 2;
    }, probeMs);
    await new Promise<void>((resolve) => {
      this.#room = resolve;
    });
    this.#room = undefined;
    clearInterval(probe);
  }

  #onDrain(): void {
    for (const done of this.#drained.splice(0)) done();
  }

  #onGone(): void {
    const gone = new RuntimeError("canceled", "the client is gone");
    for (const done of this.#drained.splice(0)) done(gone);
    for (const stream of [...this.#streams.values()]) stream.giveUp(gone);
    this.#room?.();
  }
}
