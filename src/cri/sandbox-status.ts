import type { PodSandboxStatus, PodSandboxStatusRequest, PodSandboxStatusResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { visibleSandbox } from "./queries.ts";
import type { SandboxRecord } from "./records.ts";
import { sandboxInfo } from "./sandbox-info.ts";
import { sandboxState } from "./sandbox-list.ts";

export async function podSandboxStatus(
  app: CriApp,
  _ctx: Context,
  request: PodSandboxStatusRequest,
): Promise<PodSandboxStatusResponse> {
  const record = visibleSandbox(app, request.podSandboxId);
  return {
    status: sandboxStatusView(record),
    info: request.verbose ? { info: sandboxInfo(app, record) } : {},
    containersStatuses: [],
    timestamp: app.clock.nowNs(),
  };
}

/** What clients are told of a sandbox. */
export function sandboxStatusView(record: SandboxRecord): PodSandboxStatus {
  // A stopped sandbox has no network: its addresses may be another's by now.
  const [ip = "", ...additional] = record.phase === "ready" ? record.ips : [];
  return {
    id: record.id,
    metadata: record.config.metadata,
    state: sandboxState(record),
    createdAt: record.createdAtNs,
    network: { ip, additionalIps: additional.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: record.config.linux?.securityContext?.namespaceOptions } },
    labels: record.config.labels,
    annotations: record.config.annotations,
    runtimeHandler: record.handler,
  };
}
