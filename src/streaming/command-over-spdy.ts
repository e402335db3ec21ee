/** Exec and attach over SPDY: one stream per kind, opened by the client, told apart by the header `streamtype`. */
import type { Duplex, Writable } from "node:stream";
import { finished } from "node:stream/promises";
import { RuntimeError } from "../lib/errors.ts";
import { type CommandProtocol, errorStreamText, type RemoteCommand, type RemoteStreams, resultOf } from "./remote-command.ts";
import { SpdySession } from "./spdy/session.ts";
import type { SpdyStream } from "./spdy/stream.ts";
import { TerminalSizes } from "./terminal-sizes.ts";

type StreamType = "error" | "stdin" | "stdout" | "stderr" | "resize";

/** How long a client may take to open its streams. */
const openingMs = 30_000;

function expectedStreams(command: RemoteCommand, protocol: CommandProtocol): ReadonlySet<StreamType> {
  const hasResize = protocol === "v4.channel.k8s.io" || protocol === "v3.channel.k8s.io";
  return new Set<StreamType>([
    "error",
    ...(command.stdin ? ["stdin" as const] : []),
    ...(command.stdout ? ["stdout" as const] : []),
    ...(command.stderr ? ["stderr" as const] : []),
    ...(command.tty && hasResize ? ["resize" as const] : []),
  ]);
}

/** Resolves when the connection is over. `stop` ends it early. */
export async function serveCommandOverSpdy(
  transport: Duplex,
  head: Buffer,
  command: RemoteCommand,
  protocol: CommandProtocol,
  stop: AbortSignal,
): Promise<void> {
  const expected = expectedStreams(command, protocol);
  const streams = new Map<StreamType, SpdyStream>();
  const complete = Promise.withResolvers<void>();
  const session = new SpdySession(transport, {
    accepts: (headers) => {
      const type = headers.get("streamtype")?.[0]?.toLowerCase() as StreamType;
      return expected.has(type) && !streams.has(type);
    },
    onStream: (stream) => {
      streams.set(stream.header("streamtype").toLowerCase() as StreamType, stream);
      if (streams.size === expected.size) complete.resolve();
    },
  });
  const gone = new AbortController();
  const giveUp = (reason: unknown): void => {
    gone.abort(reason);
    complete.reject(reason);
  };
  complete.promise.catch(() => {});
  const onStop = (): void => {
    giveUp(stop.reason);
    session.destroy();
  };
  stop.addEventListener("abort", onStop, { once: true });
  if (stop.aborted) onStop();
  const patience = setTimeout(() => {
    giveUp(new RuntimeError("deadline_exceeded", "the client has not opened all of its streams"));
    session.destroy();
  }, openingMs);
  const reading = session.run(head).finally(() => giveUp(new RuntimeError("canceled", "the client has gone")));
  reading.catch(() => {});
  try {
    await complete.promise;
    clearTimeout(patience);
    const result = await resultOf(command, remoteStreams(streams), gone.signal);
    await endStreams(streams, errorStreamText(protocol, result), gone.signal);
    await session.close();
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  } finally {
    clearTimeout(patience);
    stop.removeEventListener("abort", onStop);
  }
  await reading;
}

function remoteStreams(streams: ReadonlyMap<StreamType, SpdyStream>): RemoteStreams {
  const sizes = new TerminalSizes();
  streams.get("resize")?.on("data", (chunk: Buffer) => sizes.take(chunk));
  // The client's side of these carries nothing; what comes all the same must not fill the connection.
  for (const type of ["error", "stdout", "stderr"] as const) streams.get(type)?.resume();
  return {
    stdin: streams.get("stdin"),
    stdout: streams.get("stdout"),
    stderr: streams.get("stderr"),
    size: sizes.last,
    onResize: sizes.onResize,
  };
}

/** Output first: clients stop reading at the status. */
async function endStreams(streams: ReadonlyMap<StreamType, SpdyStream>, status: string, gone: AbortSignal): Promise<void> {
  await Promise.all([endOf(streams.get("stdout"), gone), endOf(streams.get("stderr"), gone)]);
  const error = streams.get("error");
  if (status !== "") error?.write(status);
  await Promise.all([endOf(error, gone), endOf(streams.get("stdin"), gone), endOf(streams.get("resize"), gone)]);
  // What the client still sends is of no use to anybody.
  for (const stream of streams.values()) stream.resume();
}

/** Resolves when everything has been handed to the connection, or when nobody wants it any more. */
async function endOf(stream: Writable | undefined, gone: AbortSignal): Promise<void> {
  if (stream === undefined || stream.destroyed) return;
  stream.end();
  await finished(stream, { readable: false, cleanup: true, signal: gone }).catch(() => {});
}
