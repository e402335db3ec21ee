import { type ListPodSandboxRequest, type ListPodSandboxResponse, type PodSandbox, PodSandboxState } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { filterId, matchesLabels, visible } from "./queries.ts";
import type { SandboxRecord } from "./records.ts";

/** From memory. An id that fits nothing gives an empty list, not an error. */
export async function listPodSandbox(
  app: CriApp,
  _ctx: Context,
  request: ListPodSandboxRequest,
): Promise<ListPodSandboxResponse> {
  const filter = request.filter;
  const id = filterId(app.sandboxes, filter?.id ?? "");
  if (id === undefined) return { items: [] };
  const wanted = (record: SandboxRecord): boolean =>
    visible(record) &&
    (id === "any" || record.id === id) &&
    (filter?.state === undefined || filter.state.state === sandboxState(record)) &&
    matchesLabels(record.config.labels, filter?.labelSelector ?? {});
  return { items: app.sandboxes.all().filter(wanted).map(listed) };
}

export function sandboxState(record: SandboxRecord): PodSandboxState {
  return record.phase === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

function listed(record: SandboxRecord): PodSandbox {
  return {
    id: record.id,
    metadata: record.config.metadata,
    state: sandboxState(record),
    createdAt: record.createdAtNs,
    labels: record.config.labels,
    annotations: record.config.annotations,
    runtimeHandler: record.handler,
  };
}
