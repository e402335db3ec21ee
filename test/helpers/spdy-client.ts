/**
 * A SPDY/3.1 client that behaves as spdystream does: no flow control of its own, data on streams without SYN_REPLY is thrown away. It
 * shares nothing with the server but the dictionary.
 */
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest, type RequestOptions } from "node:https";
import type { Duplex } from "node:stream";
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import { spdyDictionary } from "../../src/streaming/spdy/dictionary.ts";

export interface UpgradeOptions extends RequestOptions {
  readonly protocols?: readonly string[];
}

/** What the server answered instead of switching protocols. */
export class UpgradeRefused extends Error {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];

  constructor(response: IncomingMessage, body: string) {
    super(`the server answered ${response.statusCode}: ${body.trim()}`);
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
  }
}

export interface Upgraded {
  readonly socket: Duplex;
  readonly head: Buffer;
  readonly headers: IncomingMessage["headers"];
}

export async function upgrade(url: string, headers: Record<string, string>, options: RequestOptions = {}): Promise<Upgraded> {
  const request = (url.startsWith("https:") ? httpsRequest : httpRequest)(url, { method: "POST", ...options, headers });
  return await new Promise((resolve, reject) => {
    request.once("upgrade", (response, socket, head) => resolve({ socket, head, headers: response.headers }));
    request.once("response", (response) => {
      let body = "";
      response.on("data", (chunk) => {
        body += chunk;
      });
      response.once("end", () => reject(new UpgradeRefused(response, body)));
    });
    request.once("error", reject);
    request.end();
  });
}

const syncFlush = async (codec: Deflate | Inflate, bytes: Buffer): Promise<Buffer> => {
  const parts: Buffer[] = [];
  const onData = (part: Buffer): void => void parts.push(part);
  codec.on("data", onData);
  codec.write(bytes);
  await new Promise<void>((resolve) => codec.flush(constants.Z_SYNC_FLUSH, () => resolve()));
  codec.off("data", onData);
  return Buffer.concat(parts);
};

export class SpdyClientStream {
  readonly id: number;
  readonly #client: SpdyClient;
  readonly #chunks: Buffer[] = [];
  replied = false;
  /** Bytes that came before SYN_REPLY. */
  lost = 0;
  received = 0;
  finished = false;
  reset: number | undefined;
  /** Takes the data instead of its being kept. */
  onData: ((chunk: Buffer) => void) | undefined;
  readonly #ended = Promise.withResolvers<void>();
  readonly #replied = Promise.withResolvers<void>();

  constructor(client: SpdyClient, id: number) {
    this.#client = client;
    this.id = id;
  }

  write(bytes: Buffer | string): boolean {
    return this.#client.sendData(this.id, Buffer.from(bytes as string), false);
  }

  end(bytes: Buffer | string = ""): void {
    this.#client.sendData(this.id, Buffer.from(bytes as string), true);
  }

  async rst(status = 5): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.id, 0);
    payload.writeUInt32BE(status, 4);
    await this.#client.sendControl(3, 0, payload);
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString();
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  /** Resolves at FIN, at a reset, or when the connection is gone. */
  async ended(): Promise<string> {
    await this.#ended.promise;
    return this.text();
  }

  /** Resolves when there has been an answer to SYN_STREAM. */
  async answered(): Promise<void> {
    await this.#replied.promise;
  }

  take(kind: "reply" | "data" | "fin" | "reset" | "gone", bytes: Buffer = Buffer.alloc(0), status = 0): void {
    if (kind === "reply") this.replied = true;
    if (kind === "data" && !this.replied) this.lost += bytes.length;
    if (kind === "data" && this.replied) {
      this.received += bytes.length;
      if (this.onData !== undefined) this.onData(bytes);
      else this.#chunks.push(Buffer.from(bytes));
    }
    if (kind === "fin") this.finished = true;
    if (kind === "reset") this.reset = status;
    if (kind !== "data") this.#replied.resolve();
    if (kind === "fin" || kind === "reset" || kind === "gone") this.#ended.resolve();
  }
}

export class SpdyClient {
  readonly socket: Duplex;
  readonly protocol: string;
  readonly pings: number[] = [];
  goaway: { readonly lastId: number; readonly status: number } | undefined;
  readonly #deflate = createDeflate({ dictionary: spdyDictionary, level: 9 });
  readonly #inflate = createInflate({ dictionary: spdyDictionary });
  readonly #streams = new Map<number, SpdyClientStream>();
  readonly #closed = Promise.withResolvers<void>();
  #sending: Promise<void> = Promise.resolve();
  #inflating: Promise<void> = Promise.resolve();
  #pending: Buffer = Buffer.alloc(0);
  #nextId = 1;

  constructor(socket: Duplex, head: Buffer, protocol: string) {
    this.socket = socket;
    this.protocol = protocol;
    socket.on("data", (chunk: Buffer) => void this.#take(chunk));
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
    socket.once("close", () => {
      for (const stream of this.#streams.values()) stream.take("gone");
      this.#closed.resolve();
    });
    if (head.length > 0) void this.#take(head);
  }

  static async connect(url: string, { protocols = ["v4.channel.k8s.io"], ...options }: UpgradeOptions = {}): Promise<SpdyClient> {
    const headers = { Connection: "Upgrade", Upgrade: "SPDY/3.1", "X-Stream-Protocol-Version": protocols.join(", ") };
    const { socket, head, headers: answer } = await upgrade(url, protocols.length === 0 ? without(headers) : headers, options);
    return new SpdyClient(socket, head, String(answer["x-stream-protocol-version"]));
  }

  async closed(): Promise<void> {
    await this.#closed.promise;
  }

  /** Opens a stream; ids may be forced for tests of bad ones. */
  async stream(headers: Record<string, string>, id = this.#nextId): Promise<SpdyClientStream> {
    const stream = new SpdyClientStream(this, id);
    this.#streams.set(id, stream);
    this.#nextId = Math.max(this.#nextId, id + 2);
    const parts: Buffer[] = [number32(Object.keys(headers).length)];
    for (const text of Object.entries(headers).flat()) parts.push(number32(Buffer.byteLength(text)), Buffer.from(text));
    await this.#inOrder(async () => {
      const block = await syncFlush(this.#deflate, Buffer.concat(parts));
      this.#write(1, 0, Buffer.concat([number32(id), number32(0), Buffer.of(0, 0), block]));
    });
    return stream;
  }

  async ping(id: number): Promise<void> {
    await this.sendControl(6, 0, number32(id));
  }

  /** Any control frame. */
  async sendControl(type: number, flags: number, payload: Buffer): Promise<void> {
    await this.#inOrder(async () => this.#write(type, flags, payload));
  }

  sendData(id: number, payload: Buffer, fin: boolean): boolean {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(id, 0);
    head.writeUInt32BE(((fin ? 1 << 24 : 0) | payload.length) >>> 0, 4);
    return this.socket.write(Buffer.concat([head, payload]));
  }

  destroy(): void {
    this.socket.destroy();
  }

  async #inOrder(work: () => Promise<void>): Promise<void> {
    this.#sending = this.#sending.then(work);
    await this.#sending;
  }

  #write(type: number, flags: number, payload: Buffer): void {
    const head = Buffer.alloc(8);
    head.writeUInt16BE(0x8003, 0);
    head.writeUInt16BE(type, 2);
    head.writeUInt32BE(((flags << 24) | payload.length) >>> 0, 4);
    this.socket.write(Buffer.concat([head, payload]));
  }

  async #take(chunk: Buffer): Promise<void> {
    let rest = Buffer.concat([this.#pending, chunk]);
    while (rest.length >= 8) {
      const length = rest.readUIntBE(5, 3);
      if (rest.length < 8 + length) break;
      this.#frame(rest.subarray(0, 8), rest.subarray(8, 8 + length));
      rest = rest.subarray(8 + length);
    }
    this.#pending = Buffer.from(rest);
  }

  #frame(head: Buffer, payload: Buffer): void {
    const first = head.readUInt32BE(0);
    const fin = ((head[4] ?? 0) & 1) !== 0;
    if (first < 0x8000_0000) {
      const stream = this.#streams.get(first);
      if (payload.length > 0) stream?.take("data", payload);
      if (fin) stream?.take("fin");
      return;
    }
    const id = payload.length >= 4 ? payload.readUInt32BE(0) : 0;
    switch (first & 0xffff) {
      case 2: {
        // The reply's header block must be readable, and nothing else may disturb the decompressor.
        const stream = this.#streams.get(id);
        stream?.take("reply");
        const block = Buffer.from(payload.subarray(4));
        this.#inflating = this.#inflating.then(async () => void (await syncFlush(this.#inflate, block)));
        if (fin) stream?.take("fin");
        return;
      }
      case 3:
        this.#streams.get(id)?.take("reset", undefined, payload.readUInt32BE(4));
        return;
      case 6:
        this.pings.push(id);
        return;
      case 7:
        this.goaway = { lastId: id, status: payload.readUInt32BE(4) };
        return;
      default:
        throw new Error(`unexpected control frame ${first & 0xffff}`);
    }
  }
}

function number32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function without({ Connection, Upgrade }: Record<string, string>): Record<string, string> {
  return { Connection: Connection ?? "", Upgrade: Upgrade ?? "" };
}

export interface RemoteSession {
  readonly client: SpdyClient;
  readonly streams: Readonly<Partial<Record<string, SpdyClientStream>>>;
}

export interface Ending {
  readonly status: string;
  readonly exitCode: number;
  readonly message: string;
}

/** What the error stream of v4 says. */
export function parseStatus(text: string): Ending {
  const { status, message = "", details } = JSON.parse(text);
  const cause = details?.causes?.find((each: { reason?: string }) => each.reason === "ExitCode");
  return { status, message, exitCode: status === "Success" ? 0 : cause === undefined ? -1 : Number(cause.message) };
}

/** A remote command as kubectl has one: streams of these types, the error stream first. */
export class RemoteCommandClient {
  readonly client: SpdyClient;
  readonly streams: Readonly<Record<string, SpdyClientStream>>;

  private constructor(client: SpdyClient, streams: Readonly<Record<string, SpdyClientStream>>) {
    this.client = client;
    this.streams = streams;
  }

  static async open(url: string, types: readonly string[], options: UpgradeOptions = {}): Promise<RemoteCommandClient> {
    const client = await SpdyClient.connect(url, options);
    const streams: Record<string, SpdyClientStream> = {};
    for (const type of ["error", ...types]) streams[type] = await client.stream({ streamtype: type });
    return new RemoteCommandClient(client, streams);
  }

  of(type: string): SpdyClientStream {
    const stream = this.streams[type];
    if (stream === undefined) throw new Error(`there is no stream ${type}`);
    return stream;
  }

  /** Waits for the status; all output has come then. */
  async ending(): Promise<Ending> {
    return parseStatus(await this.of("error").ended());
  }
}
