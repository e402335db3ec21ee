import { Container, PodSandbox, type SynchronizeRequest } from "../gen/nri/v1alpha1/api.ts";
import { mostDataBytes } from "./frame.ts";

/** Room for the fields around the objects and for the request that carries the message. */
const mostBytes = mostDataBytes - 4096;
/** Tag and length of an object. */
const overheadBytes = 8;

/** All pods, then all containers, in messages that fit into a frame; at least one. */
export function syncChunks(
  pods: readonly PodSandbox[],
  containers: readonly Container[],
  limit: number = mostBytes,
): SynchronizeRequest[] {
  const chunks: SynchronizeRequest[] = [{ pods: [], containers: [], more: false }];
  let size = 0;
  const current = (bytes: number): SynchronizeRequest => {
    const last = chunks.at(-1);
    if (last !== undefined && (size + bytes <= limit || last.pods.length + last.containers.length === 0)) {
      size += bytes;
      return last;
    }
    if (last !== undefined) last.more = true;
    const next: SynchronizeRequest = { pods: [], containers: [], more: false };
    chunks.push(next);
    size = bytes;
    return next;
  };
  for (const pod of pods) current(PodSandbox.encode(pod).finish().length + overheadBytes).pods.push(pod);
  for (const container of containers) {
    current(Container.encode(container).finish().length + overheadBytes).containers.push(container);
  }
  return chunks;
}
