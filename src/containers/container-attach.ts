import type { AttachedStreams, Container, ProcessExit } from "../core/library/public.ts";
import type { ContainerAttachRequest, ContainerAttachStart, ContainerInput } from "../gen/caisson/v1/container.ts";
import { RuntimeError } from "../lib/errors.ts";
import { exitReply } from "./container-replies.ts";
import { invalid } from "./container-requests.ts";
import type { LibraryContainers } from "./library-containers.ts";
import { copyInput, OutputCopy, type SendOutput } from "./process-streams.ts";

/** The end of a container's output, and what its helper tells of its exit, come apart by so much at most. */
const exitPatienceMs = 5000;

/** Leaving ends the attachment and nothing else. */
export async function attachToContainer(
  containers: LibraryContainers,
  requests: AsyncIterator<ContainerAttachRequest>,
  send: SendOutput,
  signal: AbortSignal,
): Promise<void> {
  const start = await firstRequest(requests);
  using shared = await containers.share(start.id);
  const { container } = shared;
  const attached = await container.attach({ stdin: start.stdin, stderr: start.stderr }, signal);
  try {
    await talk(container, attached, requests, send, signal);
  } finally {
    for (const stream of [attached.stdin, attached.stdout, attached.stderr]) stream?.destroy();
  }
}

async function talk(
  container: Container,
  { stdin, stdout, stderr }: AttachedStreams,
  requests: AsyncIterator<ContainerAttachRequest>,
  send: SendOutput,
  signal: AbortSignal,
): Promise<void> {
  await send({ started: { pid: BigInt(container.state().init_process_pid) } });
  const streams = {
    stdin,
    stdout,
    stderr,
    resize: async (size: { readonly rows: number; readonly cols: number }) => await container.resize(size),
    signal: undefined,
  };
  const output = new OutputCopy(streams, send);
  const failed = Promise.withResolvers<never>();
  copyInput(inputsOf(requests), streams).catch(failed.reject);
  // Its streams end with the container, or when the helper has cut off a caller who does not read.
  await Promise.race([output.ended, failed.promise]);
  await send({ exit: exitReply(await exitOf(container, signal)) });
}

async function exitOf(container: Container, signal: AbortSignal): Promise<ProcessExit> {
  const patience = AbortSignal.timeout(exitPatienceMs);
  try {
    return await container.wait(AbortSignal.any([signal, patience]));
  } catch (error) {
    if (!patience.aborted || signal.aborted) throw error;
    const what = "this caller did not read fast enough and was cut off";
    throw new RuntimeError("aborted", `container ${container.id}: ${what}; the container goes on`, {}, error);
  }
}

async function firstRequest(requests: AsyncIterator<ContainerAttachRequest>): Promise<ContainerAttachStart> {
  const { value, done } = await requests.next();
  const start = done === true ? undefined : (value as ContainerAttachRequest).start;
  if (start === undefined) throw invalid("the first message of Attach is start");
  return start;
}

async function* inputsOf(requests: AsyncIterator<ContainerAttachRequest>): AsyncGenerator<ContainerInput> {
  for (let next = await requests.next(); next.done !== true; next = await requests.next()) {
    if (next.value.input === undefined) throw invalid("start comes once");
    yield next.value.input;
  }
}
