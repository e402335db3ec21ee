/** Port forwarding over WebSocket channels: of the i-th port, 2i is data and 2i+1 errors; both begin with the port as two bytes, little endian. */
import { Duplex } from "node:stream";
import type { WebSocket } from "ws";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { PortForward } from "./port-forward.ts";
import { splice } from "./port-forward-over-spdy.ts";
import { type ChannelForm, WebSocketChannels } from "./websocket-channels.ts";

export const portForwardSubprotocols: Readonly<Record<string, ChannelForm>> = {
  "v4.channel.k8s.io": { base64: false, closes: false },
  "v4.base64.channel.k8s.io": { base64: true, closes: false },
  "": { base64: false, closes: false },
};

/** Two channels each, and 255 is none. */
export const mostForwardedPorts = 100;
const closeNormal = 1000;

/** Resolves when the connection is over. `stop` ends it early. */
export async function servePortForwardOverWebSocket(
  socket: WebSocket,
  target: PortForward,
  form: ChannelForm,
  stop: AbortSignal,
): Promise<void> {
  const channels = new WebSocketChannels(socket, form);
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const gone = new AbortController();
  void closed.then(() => gone.abort(new RuntimeError("canceled", "the client has gone")));
  const onStop = (): void => socket.terminate();
  stop.addEventListener("abort", onStop, { once: true });
  if (stop.aborted) onStop();
  const ports = target.ports.slice(0, mostForwardedPorts);
  await Promise.all(ports.map((port, index) => forward(channels, index, port, target, gone.signal)));
  socket.close(closeNormal);
  await closed;
  stop.removeEventListener("abort", onStop);
}

async function forward(
  channels: WebSocketChannels,
  index: number,
  port: number,
  target: PortForward,
  gone: AbortSignal,
): Promise<void> {
  const [dataChannel, errorChannel] = [2 * index, 2 * index + 1];
  const number = Buffer.alloc(2);
  number.writeUInt16LE(port);
  channels.send(dataChannel, number);
  channels.send(errorChannel, number);
  const client = Duplex.from({ readable: channels.input(dataChannel), writable: channels.output(dataChannel) });
  client.on("error", () => {});
  const report = (error: unknown): void => channels.send(errorChannel, Buffer.from(messageOf(error)));
  try {
    const socket = await target.connect(port, gone);
    // A channel has no end of its own before v5: when the pod's side is done, so is the connection.
    socket.once("end", () => client.destroy());
    await splice(socket, client, report);
  } catch (error) {
    report(error);
    client.destroy();
  }
}
