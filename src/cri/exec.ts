import type { StreamedExec } from "../core/runtime.ts";
import type { ExecRequest, ExecResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { pump } from "../lib/pump.ts";
import type { CommandOutcome, RemoteStreams } from "../streaming/remote-command.ts";
import type { Context, CriApp } from "./app-types.ts";
import { checkStreams, runningContainer } from "./streaming-checks.ts";

/** After each 64 KiB of output that nobody wants any more. */
const dropPauseMs = 20;

/** Gives out a URL; the command is executed when its client comes. */
export function exec(app: CriApp, _ctx: Context, request: ExecRequest): ExecResponse {
  checkStreams(request);
  if ((request.cmd[0] ?? "") === "") throw new RuntimeError("invalid_argument", "the request names no command");
  const bad = request.cmd.findIndex((arg) => arg.includes("\0"));
  if (bad >= 0) throw new RuntimeError("invalid_argument", `argument ${bad} of the command contains a NUL character`);
  const { id } = runningContainer(app, request.containerId);
  const { tty, stdin, stdout, stderr } = request;
  const run = async (streams: RemoteStreams, gone: AbortSignal): Promise<CommandOutcome> =>
    await execRemotely(app, id, request, streams, gone);
  return { url: app.streaming.exec({ tty, stdin, stdout, stderr, run }) };
}

async function execRemotely(
  app: CriApp,
  id: string,
  request: ExecRequest,
  streams: RemoteStreams,
  gone: AbortSignal,
): Promise<CommandOutcome> {
  const record = runningContainer(app, id);
  const oci = await app.specs.need(record);
  const { stdin, stdout, stderr, tty: terminal, cmd: args } = request;
  const size = streams.size();
  const wanted = { args, terminal, size, stdin, stdout, stderr, drainMs: app.config.execDrainMs };
  const session = await app.pods.need(record.podId).exec(record.id, oci, wanted, gone);
  const resize = (to: NonNullable<typeof size>): void => {
    session.resize(to).catch((error: unknown) => app.log.debug({ err: error, id }, "a terminal was not resized"));
  };
  streams.onResize(resize);
  // One that came while the command was being started.
  const latest = streams.size();
  if (latest !== undefined && latest !== size) resize(latest);
  // Without its client the command goes on to its own end, as with other runtimes: its input ends, its output is dropped.
  return await unlessGone(carry(session, streams), gone);
}

/** Copies the streams until the command has ended. */
async function carry(session: StreamedExec, streams: RemoteStreams): Promise<CommandOutcome> {
  try {
    if (streams.stdin !== undefined && session.stdin !== undefined) {
      const input = session.stdin;
      pump(streams.stdin, input).then(
        () => input.end(),
        () => input.destroy(),
      );
    }
    const outputs = [pumpIfAny(session.stdout, streams.stdout), pumpIfAny(session.stderr, streams.stderr)];
    const [ending] = await Promise.all([session.ended, ...outputs]);
    if (!ending.known) throw new RuntimeError("unknown", "how the command ended is not known");
    return { exitCode: ending.exitCode };
  } finally {
    for (const stream of [session.stdin, session.stdout, session.stderr]) stream?.destroy();
  }
}

async function unlessGone<T>(work: Promise<T>, gone: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onGone = (): void => reject(gone.reason);
  gone.addEventListener("abort", onGone, { once: true });
  if (gone.aborted) onGone();
  // Whichever is later is nobody's any more.
  for (const either of [work, promise]) either.catch(() => {});
  try {
    return await Promise.race([work, promise]);
  } finally {
    gone.removeEventListener("abort", onGone);
  }
}

async function pumpIfAny(source: StreamedExec["stdout"], sink: RemoteStreams["stdout"]): Promise<void> {
  if (source !== undefined) await pump(source, sink, dropPauseMs);
}
