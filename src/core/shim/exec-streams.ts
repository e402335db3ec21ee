import { closeSync, openSync } from "node:fs";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { DescriptorReadable, DescriptorWritable } from "../../native/descriptor-streams.ts";
import type { StreamedExec, StreamedExecRequest } from "../runtime.ts";
import type { ExecRequest } from "./requests.ts";
import type { Shim } from "./shim.ts";

interface Streams {
  readonly stdin: DescriptorWritable | undefined;
  readonly stdout: DescriptorReadable | undefined;
  readonly stderr: DescriptorReadable | undefined;
}

/**
 * Runs an exec and hands its streams out: pipes, or the master of its terminal. Slots 0 to 2 of the plan are the stdio, `further`
 * follow, lent during the call.
 */
export async function execWithStreams(
  shim: Shim,
  request: Omit<ExecRequest, "fds">,
  wanted: StreamedExecRequest,
  further: readonly number[],
): Promise<StreamedExec> {
  const { id, execId } = request;
  const stdio = openStdio(wanted);
  let streams = stdio.streams;
  try {
    const running = await shim.exec({ ...request, fds: [...stdio.ends, ...further] });
    if (wanted.terminal) streams = terminalStreams(running.fds, wanted);
    const outputs = [streams.stdout, streams.stderr];
    const onEnd = (): void => {
      for (const output of outputs) output?.endAfter(wanted.drainMs);
    };
    running.ended.then(onEnd, onEnd);
    await shim.execAdopt(id, execId);
    return {
      ...streams,
      ended: running.ended,
      resize: async ({ rows, columns }) => await shim.resize(id, execId, rows, columns),
    };
  } catch (error) {
    for (const stream of Object.values(streams)) stream?.destroy();
    throw error;
  } finally {
    // Our copies of the child's ends: the pipes would never end.
    for (const fd of stdio.ends) closeSync(fd);
  }
}

/** The child's three descriptors, and our sides of them. */
function openStdio({ terminal, stdin, stdout, stderr }: StreamedExecRequest): { ends: number[]; streams: Streams } {
  const ends: number[] = [];
  const none = (): undefined => {
    ends.push(openSync("/dev/null", "r+"));
  };
  const input = (): DescriptorWritable => {
    const [readEnd, writeEnd] = addon.pipe(0);
    ends.push(readEnd);
    return new DescriptorWritable(writeEnd);
  };
  const output = (): DescriptorReadable => {
    const [readEnd, writeEnd] = addon.pipe(0);
    ends.push(writeEnd);
    return new DescriptorReadable(readEnd);
  };
  const streams = {
    stdin: stdin && !terminal ? input() : none(),
    stdout: stdout && !terminal ? output() : none(),
    stderr: stderr && !terminal ? output() : none(),
  };
  return { ends, streams };
}

function terminalStreams([master, ...rest]: readonly number[], { stdin }: StreamedExecRequest): Streams {
  for (const fd of rest) addon.close(fd);
  if (master === undefined) throw new RuntimeError("internal", "the terminal of an exec did not come with its start");
  // One number cannot be watched for both directions.
  const writeEnd = stdin ? addon.duplicate(master) : undefined;
  return {
    stdin: writeEnd === undefined ? undefined : new DescriptorWritable(writeEnd),
    stdout: new DescriptorReadable(master),
    stderr: undefined,
  };
}
