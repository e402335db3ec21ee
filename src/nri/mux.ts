/**
 * Several connections over one socket, as NRI has them: connection id and length (big-endian, 4 bytes each), then that many bytes of
 * the connection. There is no handshake and no flow control: both sides know the ids.
 */
import type { Duplex } from "node:stream";
import { brokenProtocol, frameHeaderBytes, mostDataBytes, Reassembly } from "./frame.ts";

/** The plugin serves on the first and calls on the second. */
export const pluginConnection = 1;
export const runtimeConnection = 2;

const muxHeaderBytes = 8;
const mostPayloadBytes = frameHeaderBytes + mostDataBytes;
/**
 * Go's peers read a connection through a buffer of this size, and fail when it meets a longer piece, except in the middle of a message
 * whose rest is wanted whole. So a message goes in two pieces at most, as their own side sends it.
 */
const firstPieceBytes = 4096;
/** A plugin that does not read what it is sent is cut off before it holds more of our memory than this. */
const mostUnreadBytes = 16 << 20;

export class Mux {
  readonly #socket: Duplex;
  readonly #receivers = new Map<number, (bytes: Buffer) => void>();
  readonly #units = new Reassembly(muxHeaderBytes, (header) => {
    const length = header.readUInt32BE(4);
    if (length > mostPayloadBytes) throw brokenProtocol(`a piece of ${length} bytes is larger than ${mostPayloadBytes}`);
    return length;
  });
  readonly #onClose: (why: Error) => void;
  #closed = false;

  /** `onClose` is called once, however it ends. */
  constructor(socket: Duplex, onClose: (why: Error) => void) {
    this.#socket = socket;
    this.#onClose = onClose;
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error) => this.close(error));
    socket.on("close", () => this.close(new Error("the plugin has closed the connection")));
    socket.on("end", () => this.close(new Error("the plugin has closed the connection")));
  }

  /** What arrives on the connection of that id; a throw of the receiver closes everything. */
  open(id: number, receive: (bytes: Buffer) => void): (message: Buffer) => void {
    this.#receivers.set(id, receive);
    return (message) => this.#send(id, message);
  }

  close(why: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    this.#onClose(why);
  }

  #send(id: number, message: Buffer): void {
    if (this.#closed) return;
    for (const piece of [message.subarray(0, firstPieceBytes), message.subarray(firstPieceBytes)]) {
      if (piece.length === 0) continue;
      const header = Buffer.allocUnsafe(muxHeaderBytes);
      header.writeUInt32BE(id, 0);
      header.writeUInt32BE(piece.length, 4);
      this.#socket.write(header);
      this.#socket.write(piece);
    }
    if (this.#socket.writableLength > mostUnreadBytes) this.close(new Error("the plugin does not read what it is sent"));
  }

  #receive(chunk: Buffer): void {
    if (this.#closed) return;
    try {
      for (const unit of this.#units.push(chunk)) {
        // Pieces of connections that nobody has opened are dropped, as on the other side.
        this.#receivers.get(unit.readUInt32BE(0))?.(unit.subarray(muxHeaderBytes));
        if (this.#closed) return;
      }
    } catch (error) {
      this.close(error instanceof Error ? error : new Error(String(error)));
    }
  }
}
