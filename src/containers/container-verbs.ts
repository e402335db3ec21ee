/** The calls with one request and one answer. */
import { Container, mergeResources, Process } from "../core/library/public.ts";
import type {
  ContainerCheckpointRequest,
  ContainerCreateRequest,
  ContainerRestoreRequest,
  ContainerSetRequest,
  ContainerStartRequest,
  ContainerStateResponse,
} from "../gen/caisson/v1/container.ts";
import { codeOf } from "../lib/errors.ts";
import { configOf, imageOptionsOf, processOf, resourcesOf } from "./container-requests.ts";
import type { LibraryContainers } from "./library-containers.ts";

export async function createContainer(containers: LibraryContainers, request: ContainerCreateRequest): Promise<void> {
  (await Container.create(containers.stateDir, request.id, configOf(request)))[Symbol.dispose]();
}

/** Resolves with the pid. `release`: and lets it go at once. */
export async function startContainer(
  containers: LibraryContainers,
  request: ContainerStartRequest,
  release: boolean,
): Promise<number> {
  using container = await containers.load(request.id);
  const attachable = { stdin: request.stdin, stdinOnce: request.stdinOnce };
  const process = new Process({ ...processOf(request.process), attachable, init: true });
  await (release ? container.run(process) : container.start(process));
  return process.pid;
}

export async function setContainer(containers: LibraryContainers, { id, resources }: ContainerSetRequest): Promise<void> {
  using container = await containers.load(id);
  const config = container.config();
  const merged = mergeResources(config.cgroups?.resources ?? {}, resourcesOf(resources));
  await container.set({ ...config, cgroups: { ...config.cgroups, resources: merged } });
}

export async function stateOfContainer(containers: LibraryContainers, id: string): Promise<ContainerStateResponse> {
  using container = await containers.load(id);
  const ociState = JSON.stringify(await container.ociState());
  return { ociState, state: JSON.stringify(container.state()) };
}

/** One that is not there is success. */
export async function destroyContainer(containers: LibraryContainers, id: string): Promise<void> {
  let container: Container;
  try {
    container = await containers.load(id);
  } catch (error) {
    if (codeOf(error) === "not_found") return;
    throw error;
  }
  try {
    await container.destroy();
  } finally {
    container[Symbol.dispose]();
  }
}

export async function checkpointContainer(containers: LibraryContainers, request: ContainerCheckpointRequest): Promise<void> {
  using container = await containers.load(request.id);
  await container.checkpoint({ ...imageOptionsOf(request.images), leaveRunning: request.leaveRunning });
}

/** Resolves with the pid. */
export async function restoreContainer(containers: LibraryContainers, request: ContainerRestoreRequest): Promise<number> {
  using container = await containers.load(request.id);
  const process = new Process({ ...processOf(request.process), init: true });
  await container.restore(process, { ...imageOptionsOf(request.images), tcpClose: request.tcpClose });
  return process.pid;
}
