/**
 * portforward.k8s.io: each forwarded connection is a pair of streams with the same `requestid`, one for data and one for what goes
 * wrong. Many pairs share a connection. `port` names the port on both.
 */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { type PortForward, parsePort } from "./port-forward.ts";
import type { Headers } from "./spdy/header-blocks.ts";
import { SpdySession } from "./spdy/session.ts";
import type { SpdyStream } from "./spdy/stream.ts";

export const portForwardProtocol = "portforward.k8s.io";

/** How long the other half of a pair may take. */
const pairingMs = 30_000;

interface Pair {
  error: SpdyStream | undefined;
  data: SpdyStream | undefined;
  readonly patience: NodeJS.Timeout;
}

/** Resolves when the connection is over. `stop` ends it early. */
export async function servePortForwardOverSpdy(
  transport: Duplex,
  head: Buffer,
  target: PortForward,
  stop: AbortSignal,
): Promise<void> {
  const gone = new AbortController();
  const pairs = new Map<string, Pair>();
  const session = new SpdySession(transport, {
    accepts: hasPlace,
    onStream: (stream) => joinPair(pairs, stream, target, gone.signal),
  });
  const onStop = (): void => session.destroy();
  stop.addEventListener("abort", onStop, { once: true });
  if (stop.aborted) onStop();
  try {
    await session.run(head);
  } finally {
    gone.abort(new RuntimeError("canceled", "the client has gone"));
    for (const pair of pairs.values()) clearTimeout(pair.patience);
    stop.removeEventListener("abort", onStop);
  }
}

function hasPlace(headers: Headers): boolean {
  const type = headers.get("streamtype")?.[0]?.toLowerCase();
  return (type === "error" || type === "data") && parsePort(headers.get("port")?.[0] ?? "") !== undefined;
}

function joinPair(pairs: Map<string, Pair>, stream: SpdyStream, target: PortForward, gone: AbortSignal): void {
  const half = stream.header("streamtype").toLowerCase() as "error" | "data";
  // Very old clients number nothing: their data stream comes right behind its error stream.
  const key = stream.header("requestid") || `#${half === "error" ? stream.id : stream.id - 2}`;
  const pair = pairs.get(key) ?? {
    error: undefined,
    data: undefined,
    patience: setTimeout(() => giveUpPair(pairs, key, "the other stream of this request did not come in time"), pairingMs),
  };
  if (pair[half] !== undefined) {
    stream.destroy();
    giveUpPair(pairs, key, `the ${half} stream of this request came twice`);
    return;
  }
  pair[half] = stream;
  pairs.set(key, pair);
  const { error, data } = pair;
  if (error === undefined || data === undefined) return;
  clearTimeout(pair.patience);
  // Clients close it at once, without having said anything.
  error.resume();
  void forward(data, error, target, gone).finally(() => pairs.delete(key));
}

function giveUpPair(pairs: Map<string, Pair>, key: string, reason: string): void {
  const pair = pairs.get(key);
  pairs.delete(key);
  if (pair === undefined) return;
  clearTimeout(pair.patience);
  fail(pair.error, pair.data, reason);
}

/** The text is for people; clients take any as a failure of this connection. */
function fail(error: SpdyStream | undefined, data: SpdyStream | undefined, reason: string): void {
  if (error?.writable === true) error.end(reason);
  error?.resume();
  data?.destroy();
}

async function forward(data: SpdyStream, error: SpdyStream, target: PortForward, gone: AbortSignal): Promise<void> {
  const port = parsePort(data.header("port")) ?? 0;
  let socket: Duplex;
  try {
    socket = await target.connect(port, gone);
  } catch (failure) {
    fail(error, data, messageOf(failure));
    return;
  }
  await splice(socket, data, (failure) => fail(error, data, `port ${port}: ${failure.message}`));
  if (error.writable) error.end();
}

/** Copies both directions, each until its own end; resolves when both connections are closed. */
export async function splice(socket: Duplex, client: Duplex, onError: (error: Error) => void): Promise<void> {
  socket.on("error", onError);
  const closed = Promise.all([closing(socket), closing(client)]);
  // Whoever is closed before its end takes the other along.
  client.once("close", () => {
    if (!client.readableEnded || !client.writableFinished) socket.destroy();
  });
  socket.once("close", () => {
    if (!socket.readableEnded) client.destroy();
  });
  if (client.destroyed) socket.destroy();
  client.pipe(socket);
  socket.pipe(client);
  await closed;
}

async function closing(stream: Duplex): Promise<void> {
  if (!stream.closed) await once(stream, "close").catch(() => {});
}
