import type { ContainerStatus, ContainerStatusRequest, ContainerStatusResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { containerState } from "./container-list.ts";
import { infoText, messageJson } from "./info-json.ts";
import { visibleContainer } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";
import { signalEnum } from "./signal-enum.ts";

export async function containerStatus(
  app: CriApp,
  _ctx: Context,
  request: ContainerStatusRequest,
): Promise<ContainerStatusResponse> {
  const record = visibleContainer(app, request.containerId);
  return { status: containerStatusView(record), info: request.verbose ? { info: await infoOf(app, record) } : {} };
}

/** What clients are told of a container. */
export function containerStatusView(record: ContainerRecord): ContainerStatus {
  const { config, exit, user } = record;
  const resources = config.linux?.resources;
  return {
    id: record.id,
    metadata: config.metadata,
    state: containerState(record.phase),
    createdAt: record.createdAtNs,
    startedAt: record.startedAtNs,
    finishedAt: exit?.finishedAtNs ?? 0n,
    exitCode: exit?.exitCode ?? 0,
    image: {
      image: record.imageName,
      annotations: config.image?.annotations ?? {},
      userSpecifiedImage: config.image?.userSpecifiedImage ?? "",
      runtimeHandler: config.image?.runtimeHandler ?? "",
      imageRef: config.image?.imageRef ?? "",
    },
    imageRef: record.imageRef,
    reason: exit?.reason ?? "",
    message: exit?.message ?? "",
    labels: config.labels,
    annotations: config.annotations,
    mounts: [...record.mounts],
    logPath: record.logPath ?? "",
    resources: resources === undefined ? undefined : { linux: resources, windows: undefined },
    imageId: record.imageId,
    user: {
      linux: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: user.supplementalGroups.map(BigInt) },
    },
    stopSignal: signalEnum(record.stopSignal),
  };
}

/** With the names that node agents look for (containerd's). */
async function infoOf(app: CriApp, record: ContainerRecord): Promise<string> {
  return infoText({
    sandboxID: record.podId,
    pid: record.phase === "running" || record.phase === "created" ? (record.process?.pid ?? 0) : 0,
    removing: record.phase === "removing",
    snapshotKey: record.id,
    snapshotter: "overlay",
    runtimeType: "caisson",
    runtimeOptions: null,
    config: messageJson(record.config),
    runtimeSpec: (await app.specs.read(record)) ?? null,
    phase: record.phase,
    cgroupsPath: record.cgroupsPath,
    timeline: app.store.timeline(record.id),
  });
}
