/** What containers of a pod share and a checkpoint has to bring along: /dev/shm, and the pod's own empty directories. */
import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path/posix";
import type { Mount } from "../gen/cri/v1/api.ts";
import { errnoName } from "../lib/errors.ts";

/** The kubelet's directory of emptyDir volumes; below it one per volume. */
const emptyDirs = "kubernetes.io~empty-dir";

export interface PodVolume {
  /** The same in a pod and in another one made from its checkpoint. */
  readonly name: string;
  readonly hostPath: string;
}

/** Volumes that live and die with the pod, each once. */
export function podVolumes(mounts: readonly Pick<Mount, "hostPath">[]): readonly PodVolume[] {
  const paths = new Set(mounts.map(({ hostPath }) => hostPath).filter((path) => basename(dirname(path)) === emptyDirs));
  return [...paths].map((hostPath) => ({ name: basename(hostPath), hostPath }));
}

/** Everything below, parents first, without sockets, which whoever listens on them makes anew. */
export async function namesBelow(directory: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isSocket())
    .map(({ parentPath, name }) => join(parentPath, name).slice(directory.length + 1))
    .toSorted();
}

export async function isEmptyDirectory(path: string): Promise<boolean> {
  try {
    return (await readdir(path)).length === 0;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return true;
    throw error;
  }
}
