/**
 * The HTTP server that clients of Exec, Attach and PortForward come to with the URL that they were given. The token in it is all that
 * they have to show: it is single-use, short-lived, and never logged.
 */

import { createServer, type IncomingMessage, type Server } from "node:http";
import { createServer as createTlsServer, Server as TlsServer } from "node:https";
import { type AddressInfo, isIP, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createWebSocketStream, type WebSocket, WebSocketServer } from "ws";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { serveCommandOverSpdy } from "./command-over-spdy.ts";
import { commandSubprotocols, serveCommandOverWebSocket } from "./command-over-websocket.ts";
import type { PortForward } from "./port-forward.ts";
import { portForwardProtocol, servePortForwardOverSpdy } from "./port-forward-over-spdy.ts";
import { mostForwardedPorts, portForwardSubprotocols, servePortForwardOverWebSocket } from "./port-forward-over-websocket.ts";
import { type RemoteCommand, spdyCommandProtocols } from "./remote-command.ts";
import { headerList, refuseUpgrade, upgradeToSpdy } from "./spdy-upgrade.ts";
import { readTls, TlsChanges, type TlsFiles } from "./tls-files.ts";
import { type TokenLimits, Tokens } from "./tokens.ts";

export interface StreamingOptions extends TokenLimits {
  readonly address: string;
  /** 0: any that is free. */
  readonly port: number;
  /** Files in PEM; with `clientCa` clients must show a certificate of it. */
  readonly tls: TlsFiles | undefined;
  /** A connection on which nothing moves for so long is ended. */
  readonly idleMs: number;
  readonly log: Record<"debug" | "info" | "warn", (fields: object, message: string) => void>;
}

/** What gives out URLs. Each is good for one client. @throws RuntimeError resource_exhausted. */
export interface StreamingUrls {
  exec(command: RemoteCommand): string;
  attach(command: RemoteCommand): string;
  portForward(target: PortForward): string;
}

export interface StreamingServer extends StreamingUrls {
  /** Ends every session. */
  close(): Promise<void>;
}

type Kind = "exec" | "attach" | "portforward";
type Ticket =
  | { readonly kind: "exec" | "attach"; readonly command: RemoteCommand }
  | { readonly kind: "portforward"; readonly target: PortForward };

/** Time for a request's head: before that nobody has shown a token. */
const headMs = 10_000;
const mostConnections = 4096;
const keepAliveMs = 30_000;
/** Larger than what any client sends at once. */
const mostMessageBytes = 32 << 20;
const closeWrongData = 1003;
const subprotocolHeader = "sec-websocket-protocol";
const tunnelPrefix = "SPDY/3.1+";

/** Listens before it returns. @throws RuntimeError invalid_argument for files or an address that cannot be used. */
export async function openStreamingServer(options: StreamingOptions): Promise<StreamingServer> {
  const server = new HttpStreamingServer(options);
  await server.listen();
  return server;
}

class HttpStreamingServer implements StreamingServer {
  readonly #options: StreamingOptions;
  readonly #server: Server;
  readonly #tlsChanges: TlsChanges | undefined;
  readonly #tokens: Tokens<Ticket>;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: mostMessageBytes,
  });
  readonly #stop = new AbortController();
  readonly #sessions = new Set<Promise<void>>();

  constructor(options: StreamingOptions) {
    this.#options = options;
    this.#tokens = new Tokens(options);
    // Before they are read: a change in between is one.
    this.#tlsChanges = options.tls === undefined ? undefined : new TlsChanges(options.tls);
    this.#server = makeServer(options);
    this.#server.headersTimeout = headMs;
    this.#server.requestTimeout = headMs;
    this.#server.maxConnections = mostConnections;
    this.#server.on("request", (request, response) => {
      const ticket = this.#redeem(request);
      response.writeHead(ticket === undefined ? 404 : 400, { "Content-Type": "text/plain; charset=utf-8", Connection: "close" });
      response.end(ticket === undefined ? "not found\n" : "the request does not ask for an upgrade\n");
    });
    this.#server.on("upgrade", (request: IncomingMessage, socket: Socket, head: Buffer) => this.#upgrade(request, socket, head));
    this.#server.on("clientError", (_error, socket) => socket.destroy());
  }

  async listen(): Promise<void> {
    const { address, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (error) =>
        reject(new RuntimeError("invalid_argument", `the streaming server cannot listen: ${messageOf(error)}`, {}, error)),
      );
      this.#server.listen({ host: address, port }, resolve);
    });
    this.#server.on("error", (error) => this.#options.log.info({ err: error }, "the streaming server has a problem"));
    const { log, tls } = this.#options;
    log.info({ address, port: this.#port, tls: tls !== undefined }, "streaming server listens");
    const { address: bound } = this.#server.address() as AddressInfo;
    if (!/^(127\.|::1$|::ffff:127\.)/.test(bound) && tls?.clientCa === undefined) {
      log.warn(
        { address: bound },
        "the streaming server can be reached from other machines; set streaming.client_ca or a loopback address",
      );
    }
  }

  exec(command: RemoteCommand): string {
    return this.#url("exec", this.#tokens.issue({ kind: "exec", command }));
  }

  attach(command: RemoteCommand): string {
    return this.#url("attach", this.#tokens.issue({ kind: "attach", command }));
  }

  portForward(target: PortForward): string {
    return this.#url("portforward", this.#tokens.issue({ kind: "portforward", target }));
  }

  async close(): Promise<void> {
    this.#stop.abort(new RuntimeError("unavailable", "the daemon is stopping"));
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await Promise.all([closed, ...this.#sessions]);
  }

  /** Connections that are there keep what they have. Of files that do not fit together the old certificate is better than none. */
  #renewCertificate(): void {
    const { tls, log } = this.#options;
    if (tls === undefined || this.#tlsChanges?.changed() !== true || !(this.#server instanceof TlsServer)) return;
    try {
      this.#server.setSecureContext(readTls(tls));
      log.info({ cert: tls.cert }, "the streaming server has a new certificate");
    } catch (error) {
      log.warn({ err: error, cert: tls.cert }, "the streaming server's new certificate cannot be used: the old one stays");
    }
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? 0;
  }

  #url(kind: Kind, token: string): string {
    const { address, tls } = this.#options;
    this.#renewCertificate();
    const any: Readonly<Record<string, string>> = { "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]" };
    const host = any[address] ?? (isIP(address) === 6 ? `[${address}]` : address);
    return `${tls === undefined ? "http" : "https"}://${host}:${this.#port}/${kind}/${token}`;
  }

  /** The path names a kind and a token that belong together. */
  #redeem(request: IncomingMessage): Ticket | undefined {
    if (request.method !== "GET" && request.method !== "POST") return undefined;
    const [, kind, token] = /^\/(exec|attach|portforward)\/([\w-]{1,64})$/.exec((request.url ?? "").split("?")[0] ?? "") ?? [];
    if (kind === undefined || token === undefined) return undefined;
    const ticket = this.#tokens.redeem(token);
    return ticket?.kind === kind ? ticket : undefined;
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on("error", () => socket.destroy());
    const ticket = this.#redeem(request);
    if (ticket === undefined) {
      refuseUpgrade(socket, 404, "not found");
      return;
    }
    const stop = new AbortController();
    const onStop = (): void => stop.abort(this.#stop.signal.reason);
    this.#stop.signal.addEventListener("abort", onStop, { once: true });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    socket.setTimeout(this.#options.idleMs, () => {
      stop.abort(new RuntimeError("deadline_exceeded", "nothing has moved on the connection for too long"));
    });
    const wantsWebSocket = headerList(request, "upgrade").some((name) => name.toLowerCase() === "websocket");
    const serve = wantsWebSocket ? serveOverWebSocket(this.#sockets, request, socket, head, ticket, stop.signal) : undefined;
    const session = (serve ?? serveOverSpdy(request, socket, head, ticket, stop.signal))
      .catch((error: unknown) => this.#options.log.info({ err: error, kind: ticket.kind }, "a streaming session failed"))
      .finally(() => {
        this.#stop.signal.removeEventListener("abort", onStop);
        this.#sessions.delete(session);
      });
    this.#sessions.add(session);
    if (this.#stop.signal.aborted) onStop();
  }
}

function makeServer({ tls }: StreamingOptions): Server {
  if (tls === undefined) return createServer();
  try {
    return createTlsServer({
      ...readTls(tls),
      ...(tls.clientCa === undefined ? {} : { requestCert: true, rejectUnauthorized: true }),
    });
  } catch (error) {
    throw new RuntimeError(
      "invalid_argument",
      `the streaming server's certificate cannot be used: ${messageOf(error)}`,
      {},
      error,
    );
  }
}

async function serveOverSpdy(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  ticket: Ticket,
  stop: AbortSignal,
): Promise<void> {
  if (ticket.kind === "portforward") {
    if (upgradeToSpdy(request, socket, [portForwardProtocol]) === undefined) return;
    await servePortForwardOverSpdy(socket, head, ticket.target, stop);
    return;
  }
  const protocol = upgradeToSpdy(request, socket, spdyCommandProtocols);
  if (protocol !== undefined) await serveCommandOverSpdy(socket, head, ticket.command, protocol, stop);
}

const tunnelSubprotocol = `${tunnelPrefix}${portForwardProtocol}`;

/** "" when the client asks for none. */
function chosenSubprotocol(request: IncomingMessage): string | undefined {
  const names = headerList(request, subprotocolHeader);
  const forward = request.url?.startsWith("/portforward/") === true;
  const known = forward ? { ...portForwardSubprotocols, [tunnelSubprotocol]: true } : commandSubprotocols;
  return names.length === 0 ? "" : names.find((name) => name !== "" && Object.hasOwn(known, name));
}

async function serveOverWebSocket(
  server: WebSocketServer,
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
  ticket: Ticket,
  stop: AbortSignal,
): Promise<void> {
  const name = chosenSubprotocol(request);
  if (name === undefined) {
    refuseUpgrade(socket, 403, "unable to upgrade: none of the subprotocols is known here");
    return;
  }
  if (ticket.kind === "portforward" && name !== tunnelSubprotocol) {
    const { length } = ticket.target.ports;
    if (length === 0 || length > mostForwardedPorts) {
      refuseUpgrade(socket, 400, `unable to upgrade: the request must name 1 to ${mostForwardedPorts} ports`);
      return;
    }
  }
  const client = await acceptWebSocket(server, request, socket, head, name, socket.timeout ?? 0);
  if (client === undefined) return;
  if (ticket.kind !== "portforward") {
    const form = commandSubprotocols[name];
    if (form !== undefined) await serveCommandOverWebSocket(client, ticket.command, form, stop);
    return;
  }
  const form = portForwardSubprotocols[name];
  if (form !== undefined) {
    await servePortForwardOverWebSocket(client, ticket.target, form, stop);
    return;
  }
  client.on("message", (_data, isBinary) => {
    if (!isBinary) client.close(closeWrongData, "the tunnel carries binary messages");
  });
  await servePortForwardOverSpdy(createWebSocketStream(client), Buffer.alloc(0), ticket.target, stop);
}

/** Undefined: the request was no proper handshake and has been answered. */
async function acceptWebSocket(
  server: WebSocketServer,
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
  subprotocol: string,
  idleMs: number,
): Promise<WebSocket | undefined> {
  // The tunnel's name has a slash, which RFC 6455 does not allow and ws refuses: it never sees the names.
  delete request.headers[subprotocolHeader];
  const answer = (headers: string[], to: IncomingMessage): void => {
    if (to === request && subprotocol !== "") headers.push(`Sec-WebSocket-Protocol: ${subprotocol}`);
  };
  server.on("headers", answer);
  const { promise, resolve } = Promise.withResolvers<WebSocket | undefined>();
  socket.once("close", () => resolve(undefined));
  server.handleUpgrade(request, socket, head, resolve);
  server.off("headers", answer);
  // ws turns the time limit off that is set already.
  socket.setTimeout(idleMs);
  return await promise;
}
