/** Joins clients to the stdio of a running container. */
import { Writable } from "node:stream";
import { RuntimeError } from "../lib/errors.ts";
import { addon, isErrno } from "../native/addon.ts";
import { DescriptorReadable, DescriptorWritable } from "../native/descriptor-streams.ts";
import { ContainerInput } from "./container-input.ts";
import type { AttachedStreams, AttachRequest } from "./runtime.ts";
import type { Shim } from "./shim/shim.ts";

/** Open inputs by container, of one pod. */
export type ContainerInputs = Map<string, ContainerInput>;

interface Ends {
  stdin?: number;
  stdout?: number;
  stderr?: number;
}

/** stdout is always joined: its end is the container's. */
export async function attachToContainer(
  shim: Shim,
  inputs: ContainerInputs,
  containerId: string,
  request: AttachRequest,
  signal: AbortSignal,
): Promise<AttachedStreams> {
  const ends: Ends = {};
  const [outRead, outWrite] = addon.pipe(0);
  const stdout = new DescriptorReadable(outRead);
  ends.stdout = outWrite;
  let stderr: DescriptorReadable | undefined;
  if (request.stderr) {
    const [errRead, errWrite] = addon.pipe(0);
    stderr = new DescriptorReadable(errRead);
    ends.stderr = errWrite;
  }
  try {
    const stdin = request.stdin
      ? await attachInput(shim, inputs, containerId, request.stdinOnce, ends, signal)
      : await shim.attach(containerId, ends, signal);
    return {
      stdin: stdin ?? undefined,
      stdout,
      stderr,
      cutOff: () => stdout.cutOff || stderr?.cutOff === true,
      resize: async ({ rows, columns }) => await shim.resize(containerId, "", rows, columns),
    };
  } catch (error) {
    stdout.destroy();
    stderr?.destroy();
    if (!isErrno(error, "EUSERS")) throw error;
    const sentence = `container ${containerId} has as many attached clients as it can have; wait until one of them leaves`;
    throw new RuntimeError("resource_exhausted", sentence, {}, error);
  } finally {
    for (const fd of [ends.stdout, ends.stderr]) if (fd !== undefined) addon.close(fd);
  }
}

/** The client's side of the container's input; one that leads nowhere where the container has none, or none any more. */
async function attachInput(
  shim: Shim,
  inputs: ContainerInputs,
  id: string,
  once: boolean,
  ends: Ends,
  signal: AbortSignal,
): Promise<Writable> {
  const known = inputs.get(id);
  if (known !== undefined) {
    await shim.attach(id, ends, signal);
    return known.client();
  }
  const [readEnd, writeEnd] = addon.pipe(0);
  const input = new ContainerInput(new DescriptorWritable(writeEnd), once);
  // At once: a second client that comes meanwhile shares it.
  inputs.set(id, input);
  try {
    await shim.attach(id, { ...ends, stdin: readEnd }, signal);
    return input.client();
  } catch (error) {
    inputs.delete(id);
    input[Symbol.dispose]();
    if (isErrno(error, "EPIPE")) {
      await shim.attach(id, ends, signal);
      return new Writable({ write: (_chunk, _encoding, done) => done() });
    }
    if (!isErrno(error, "EBUSY")) throw error;
    const reason = "the container has not taken yet what an earlier daemon's client wrote; attach without stdin or try again";
    throw new RuntimeError("failed_precondition", `stdin of container ${id}: ${reason}`, {}, error);
  } finally {
    addon.close(readEnd);
  }
}
