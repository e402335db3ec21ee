/**
 * An NRI plugin that writes the bytes of the wire itself: mux pieces around ttrpc frames around ttrpc's own messages. Only the messages
 * of the interface are the generated ones. In its own process it is test/helpers/nri-plugin-process.ts.
 */
import { connect, type Socket } from "node:net";
import * as api from "../../src/gen/nri/v1alpha1/api.ts";

type Json = Readonly<Record<string, unknown>>;
/** What a call is answered with. "never": not at all. An Error: its message, with code 9. */
export type Answer = Json | "never" | Error;
export type Handlers = Readonly<Record<string, (request: Request) => Answer | Promise<Answer>>>;
export interface Request extends Json {
  readonly pod?: api.PodSandbox;
  readonly container?: api.Container;
  readonly config?: string;
}

interface Codec {
  encode(message: never): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
  fromPartial(message: Json): unknown;
}
const codec = (name: string): Codec => {
  const found = (api as unknown as Record<string, Codec>)[name];
  if (found === undefined) throw new Error(`${name} is no message`);
  return found;
};
const requestOf = (method: string): Codec =>
  codec(method === "StateChange" ? "StateChangeEvent" : method === "Shutdown" ? "Empty" : `${method}Request`);
const responseOf = (method: string): Codec =>
  codec(["StateChange", "Shutdown", "RegisterPlugin"].includes(method) ? "Empty" : `${method}Response`);
const encoded = (type: Codec, message: Json): Buffer => Buffer.from(type.encode(type.fromPartial(message) as never).finish());

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 0x7f) | 0x80);
  }
}
const field = (number: number, bytes: Uint8Array | string): Buffer => {
  const data = Buffer.from(bytes as Uint8Array);
  return Buffer.concat([varint(number * 8 + 2), varint(data.length), data]);
};
/** Fields of length-delimited and varint types by number. */
function fieldsOf(bytes: Buffer): Map<number, Buffer | number> {
  const fields = new Map<number, Buffer | number>();
  let at = 0;
  const number = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const tag = number();
    if (tag % 8 === 0) fields.set(tag >>> 3, number());
    else {
      const length = number();
      fields.set(tag >>> 3, bytes.subarray(at, at + length));
      at += length;
    }
  }
  return fields;
}

const u32 = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => {
    bytes.writeUInt32BE(value, index * 4);
  });
  return bytes;
};
export const ttrpcFrame = (stream: number, type: number, data: Buffer): Buffer =>
  Buffer.concat([u32(data.length, stream), Buffer.from([type, 0]), data]);
export const muxPiece = (connection: number, data: Buffer): Buffer => Buffer.concat([u32(connection, data.length), data]);

export interface PluginOptions {
  readonly name: string;
  readonly index: string;
  /** Bits; 0: all. */
  readonly events?: number;
  readonly handlers?: Handlers;
}

export class NriPlugin {
  /** In the order in which they came. */
  readonly calls: { readonly method: string; readonly request: Request }[] = [];
  readonly synchronized: Promise<void>;
  readonly closed: Promise<void>;
  handlers: Handlers;
  readonly #socket: Socket;
  readonly #options: PluginOptions;
  readonly #replies = new Map<number, (data: Buffer) => void>();
  readonly #waiting: (() => void)[] = [];
  #nextStream = 1;
  #raw = Buffer.alloc(0);
  #streams: Record<number, Buffer> = { 1: Buffer.alloc(0), 2: Buffer.alloc(0) };

  constructor(socket: Socket, options: PluginOptions) {
    this.#socket = socket;
    this.#options = options;
    this.handlers = options.handlers ?? {};
    socket.on("data", (chunk) => this.#receive(chunk));
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    this.synchronized = this.saw("Synchronize").then(() => {});
  }

  /** Registered and synchronized. */
  static async connect(path: string, options: PluginOptions): Promise<NriPlugin> {
    const plugin = new NriPlugin(connect(path), options);
    await plugin.register();
    await Promise.race([
      plugin.synchronized,
      plugin.closed.then(() => {
        throw new Error("the runtime has closed the connection");
      }),
    ]);
    return plugin;
  }

  async register(): Promise<void> {
    await this.call("RegisterPlugin", { pluginName: this.#options.name, pluginIdx: this.#options.index, NRIVersion: "v0.11.0" });
  }

  methods(): string[] {
    return this.calls.map(({ method }) => method);
  }

  /** The first call of that method, when it has come. */
  async saw(method: string, fits: (request: Request) => boolean = () => true): Promise<Request> {
    for (;;) {
      const found = this.calls.find((call) => call.method === method && fits(call.request));
      if (found !== undefined) return found.request;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Of the runtime. */
  async call(method: string, message: Json): Promise<object> {
    const stream = this.#nextStream;
    this.#nextStream += 2;
    const payload = encoded(codec(`${method}Request`), message);
    const body = Buffer.concat([field(1, "nri.pkg.api.v1alpha1.Runtime"), field(2, method), field(3, payload)]);
    const reply = new Promise<Buffer>((resolve) => this.#replies.set(stream, resolve));
    this.write(muxPiece(2, ttrpcFrame(stream, 1, body)));
    const fields = fieldsOf(await reply);
    const status = fields.get(1);
    const { 1: code, 2: text } = status instanceof Buffer ? Object.fromEntries(fieldsOf(status)) : {};
    if (code !== undefined) throw new Error(`${code}: ${String(text)}`);
    const result = fields.get(2);
    return responseOf(method).decode(result instanceof Buffer ? result : Buffer.alloc(0));
  }

  write(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#raw = Buffer.concat([this.#raw, chunk]);
    while (this.#raw.length >= 8 && this.#raw.length >= 8 + this.#raw.readUInt32BE(4)) {
      const id = this.#raw.readUInt32BE(0);
      const end = 8 + this.#raw.readUInt32BE(4);
      this.#streams[id] = Buffer.concat([this.#streams[id] ?? Buffer.alloc(0), this.#raw.subarray(8, end)]);
      this.#raw = this.#raw.subarray(end);
      this.#frames(id);
    }
  }

  #frames(id: number): void {
    for (;;) {
      const bytes = this.#streams[id] ?? Buffer.alloc(0);
      if (bytes.length < 10 || bytes.length < 10 + bytes.readUInt32BE(0)) return;
      const end = 10 + bytes.readUInt32BE(0);
      const [stream, data] = [bytes.readUInt32BE(4), bytes.subarray(10, end)];
      this.#streams[id] = bytes.subarray(end);
      if (id === 2) this.#replies.get(stream)?.(data);
      else void this.#serve(stream, data);
    }
  }

  async #serve(stream: number, data: Buffer): Promise<void> {
    const fields = fieldsOf(data);
    const method = String(fields.get(2));
    const payload = fields.get(3);
    const request = requestOf(method).decode(payload instanceof Buffer ? payload : Buffer.alloc(0)) as Request;
    const fallback: Record<string, Answer> = {
      Configure: { events: this.#options.events ?? 0 },
      Synchronize: { more: request["more"] === true },
    };
    const answer = (await this.handlers[method]?.(request)) ?? fallback[method] ?? {};
    this.calls.push({ method, request });
    for (const wake of this.#waiting.splice(0)) wake();
    if (answer === "never") return;
    const body =
      answer instanceof Error
        ? field(1, Buffer.concat([Buffer.from([8, answer.message === "unimplemented" ? 12 : 9]), field(2, answer.message)]))
        : field(2, encoded(responseOf(method), answer));
    this.write(muxPiece(1, ttrpcFrame(stream, 2, body)));
  }
}
