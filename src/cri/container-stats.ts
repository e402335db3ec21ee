import type { CgroupStats } from "../core/runtime.ts";
import type { ContainerStats, ContainerStatsRequest, ContainerStatsResponse } from "../gen/cri/v1/api.ts";
import { messageOf } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { writableLayerDir, writableLayersDir } from "./paths.ts";
import { visibleContainer } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";
import { cpuUsage, ioUsage, memoryUsage, swapUsage } from "./usage-views.ts";

export async function containerStats(
  app: CriApp,
  _ctx: Context,
  request: ContainerStatsRequest,
): Promise<ContainerStatsResponse> {
  return { stats: await statsOf(app, visibleContainer(app, request.containerId)) };
}

/** Exited containers have attributes and the writable layer only. */
export async function statsOf(app: CriApp, record: ContainerRecord): Promise<ContainerStats> {
  const cgroup = mayHaveProcesses(record.phase) ? await readCgroup(app, record.id, record.cgroupsPath) : undefined;
  return {
    attributes: {
      id: record.id,
      metadata: record.config.metadata,
      labels: record.config.labels,
      annotations: record.config.annotations,
    },
    cpu: cgroup === undefined ? undefined : cpuUsage(app.samples, record.id, cgroup),
    memory: cgroup === undefined ? undefined : memoryUsage(cgroup),
    swap: cgroup === undefined ? undefined : swapUsage(cgroup),
    io: cgroup === undefined ? undefined : ioUsage(cgroup),
    writableLayer: writableLayerOf(app, record),
  };
}

/** A container or pod that ends meanwhile has no numbers; that is no error. */
export async function readCgroup(app: CriApp, id: string, cgroupsPath: string): Promise<CgroupStats | undefined> {
  try {
    return await app.runtime.stats(cgroupsPath);
  } catch (error) {
    app.log.debug({ id, err: messageOf(error) }, "a cgroup could not be read");
    return undefined;
  }
}

function writableLayerOf(app: CriApp, record: ContainerRecord): ContainerStats["writableLayer"] {
  const usage = app.writableLayers.read(record.id, writableLayerDir(app.config, record.id));
  if (usage === undefined) return undefined;
  return {
    timestamp: usage.timestampNs,
    fsId: { mountpoint: writableLayersDir(app.config) },
    usedBytes: { value: usage.usedBytes },
    inodesUsed: { value: usage.inodesUsed },
  };
}
