import { Process } from "../core/library/public.ts";
import type { ContainerExecRequest, ContainerExecStart, ContainerInput } from "../gen/caisson/v1/container.ts";
import { exitReply } from "./container-replies.ts";
import { invalid, processOf } from "./container-requests.ts";
import type { LibraryContainers } from "./library-containers.ts";
import { copyInput, OutputCopy, type SendOutput } from "./process-streams.ts";

/** `signal` fires when the caller has left: then the process's session is killed, as nobody else knows of it. */
export async function execInContainer(
  containers: LibraryContainers,
  requests: AsyncIterator<ContainerExecRequest>,
  send: SendOutput,
  signal: AbortSignal,
): Promise<void> {
  const start = await firstRequest(requests);
  using container = await containers.load(start.id);
  const process = new Process(specOf(start));
  signal.throwIfAborted();
  await container.exec(process);
  if (start.detach) {
    process.console?.destroy();
    await send({ started: { pid: BigInt(process.pid) } });
    return;
  }
  const kill = () => void process.signal("KILL").catch(() => {});
  signal.addEventListener("abort", kill, { once: true });
  try {
    if (signal.aborted) kill();
    await talk(process, requests, send);
  } catch (error) {
    kill();
    throw error;
  } finally {
    signal.removeEventListener("abort", kill);
    process.console?.destroy();
    process.stdin?.destroy();
  }
}

async function talk(process: Process, requests: AsyncIterator<ContainerExecRequest>, send: SendOutput): Promise<void> {
  await send({ started: { pid: BigInt(process.pid) } });
  const { console, stdin, stdout, stderr } = process;
  const streams = {
    stdin: console ?? stdin,
    stdout: console ?? stdout,
    stderr,
    resize: (size: { readonly rows: number; readonly cols: number }) => process.resize(size),
    signal: async (name: string) => await process.signal(name),
  };
  const output = new OutputCopy(streams, send);
  const failed = Promise.withResolvers<never>();
  copyInput(inputsOf(requests), streams).catch(failed.reject);
  output.ended.catch(failed.reject);
  const exit = await Promise.race([process.wait(), failed.promise]);
  await output.finish();
  await send({ exit: exitReply(exit) });
}

async function firstRequest(requests: AsyncIterator<ContainerExecRequest>): Promise<ContainerExecStart> {
  const { value, done } = await requests.next();
  const start = done === true ? undefined : (value as ContainerExecRequest).start;
  if (start === undefined) throw invalid("the first message of Exec is start");
  return start;
}

function specOf({ process, stdin, detach }: ContainerExecStart) {
  const spec = processOf(process);
  if (detach) return spec;
  return spec.terminal === true ? spec : ({ ...spec, stdin: stdin ? "pipe" : "null", stdout: "pipe", stderr: "pipe" } as const);
}

async function* inputsOf(requests: AsyncIterator<ContainerExecRequest>): AsyncGenerator<ContainerInput> {
  for (let next = await requests.next(); next.done !== true; next = await requests.next()) {
    if (next.value.input === undefined) throw invalid("start comes once");
    yield next.value.input;
  }
}
