import type { CgroupStats } from "../core/runtime.ts";
import type { ContainerStats, ContainerStatsRequest, ContainerStatsResponse, UInt64Value } from "../gen/cri/v1/api.ts";
import { messageOf } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { writableLayerDir, writableLayersDir } from "./paths.ts";
import { visibleContainer } from "./queries.ts";
import type { ContainerRecord } from "./records.ts";

export async function containerStats(
  app: CriApp,
  _ctx: Context,
  request: ContainerStatsRequest,
): Promise<ContainerStatsResponse> {
  return { stats: await statsOf(app, visibleContainer(app, request.containerId)) };
}

/** Exited containers have attributes and the writable layer only. */
export async function statsOf(app: CriApp, record: ContainerRecord): Promise<ContainerStats> {
  const cgroup = mayHaveProcesses(record.phase) ? await readCgroup(app, record) : undefined;
  return {
    attributes: {
      id: record.id,
      metadata: record.config.metadata,
      labels: record.config.labels,
      annotations: record.config.annotations,
    },
    cpu: cgroup === undefined ? undefined : cpuOf(app, record.id, cgroup),
    memory: cgroup === undefined ? undefined : memoryOf(cgroup),
    swap: cgroup === undefined ? undefined : swapOf(cgroup),
    writableLayer: writableLayerOf(app, record),
    io: undefined,
  };
}

/** A container that ends meanwhile has no numbers; that is no error. */
async function readCgroup(app: CriApp, record: ContainerRecord): Promise<CgroupStats | undefined> {
  try {
    return await app.runtime.stats(record.cgroupsPath);
  } catch (error) {
    app.log.debug({ id: record.id, err: messageOf(error) }, "the container's cgroup could not be read");
    return undefined;
  }
}

const wrapped = (value: bigint | undefined): UInt64Value | undefined => (value === undefined ? undefined : { value });

function cpuOf(app: CriApp, id: string, cgroup: CgroupStats): ContainerStats["cpu"] {
  const { timestampNs, cpuUsageNs } = cgroup;
  if (cpuUsageNs === undefined) return undefined;
  return {
    timestamp: timestampNs,
    usageCoreNanoSeconds: { value: cpuUsageNs },
    usageNanoCores: wrapped(app.samples.nanoCores(id, timestampNs, cpuUsageNs)),
    psi: undefined,
  };
}

function memoryOf(cgroup: CgroupStats): ContainerStats["memory"] {
  return {
    timestamp: cgroup.timestampNs,
    workingSetBytes: wrapped(cgroup.memoryWorkingSet),
    availableBytes: wrapped(available(cgroup)),
    usageBytes: wrapped(cgroup.memoryUsage),
    rssBytes: wrapped(cgroup.memoryRss),
    pageFaults: wrapped(cgroup.memoryPageFaults),
    majorPageFaults: wrapped(cgroup.memoryMajorPageFaults),
    psi: undefined,
  };
}

/** Above it a v1 limit means none. */
const unlimited = 1n << 62n;

/** 0 without a limit, as other runtimes report it. */
function available({ memoryLimit, memoryWorkingSet }: CgroupStats): bigint | undefined {
  if (memoryWorkingSet === undefined) return undefined;
  if (memoryLimit === undefined || memoryLimit > unlimited) return 0n;
  return memoryLimit > memoryWorkingSet ? memoryLimit - memoryWorkingSet : 0n;
}

function swapOf({ timestampNs, swapUsage, swapLimit }: CgroupStats): ContainerStats["swap"] {
  if (swapUsage === undefined) return undefined;
  const left = swapLimit === undefined || swapLimit > unlimited ? undefined : swapLimit > swapUsage ? swapLimit - swapUsage : 0n;
  return { timestamp: timestampNs, swapUsageBytes: { value: swapUsage }, swapAvailableBytes: wrapped(left) };
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
