import { type Container, ContainerState, type ListContainersRequest, type ListContainersResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import type { ContainerPhase } from "./container-state.ts";
import { filterId, matchesLabels, visible } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";

/** From memory. An id that fits nothing gives an empty list, not an error. */
export async function listContainers(
  app: CriApp,
  _ctx: Context,
  request: ListContainersRequest,
): Promise<ListContainersResponse> {
  const filter = request.filter;
  const wantedState = filter?.state?.state;
  const fitting = selectContainers(app, filter?.id ?? "", filter?.podSandboxId ?? "", filter?.labelSelector ?? {});
  const inState = fitting.filter((record) => wantedState === undefined || containerState(record.phase) === wantedState);
  return { containers: inState.map(listed) };
}

/** The part of a filter that lists and stats share. */
export function selectContainers(
  app: CriApp,
  idOrPrefix: string,
  podIdOrPrefix: string,
  labels: Readonly<Record<string, string>>,
): readonly ContainerRecord[] {
  const id = filterId(app.containers, idOrPrefix);
  const podId = filterId(app.sandboxes, podIdOrPrefix);
  if (id === undefined || podId === undefined) return [];
  return app.containers
    .all()
    .filter(
      (record) =>
        visible(record) &&
        (id === "any" || record.id === id) &&
        (podId === "any" || record.podId === podId) &&
        matchesLabels(record.config.labels, labels),
    );
}

const states: Readonly<Record<ContainerPhase, ContainerState>> = {
  creating: ContainerState.CONTAINER_CREATED,
  created: ContainerState.CONTAINER_CREATED,
  starting: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  unknown: ContainerState.CONTAINER_UNKNOWN,
  exited: ContainerState.CONTAINER_EXITED,
  removing: ContainerState.CONTAINER_EXITED,
};

export function containerState(phase: ContainerPhase): ContainerState {
  return states[phase];
}

function listed(record: ContainerRecord): Container {
  return {
    id: record.id,
    podSandboxId: record.podId,
    metadata: record.config.metadata,
    image: record.config.image,
    imageRef: record.imageRef,
    state: containerState(record.phase),
    createdAt: record.createdAtNs,
    labels: record.config.labels,
    annotations: record.config.annotations,
    imageId: record.imageId,
  };
}
