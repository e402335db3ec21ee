/**
 * One connection to a D-Bus bus: who we are (SASL EXTERNAL), calls with their answers, signals. No services, no descriptors: what a
 * client of systemd needs.
 *
 *   us                                bus
 *   | NUL AUTH EXTERNAL uid --------> |
 *   | <--------------------- OK guid  |
 *   | BEGIN, Hello -----------------> |
 *   | <------------- our unique name  |
 */
import { createConnection, type Socket } from "node:net";
import { messageOf, RuntimeError, wrapError } from "../errors.ts";
import { type DbusMessage, dbusMessageSize, decodeDbusMessage, encodeDbusMessage, messageType } from "./message.ts";
import type { DbusValue } from "./signature.ts";

export interface DbusCall {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly signature?: string;
  readonly body?: readonly DbusValue[];
}

export interface DbusOptions {
  /** The bus's socket. */
  readonly path: string;
  readonly onSignal: (signal: DbusMessage) => void;
  /** How long an answer may take. */
  readonly deadlineMs: number;
}

interface Pending {
  readonly what: string;
  readonly resolve: (body: readonly DbusValue[]) => void;
  readonly reject: (error: RuntimeError) => void;
  readonly timer: NodeJS.Timeout;
}

const bus = { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
const longestAuthLine = 16 << 10;

export class DbusConnection {
  readonly #socket: Socket;
  readonly #options: DbusOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #authenticated = Promise.withResolvers<void>();
  #received: Buffer = Buffer.alloc(0);
  #serial = 0;
  #binary = false;
  #ended: RuntimeError | undefined;

  private constructor(options: DbusOptions) {
    this.#options = options;
    this.#socket = createConnection(options.path);
    // A call under way has a timer, which keeps the process; a quiet connection need not.
    this.#socket.unref();
    this.#socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    this.#socket.on("error", (error) => this.#end(messageOf(error), error));
    this.#socket.on("close", () => this.#end("it was closed"));
    this.#authenticated.promise.catch(() => {});
  }

  /** `unavailable` when nobody listens or answers, `permission_denied` when we are refused. */
  static async open(options: DbusOptions): Promise<DbusConnection> {
    const connection = new DbusConnection(options);
    const timer = setTimeout(() => connection.#end("it did not answer"), options.deadlineMs);
    try {
      await connection.#authenticate();
      await connection.call({ ...bus, member: "Hello" });
      return connection;
    } catch (error) {
      connection.close();
      throw wrapError(`cannot connect to the bus at ${options.path}`, error);
    } finally {
      clearTimeout(timer);
    }
  }

  get connected(): boolean {
    return this.#ended === undefined;
  }

  /** Values of the answer. An error of the peer is a RuntimeError whose field `dbusError` is its name. */
  call(call: DbusCall): Promise<readonly DbusValue[]> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const { promise, resolve, reject } = Promise.withResolvers<readonly DbusValue[]>();
    const what = `${call.interface}.${call.member}`;
    const serial = this.#nextSerial();
    const { signature = "", body = [] } = call;
    const none = { errorName: "", replySerial: 0, sender: "" };
    const bytes = encodeDbusMessage({ ...none, ...call, signature, body, type: messageType.call, serial });
    const late = new RuntimeError("deadline_exceeded", `${call.destination} did not answer ${what} in time`);
    const timer = setTimeout(() => this.#settle(serial, (pending) => pending.reject(late)), this.#options.deadlineMs);
    this.#pending.set(serial, { what, resolve, reject, timer });
    this.#socket.write(bytes);
    return promise;
  }

  /** Asks the bus to send signals that match. */
  async subscribe(rule: string): Promise<void> {
    await this.call({ ...bus, member: "AddMatch", signature: "s", body: [rule] });
  }

  close(): void {
    this.#end("the connection was closed");
  }

  async #authenticate(): Promise<void> {
    const uid = Buffer.from(String(process.geteuid?.() ?? 0)).toString("hex");
    this.#socket.write(`\0AUTH EXTERNAL ${uid}\r\n`);
    await this.#authenticated.promise;
    this.#binary = true;
    this.#socket.write("BEGIN\r\n");
  }

  #receive(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
    try {
      if (this.#binary) this.#readMessages();
      else this.#readAnswer();
    } catch (error) {
      this.#end(messageOf(error), error);
    }
  }

  #readAnswer(): void {
    const end = this.#received.indexOf("\r\n");
    if (end < 0 && this.#received.length > longestAuthLine) throw new RuntimeError("internal", "an endless answer to AUTH");
    if (end < 0) return;
    const line = this.#received.toString("latin1", 0, end);
    this.#received = this.#received.subarray(end + 2);
    if (line.startsWith("OK ")) this.#authenticated.resolve();
    else this.#end(`it refuses us: ${line}`, undefined, "permission_denied");
  }

  #readMessages(): void {
    for (;;) {
      const size = dbusMessageSize(this.#received);
      if (size === undefined || this.#received.length < size) return;
      const message = decodeDbusMessage(this.#received.subarray(0, size));
      this.#received = this.#received.subarray(size);
      this.#take(message);
    }
  }

  #take(message: DbusMessage): void {
    const { type, replySerial, body } = message;
    if (type === messageType.signal) this.#options.onSignal(message);
    else if (type === messageType.reply) this.#settle(replySerial, (pending) => pending.resolve(body));
    else if (type === messageType.error) {
      this.#settle(replySerial, (pending) => pending.reject(peerError(pending.what, message)));
    }
  }

  #settle(serial: number, settle: (pending: Pending) => void): void {
    const pending = this.#pending.get(serial);
    if (pending === undefined) return;
    this.#pending.delete(serial);
    clearTimeout(pending.timer);
    settle(pending);
  }

  #nextSerial(): number {
    do this.#serial = (this.#serial + 1) % 0x1_0000_0000;
    while (this.#serial === 0 || this.#pending.has(this.#serial));
    return this.#serial;
  }

  #end(reason: string, cause?: unknown, code: "unavailable" | "permission_denied" = "unavailable"): void {
    if (this.#ended !== undefined) return;
    const error = new RuntimeError(code, `the D-Bus connection ended: ${reason}`, {}, cause);
    this.#ended = error;
    this.#socket.destroy();
    this.#authenticated.reject(error);
    for (const serial of [...this.#pending.keys()]) this.#settle(serial, (pending) => pending.reject(error));
  }
}

const codes: Readonly<Record<string, RuntimeError["code"]>> = {
  "org.freedesktop.DBus.Error.AccessDenied": "permission_denied",
  "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": "permission_denied",
  "org.freedesktop.DBus.Error.NoReply": "unavailable",
  "org.freedesktop.DBus.Error.Disconnected": "unavailable",
  "org.freedesktop.DBus.Error.ServiceUnknown": "unavailable",
  "org.freedesktop.DBus.Error.NameHasNoOwner": "unavailable",
  "org.freedesktop.DBus.Error.Timeout": "deadline_exceeded",
  "org.freedesktop.DBus.Error.InvalidArgs": "invalid_argument",
  "org.freedesktop.DBus.Error.LimitsExceeded": "resource_exhausted",
};

function peerError(what: string, { errorName, body }: DbusMessage): RuntimeError {
  const [text] = body;
  const said = typeof text === "string" && text !== "" ? text : errorName;
  return new RuntimeError(codes[errorName] ?? "internal", `${what}: ${said}`, { dbusError: errorName });
}
