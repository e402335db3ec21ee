/**
 * Channels over a WebSocket: the first byte of a message is the channel, the rest its data. In the base64 forms messages are text, the
 * channel is a digit. In v5 the message 255, n closes channel n.
 */
import { Readable, Writable } from "node:stream";
import type { RawData, WebSocket } from "ws";
import { RuntimeError } from "../lib/errors.ts";

export interface ChannelForm {
  readonly base64: boolean;
  /** Clients may close a channel. */
  readonly closes: boolean;
}

const closeChannel = 255;
/** Of one channel, waiting for its reader; beyond it the connection is not read. */
const mostUnreadBytes = 256 << 10;
/** While the connection is not read, only writing shows that the client is gone. */
const probeMs = 10_000;

export class WebSocketChannels {
  readonly #socket: WebSocket;
  readonly #form: ChannelForm;
  readonly #inputs = new Map<number, Readable>();
  readonly #full = new Set<number>();
  #probe: NodeJS.Timeout | undefined;

  constructor(socket: WebSocket, form: ChannelForm) {
    this.#socket = socket;
    this.#form = form;
    socket.on("message", (data: RawData, isBinary: boolean) => this.#take(data as Buffer, isBinary));
    socket.on("close", () => this.#closed());
    socket.on("error", () => {});
  }

  /** What the client sends on a channel; other channels are ignored. */
  input(channel: number): Readable {
    const readable = new Readable({ highWaterMark: mostUnreadBytes, read: () => this.#flow(channel) });
    readable.on("error", () => {});
    // One that nobody reads any more must not hold up the others.
    readable.once("close", () => {
      this.#inputs.delete(channel);
      this.#flow(channel);
    });
    this.#inputs.set(channel, readable);
    return readable;
  }

  /** Takes one message at a time: the next when the one before has left the process. */
  output(channel: number): Writable {
    const writable = new Writable({
      write: (chunk: Buffer, _encoding, done) => this.send(channel, chunk, done),
    });
    writable.on("error", () => {});
    this.#socket.once("close", () => writable.destroy());
    return writable;
  }

  send(channel: number, bytes: Buffer, done: (error?: Error | null) => void = () => {}): void {
    if (this.#socket.readyState !== this.#socket.OPEN) {
      done(new RuntimeError("canceled", "the client is gone"));
      return;
    }
    const message = this.#form.base64
      ? `${channel}${bytes.toString("base64")}`
      : Buffer.concat([Buffer.of(channel), bytes], bytes.length + 1);
    this.#socket.send(message, { binary: !this.#form.base64 }, (error) => done(error ?? null));
  }

  #take(data: Buffer, isBinary: boolean): void {
    const base64 = this.#form.base64;
    const first = data[0];
    // The two forms do not mix; an empty message says nothing.
    if (first === undefined || isBinary === base64) return;
    const channel = base64 ? first - 0x30 : first;
    const bytes = base64 ? Buffer.from(data.toString("latin1", 1), "base64") : data.subarray(1);
    if (this.#form.closes && channel === closeChannel) {
      if (bytes.length === 1) this.#end(bytes[0] ?? closeChannel);
      return;
    }
    const input = this.#inputs.get(channel);
    if (input === undefined || input.readableEnded || bytes.length === 0 || input.push(bytes)) return;
    this.#full.add(channel);
    this.#socket.pause();
    this.#probe ??= setInterval(() => this.#socket.ping(), probeMs);
  }

  #end(channel: number): void {
    this.#inputs.get(channel)?.push(null);
    this.#inputs.delete(channel);
  }

  #flow(channel: number): void {
    if (!this.#full.delete(channel) || this.#full.size > 0) return;
    clearInterval(this.#probe);
    this.#probe = undefined;
    this.#socket.resume();
  }

  #closed(): void {
    clearInterval(this.#probe);
    for (const channel of [...this.#inputs.keys()]) this.#end(channel);
  }
}
