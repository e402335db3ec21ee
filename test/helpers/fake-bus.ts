/** A D-Bus daemon with systemd on it, as much as one client sees: answers calls by handlers, sends signals, can go away. */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type DbusMessage,
  dbusMessageSize,
  decodeDbusMessage,
  encodeDbusMessage,
  messageType,
} from "../../src/lib/dbus/message.ts";
import type { DbusValue } from "../../src/lib/dbus/signature.ts";

export interface FakeAnswer {
  readonly signature?: string;
  readonly body?: readonly DbusValue[];
  readonly error?: string;
  /** Signals sent ahead of the answer. */
  readonly before?: () => void;
  readonly after?: () => void;
}
type Handler = (call: DbusMessage) => FakeAnswer | "silence";

const nothing = {
  path: "",
  interface: "",
  member: "",
  errorName: "",
  replySerial: 0,
  destination: "",
  sender: "",
  signature: "",
};

export class FakeBus implements AsyncDisposable {
  readonly socket: string;
  readonly calls: DbusMessage[] = [];
  readonly handlers = new Map<string, Handler>();
  /** First line of the answer to AUTH. */
  greeting = "OK 0123456789abcdef0123456789abcdef";
  accepted = 0;
  readonly #directory = mkdtempSync(join(tmpdir(), "caisson-bus-"));
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  #serial = 100;

  private constructor() {
    this.socket = join(this.#directory, "bus");
    this.#server = createServer((client) => this.#serve(client));
    this.handlers.set("Hello", () => ({ signature: "s", body: [":1.7"] }));
  }

  static async start(): Promise<FakeBus> {
    const bus = new FakeBus();
    await new Promise<void>((resolve) => bus.#server.listen(bus.socket, resolve));
    return bus;
  }

  names(): string[] {
    return this.calls.map(({ member }) => member);
  }

  signal(member: string, signature: string, body: readonly DbusValue[]): void {
    const from = { path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager" };
    this.#send({ ...nothing, ...from, type: messageType.signal, member, signature, body });
  }

  raw(bytes: Buffer): void {
    for (const client of this.#clients) client.write(bytes);
  }

  /** Every connection ends; new ones are welcome. */
  drop(): void {
    for (const client of this.#clients) client.destroy();
    this.#clients.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.drop();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #serve(client: Socket): void {
    this.accepted++;
    this.#clients.add(client);
    client.on("error", () => {});
    let received = Buffer.alloc(0);
    let binary = false;
    client.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      for (let end = received.indexOf("\r\n"); !binary && end >= 0; end = received.indexOf("\r\n")) {
        const line = received.toString("latin1", 0, end);
        received = received.subarray(end + 2);
        if (line.startsWith("\0AUTH EXTERNAL ")) client.write(`${this.greeting}\r\n`);
        binary = line === "BEGIN";
      }
      if (binary) received = this.#take(received);
    });
  }

  #take(bytes: Buffer<ArrayBuffer>): Buffer<ArrayBuffer> {
    let rest = bytes;
    for (let size = dbusMessageSize(rest); size !== undefined && rest.length >= size; size = dbusMessageSize(rest)) {
      this.#answer(decodeDbusMessage(rest.subarray(0, size)));
      rest = rest.subarray(size);
    }
    return rest;
  }

  #answer(call: DbusMessage): void {
    this.calls.push(call);
    const answer = this.handlers.get(call.member)?.(call) ?? {};
    if (answer === "silence") return;
    answer.before?.();
    const { error = "", signature = "", body = [] } = answer;
    const type = error === "" ? messageType.reply : messageType.error;
    this.#send({ ...nothing, type, replySerial: call.serial, errorName: error, signature, body });
    answer.after?.();
  }

  #send(message: Omit<DbusMessage, "serial">): void {
    this.raw(encodeDbusMessage({ ...message, serial: ++this.#serial }));
  }
}
