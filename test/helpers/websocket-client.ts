/** A WebSocket client of the streaming server: channels in the first byte, as Kubernetes' clients have them. */
import { randomBytes } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { Duplex } from "node:stream";
import { type ClientOptions, WebSocket } from "ws";
import { type Ending, parseStatus, UpgradeRefused, upgrade } from "./spdy-client.ts";

/**
 * A connection as a tunnel has it: binary messages are bytes. Its subprotocol has a slash, which ws refuses to ask for, so the few frames
 * that are needed are made here.
 */
export async function openTunnel(url: string, subprotocol: string): Promise<{ stream: Duplex; protocol: string; raw: Duplex }> {
  const { socket, headers } = await upgrade(
    url,
    {
      Connection: "Upgrade",
      Upgrade: "websocket",
      "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
      "Sec-WebSocket-Protocol": subprotocol,
    },
    { method: "GET" },
  );
  let pending: Buffer = Buffer.alloc(0);
  const stream = new Duplex({
    read: () => {},
    write: (chunk: Buffer, _encoding, done) => void socket.write(clientFrame(2, chunk), () => done()),
    final: (done) => void socket.end(() => done()),
    destroy: (error, done) => {
      socket.destroy();
      done(error);
    },
  });
  socket.on("data", (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk]);
    for (;;) {
      const short = (pending[1] ?? 0) & 0x7f;
      const head = short === 127 ? 10 : short === 126 ? 4 : 2;
      if (pending.length < head) return;
      const length = short === 127 ? Number(pending.readBigUInt64BE(2)) : short === 126 ? pending.readUInt16BE(2) : short;
      if (pending.length < head + length) return;
      const opcode = (pending[0] ?? 0) & 0x0f;
      if (opcode <= 2) stream.push(Buffer.from(pending.subarray(head, head + length)));
      if (opcode === 8) stream.emit("code", pending.readUInt16BE(head));
      pending = pending.subarray(head + length);
    }
  });
  socket.on("close", () => stream.destroy());
  socket.on("error", () => {});
  stream.on("error", () => {});
  return { stream, protocol: String(headers["sec-websocket-protocol"]), raw: socket };
}

/** Masked with zeros. */
export function clientFrame(opcode: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(14);
  head[0] = 0x80 | opcode;
  head[1] = 0x80 | 127;
  head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, payload]);
}

export const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;

export class ChannelClient {
  readonly socket: WebSocket;
  /** Numbers of the channels in the order of their messages. */
  readonly order: number[] = [];
  closeCode: number | undefined;
  readonly #base64: boolean;
  readonly #received = new Map<number, Buffer[]>();
  readonly #closed = Promise.withResolvers<void>();

  private constructor(socket: WebSocket, base64: boolean) {
    this.socket = socket;
    this.#base64 = base64;
    socket.on("message", (data, isBinary) => this.#take(data as Buffer, isBinary));
    socket.on("error", () => {});
    socket.on("close", (code) => {
      this.closeCode = code;
      this.#closed.resolve();
    });
  }

  /** @throws UpgradeRefused with what the server answered instead. */
  static async open(url: string, subprotocols: string | readonly string[], options: ClientOptions = {}): Promise<ChannelClient> {
    const names = [subprotocols].flat();
    const socket = new WebSocket(url.replace(/^http/, "ws"), names, { perMessageDeflate: false, ...options });
    const client = new ChannelClient(
      socket,
      names.some((name) => name.includes("base64")),
    );
    await new Promise<void>((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("unexpected-response", (_request, response: IncomingMessage) => reject(new UpgradeRefused(response, "")));
      socket.once("error", reject);
    });
    return client;
  }

  async send(number: number, bytes: Buffer | string): Promise<void> {
    const payload = Buffer.from(bytes as string);
    const message = this.#base64 ? `${number}${payload.toString("base64")}` : Buffer.concat([Buffer.of(number), payload]);
    await new Promise<void>((resolve) => this.socket.send(message, () => resolve()));
  }

  /** v5: no more will come on this channel. */
  closeChannel(number: number): void {
    this.socket.send(Buffer.of(255, number));
  }

  bytes(number: number): Buffer {
    return Buffer.concat(this.#received.get(number) ?? []);
  }

  text(number: number): string {
    return this.bytes(number).toString();
  }

  async closed(): Promise<void> {
    await this.#closed.promise;
  }

  /** Waits for the end of the connection; what v4 and v5 say on the error channel. */
  async ending(): Promise<Ending> {
    await this.closed();
    return parseStatus(this.text(channel.error));
  }

  #take(data: Buffer, isBinary: boolean): void {
    if (isBinary === this.#base64) throw new Error("a message of the other kind");
    const first = data[0] ?? 0;
    const number = this.#base64 ? first - 0x30 : first;
    const bytes = this.#base64 ? Buffer.from(data.toString("latin1", 1), "base64") : data.subarray(1);
    this.order.push(number);
    this.#received.set(number, [...(this.#received.get(number) ?? []), Buffer.from(bytes)]);
  }
}
