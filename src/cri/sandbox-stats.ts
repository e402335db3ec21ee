import type { NetworkUsage, PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatsResponse } from "../gen/cri/v1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";
import { mayHaveProcesses } from "./container-state.ts";
import { readCgroup, statsOf } from "./container-stats.ts";
import { containersOf, visible, visibleSandbox } from "./queries.ts";
import type { SandboxRecord } from "./records.ts";
import { cpuUsage, ioUsage, memoryUsage, networkUsage, processUsage } from "./usage-views.ts";

export async function podSandboxStats(
  app: CriApp,
  _ctx: Context,
  request: PodSandboxStatsRequest,
): Promise<PodSandboxStatsResponse> {
  const record = visibleSandbox(app, request.podSandboxId);
  if (record.phase === "ready") return { stats: await sandboxStatsOf(app, record) };
  throw new RuntimeError("unavailable", `pod sandbox ${record.id} is not ready: it has no statistics`, { id: record.id });
}

/** From the pod's own cgroup, which holds all of its containers, and from its network namespace. */
export async function sandboxStatsOf(app: CriApp, record: SandboxRecord): Promise<PodSandboxStats> {
  const alive = containersOf(app, record.id).filter((container) => visible(container) && mayHaveProcesses(container.phase));
  const [cgroup, network, containers] = await Promise.all([
    readCgroup(app, record.id, record.translation.cgroupParent),
    readNetwork(app, record),
    Promise.all(alive.map((container) => statsOf(app, container))),
  ]);
  return {
    attributes: {
      id: record.id,
      metadata: record.config.metadata,
      labels: record.config.labels,
      annotations: record.config.annotations,
    },
    linux: {
      cpu: cgroup === undefined ? undefined : cpuUsage(app.samples, record.id, cgroup),
      memory: cgroup === undefined ? undefined : memoryUsage(cgroup),
      network,
      process: cgroup === undefined ? undefined : processUsage(cgroup),
      containers,
      io: cgroup === undefined ? undefined : ioUsage(cgroup),
    },
    windows: undefined,
  };
}

/** Absent for the node's network, and for a pod that is just ending. */
async function readNetwork(app: CriApp, record: SandboxRecord): Promise<NetworkUsage | undefined> {
  try {
    const interfaces = await app.pods.get(record.id)?.networkCounters();
    return interfaces === undefined ? undefined : networkUsage(app.clock.nowNs(), interfaces);
  } catch (error) {
    app.log.debug({ id: record.id, err: messageOf(error) }, "a pod's network counters could not be read");
    return undefined;
  }
}
