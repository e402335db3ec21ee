import type { AttachedStreams } from "../core/runtime.ts";
import type { AttachRequest, AttachResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { pump } from "../lib/pump.ts";
import type { CommandOutcome, RemoteStreams } from "../streaming/remote-command.ts";
import type { Context, CriApp } from "./app-types.ts";
import { checkStreams, runningContainer } from "./streaming-checks.ts";

/** Gives out a URL; its client is joined to the container's own streams. */
export function attach(app: CriApp, _ctx: Context, request: AttachRequest): AttachResponse {
  checkStreams(request);
  const { id } = runningContainer(app, request.containerId);
  const { tty, stdin, stdout, stderr } = request;
  const run = async (streams: RemoteStreams, gone: AbortSignal): Promise<CommandOutcome> =>
    await attachRemotely(app, id, request, streams, gone);
  return { url: app.streaming.attach({ tty, stdin, stdout, stderr, run }) };
}

async function attachRemotely(
  app: CriApp,
  id: string,
  request: AttachRequest,
  streams: RemoteStreams,
  gone: AbortSignal,
): Promise<CommandOutcome> {
  const { podId, config } = runningContainer(app, id);
  const wanted = { stdin: request.stdin, stdinOnce: config.stdinOnce, stderr: request.stderr };
  const attached = await app.pods.need(podId).attach(id, wanted, gone);
  const detach = (): void => closeStreams(attached);
  gone.addEventListener("abort", detach, { once: true });
  try {
    gone.throwIfAborted();
    const resize = (to: NonNullable<ReturnType<typeof streams.size>>): void => {
      attached.resize(to).catch((error: unknown) => app.log.debug({ err: error, id }, "a terminal was not resized"));
    };
    const size = streams.size();
    if (size !== undefined) resize(size);
    streams.onResize(resize);
    const input = copyInput(streams, attached);
    const outputs = [pump(attached.stdout, streams.stdout)];
    if (attached.stderr !== undefined) outputs.push(pump(attached.stderr, streams.stderr));
    const output = Promise.all(outputs.map((each) => each.then(() => requireEnd(attached))));
    const onlyInput = !request.stdout && !request.stderr;
    output.catch(() => {});
    await (onlyInput ? Promise.race([input, output]) : output);
    // The container's own exit code is in its status: the client asked for its streams.
    return { exitCode: 0 };
  } finally {
    gone.removeEventListener("abort", detach);
    closeStreams(attached);
  }
}

/** Resolves when the client's input has ended or the container does not take it any more. */
async function copyInput({ stdin }: RemoteStreams, attached: AttachedStreams): Promise<void> {
  const sink = attached.stdin;
  if (stdin === undefined || sink === undefined) return;
  try {
    await pump(stdin, sink);
    await new Promise<void>((resolve) => sink.end(resolve));
  } catch {
    sink.destroy();
  }
}

function requireEnd(attached: AttachedStreams): void {
  if (!attached.cutOff()) return;
  throw new RuntimeError("resource_exhausted", "the client did not read and was cut off; the container goes on without it");
}

function closeStreams({ stdin, stdout, stderr }: AttachedStreams): void {
  for (const stream of [stdin, stdout, stderr]) stream?.destroy();
}
