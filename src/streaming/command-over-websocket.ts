/** Exec and attach over WebSocket: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize. */
import type { Writable } from "node:stream";
import { finished } from "node:stream/promises";
import type { WebSocket } from "ws";
import { RuntimeError } from "../lib/errors.ts";
import { type CommandProtocol, errorStreamText, type RemoteCommand, resultOf } from "./remote-command.ts";
import { TerminalSizes } from "./terminal-sizes.ts";
import { type ChannelForm, WebSocketChannels } from "./websocket-channels.ts";

export interface CommandSubprotocol extends ChannelForm {
  readonly protocol: CommandProtocol;
}

/** By the name that the client asks for; "" is a client that asks for none. */
export const commandSubprotocols: Readonly<Record<string, CommandSubprotocol>> = {
  "v5.channel.k8s.io": { protocol: "v5.channel.k8s.io", base64: false, closes: true },
  "v4.channel.k8s.io": { protocol: "v4.channel.k8s.io", base64: false, closes: false },
  "v4.base64.channel.k8s.io": { protocol: "v4.channel.k8s.io", base64: true, closes: false },
  "channel.k8s.io": { protocol: "channel.k8s.io", base64: false, closes: false },
  "base64.channel.k8s.io": { protocol: "channel.k8s.io", base64: true, closes: false },
  "": { protocol: "channel.k8s.io", base64: false, closes: false },
};

const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;
const closeNormal = 1000;

/** Resolves when the connection is over. `stop` ends it early. */
export async function serveCommandOverWebSocket(
  socket: WebSocket,
  command: RemoteCommand,
  { protocol, ...form }: CommandSubprotocol,
  stop: AbortSignal,
): Promise<void> {
  const channels = new WebSocketChannels(socket, form);
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const gone = new AbortController();
  void closed.then(() => gone.abort(new RuntimeError("canceled", "the client has gone")));
  const onStop = (): void => {
    gone.abort(stop.reason);
    socket.terminate();
  };
  stop.addEventListener("abort", onStop, { once: true });
  if (stop.aborted) onStop();

  const sizes = new TerminalSizes();
  channels.input(channel.resize).on("data", (chunk: Buffer) => sizes.take(chunk));
  const stdout = command.stdout ? channels.output(channel.stdout) : undefined;
  const stderr = command.stderr ? channels.output(channel.stderr) : undefined;
  const stdin = command.stdin ? channels.input(channel.stdin) : undefined;
  // Says that the connection is ready.
  channels.send(command.stdout ? channel.stdout : command.stderr ? channel.stderr : channel.error, Buffer.alloc(0));
  const streams = { stdin, stdout, stderr, size: sizes.last, onResize: sizes.onResize };
  const result = await resultOf(command, streams, gone.signal);
  await Promise.all([endOf(stdout, gone.signal), endOf(stderr, gone.signal)]);
  const status = errorStreamText(protocol, result);
  if (status !== "") await new Promise<void>((resolve) => channels.send(channel.error, Buffer.from(status), () => resolve()));
  stdin?.destroy();
  socket.close(closeNormal);
  await closed;
  stop.removeEventListener("abort", onStop);
}

async function endOf(stream: Writable | undefined, gone: AbortSignal): Promise<void> {
  if (stream === undefined || stream.destroyed) return;
  stream.end();
  await finished(stream, { signal: gone }).catch(() => {});
}
