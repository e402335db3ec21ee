import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CgroupMetrics, CgroupStats } from "../../../src/core/runtime.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { commonLabels, listMetricDescriptors } from "../../../src/cri/metric-descriptors.ts";
import { listPodSandboxMetrics } from "../../../src/cri/sandbox-metrics.ts";
import { streamPodSandboxMetrics } from "../../../src/cri/sandbox-metrics-stream.ts";
import { podSandboxStats } from "../../../src/cri/sandbox-stats.ts";
import { listPodSandboxStats } from "../../../src/cri/sandbox-stats-list.ts";
import { streamPodSandboxStats } from "../../../src/cri/sandbox-stats-stream.ts";
import { stopPodSandbox } from "../../../src/cri/sandbox-stop.ts";
import {
  type Metric,
  MetricType,
  NamespaceMode,
  type PodSandboxMetrics,
  type PodSandboxStats,
  PodSandboxStatsFilter,
} from "../../../src/gen/cri/v1/api.ts";
import { ctx, FakeNode, failure } from "./fake/fake-node.ts";

const line = (totalNs: bigint) => ({ avg10: 1.5, avg60: 0, avg300: 0, totalNs });
const stats: CgroupStats = {
  timestampNs: 10n,
  cpuUsageNs: 5_900_000_000n,
  memoryUsage: 100n,
  memoryWorkingSet: 60n,
  memoryLimit: 200n,
  memoryRss: 50n,
  memoryPageFaults: 30n,
  memoryMajorPageFaults: 10n,
  swapUsage: 7n,
  swapLimit: 20n,
  processCount: 4n,
  cpuPressure: { some: line(3_000_000_000n), full: undefined },
  memoryPressure: undefined,
  ioPressure: { some: line(2n), full: line(1n) },
};
const metrics: CgroupMetrics = {
  ...stats,
  cpuUserNs: 4_999_999_999n,
  cpuSystemNs: 900_000_000n,
  cpuPeriods: 1n,
  cpuThrottledPeriods: 2n,
  cpuThrottledNs: 3_000_000_000n,
  memoryCache: 4n,
  memoryMappedFile: 5n,
  memoryKernel: 6n,
  memoryPeak: undefined,
  memoryActiveFile: 7n,
  memoryInactiveFile: 8n,
  memoryLimitHits: 9n,
  memoryOwnPageFaults: 3n,
  memoryOwnMajorPageFaults: 1n,
  oomKills: 2n,
  processLimit: undefined,
  processes: 3n,
  descriptors: 11n,
  sockets: 2n,
  softOpenFiles: 1024n,
  devices: [{ device: "/dev/sda", major: 8, minor: 0, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n }],
  hugepages: [{ pageSize: "2MB", usage: 5n, peak: 6n }],
};
const eth = (name: string, base: bigint) => ({
  name,
  rxBytes: base + 1n,
  rxPackets: base + 2n,
  rxErrors: base + 3n,
  rxDropped: base + 4n,
  txBytes: base + 5n,
  txPackets: base + 6n,
  txErrors: base + 7n,
  txDropped: base + 8n,
});

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
  node.runtime.statsOf = () => stats;
  node.runtime.metricsOf = () => metrics;
  node.runtime.interfaces = [eth("net1", 100n), eth("eth0", 0n)];
});
afterEach(() => node[Symbol.dispose]());

const second = { metadata: { name: "b", namespace: "other", uid: "u-2", attempt: 0 }, labels: { app: "b" } };

describe("PodSandboxStats", () => {
  const of = async (podSandboxId: string): Promise<PodSandboxStats | undefined> =>
    (await podSandboxStats(node.app, ctx(), { podSandboxId })).stats;

  it("reads the pod's own cgroup, and has its living containers inside", async () => {
    const asked: string[] = [];
    node.runtime.statsOf = (path) => {
      asked.push(path);
      return stats;
    };
    const pod = await node.pod();
    const id = await node.running(pod);
    const ended = await node.running(pod, { metadata: { name: "ended", attempt: 0 } });
    await stopContainer(node.app, ctx(), { containerId: ended, timeout: 0n });
    const found = await of(pod.slice(0, 12));
    expect(asked).toEqual(["/kubepods/pod-u1", `/kubepods/pod-u1/${id}`]);
    expect(found?.attributes).toMatchObject({ id: pod, metadata: { name: "web" }, labels: { app: "web" } });
    expect(found?.linux).toMatchObject({
      cpu: {
        timestamp: 10n,
        usageCoreNanoSeconds: { value: 5_900_000_000n },
        psi: { Some: { Total: 3_000_000_000n, Avg10: 1.5 }, Full: undefined },
      },
      memory: { workingSetBytes: { value: 60n }, availableBytes: { value: 140n } },
      process: { timestamp: 10n, processCount: { value: 4n } },
      io: { psi: { Full: { Total: 1n } } },
      containers: [{ attributes: { id }, swap: { swapUsageBytes: { value: 7n }, swapAvailableBytes: { value: 13n } } }],
    });
    expect(found?.linux?.containers).toHaveLength(1);
  });

  it("has every interface, eth0 as the default one, or the first", async () => {
    const pod = await node.pod();
    const found = await of(pod);
    expect(found?.linux?.network?.timestamp).toBeGreaterThan(0n);
    expect(found?.linux?.network?.interfaces.map(({ name }) => name)).toEqual(["net1", "eth0"]);
    expect(found?.linux?.network?.defaultInterface).toEqual({
      name: "eth0",
      rxBytes: { value: 1n },
      rxErrors: { value: 3n },
      txBytes: { value: 5n },
      txErrors: { value: 7n },
    });
    node.runtime.interfaces = [eth("net1", 100n)];
    expect((await of(pod))?.linux?.network?.defaultInterface?.name).toBe("net1");
  });

  it("has no network on the node's network, or when the counters cannot be read", async () => {
    const options = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER };
    const host = await node.pod({ ...second, linux: { securityContext: { namespaceOptions: options } } });
    expect((await of(host))?.linux?.network).toBeUndefined();
    const pod = await node.pod();
    node.runtime.fail("networkCounters");
    const found = await of(pod);
    expect(found?.linux?.network).toBeUndefined();
    expect(found?.linux?.cpu).toBeDefined();
  });

  it("is unavailable for a pod that is not ready, and not_found for none", async () => {
    const pod = await node.pod();
    await stopPodSandbox(node.app, ctx(), { podSandboxId: pod });
    expect(await failure(of(pod))).toMatchObject({ code: "unavailable" });
    expect(await failure(of("f".repeat(64)))).toMatchObject({ code: "not_found" });
  });

  it("lists ready pods by filter, and streams the same", async () => {
    const a = await node.pod();
    const b = await node.pod(second);
    const stopped = await node.pod({ ...second, metadata: { ...second.metadata, name: "c" } });
    await stopPodSandbox(node.app, ctx(), { podSandboxId: stopped });
    const ids = async (partial: Parameters<typeof PodSandboxStatsFilter.fromPartial>[0]): Promise<unknown[]> => {
      const filter = PodSandboxStatsFilter.fromPartial(partial);
      const listed = (await listPodSandboxStats(node.app, ctx(), { filter })).stats.map((item) => item.attributes?.id).sort();
      const streamed: unknown[] = [];
      await streamPodSandboxStats(node.app, ctx(), { filter }, async ({ podSandboxStats: chunk }) => {
        streamed.push(...chunk.map((item) => item.attributes?.id));
      });
      expect(streamed.sort()).toEqual(listed);
      return listed;
    };
    expect(await ids({})).toEqual([a, b].sort());
    expect(await ids({ id: a.slice(0, 20) })).toEqual([a]);
    expect(await ids({ labelSelector: { app: "b" } })).toEqual([b]);
    expect(await ids({ id: "none" })).toEqual([]);
  });

  it("of a hundred pods reads each cgroup once", async () => {
    const asked: string[] = [];
    node.runtime.statsOf = (path) => {
      asked.push(path);
      return stats;
    };
    for (let i = 0; i < 30; i++) {
      const pod = await node.pod({
        metadata: { name: `p${i}`, namespace: "default", uid: `u${i}`, attempt: 0 },
        linux: { cgroupParent: `/kubepods/p${i}` },
      });
      for (const name of ["x", "y"]) await node.running(pod, { metadata: { name, attempt: 0 } });
    }
    const reply = await listPodSandboxStats(node.app, ctx(), { filter: undefined });
    expect(reply.stats).toHaveLength(30);
    expect(asked).toHaveLength(90);
    expect(new Set(asked).size).toBe(90);
  });
});

describe("metrics", () => {
  const list = async (): Promise<PodSandboxMetrics[]> => (await listPodSandboxMetrics(node.app, ctx(), {})).podMetrics;
  const descriptorOf = async (): Promise<ReadonlyMap<string, readonly string[]>> =>
    new Map((await listMetricDescriptors(node.app, ctx(), {})).descriptors.map(({ name, labelKeys }) => [name, labelKeys]));
  /** As a monitoring system shows it: labels by key. */
  const shown = (found: readonly Metric[], keys: ReadonlyMap<string, readonly string[]>, name: string) =>
    found
      .filter((metric) => metric.name === name)
      .map((metric) => ({
        ...Object.fromEntries(
          (keys.get(name) ?? []).slice(commonLabels.length).map((key, i) => [key, metric.labelValues[5 + i]]),
        ),
        value: metric.value?.value,
      }));

  it("each have a descriptor with as many keys as they have values", async () => {
    const pod = await node.pod();
    await node.running(pod, { linux: { resources: { cpuShares: 512n, memoryLimitInBytes: 1n << 20n, cpuQuota: 5000n } } });
    const keys = await descriptorOf();
    const [found] = await list();
    const all = [...(found?.metrics ?? []), ...(found?.containerMetrics.flatMap((item) => item.metrics) ?? [])];
    expect(all.length).toBeGreaterThan(100);
    for (const metric of all) {
      expect(metric.labelValues).toHaveLength(keys.get(metric.name)?.length ?? -1);
      expect(metric.value).toBeDefined();
    }
    expect(new Set(keys.keys()).size).toBe(keys.size);
    // What has no sample in this test: there is no peak, and a pod's memory pressure is unknown.
    const seen = new Set(all.map(({ name }) => name));
    expect([...keys.keys()].filter((name) => !seen.has(name))).toEqual([
      "container_memory_max_usage_bytes",
      "container_pressure_cpu_stalled_seconds_total",
      "container_pressure_memory_waiting_seconds_total",
      "container_pressure_memory_stalled_seconds_total",
    ]);
  });

  it("are named and labelled as cAdvisor's", async () => {
    const pod = await node.pod();
    const id = await node.running(pod, { image: { image: "busybox", userSpecifiedImage: "docker.io/library/busybox:1" } });
    const keys = await descriptorOf();
    const [found] = await list();
    expect(found?.podSandboxId).toBe(pod);
    const container = found?.containerMetrics[0];
    expect(container?.containerId).toBe(id);
    const of = (name: string) => shown(container?.metrics ?? [], keys, name);
    expect(container?.metrics[0]?.labelValues).toEqual([
      "web",
      "default",
      "main",
      `/kubepods/pod-u1/${id}`,
      "docker.io/library/busybox:1",
    ]);
    expect(found?.metrics[0]?.labelValues).toEqual(["web", "default", "", "/kubepods/pod-u1", ""]);
    expect(of("container_cpu_usage_seconds_total")).toEqual([{ cpu: "total", value: 5n }]);
    expect(of("container_cpu_user_seconds_total")).toEqual([{ value: 4n }]);
    expect(of("container_memory_working_set_bytes")).toEqual([{ value: 60n }]);
    expect(of("container_memory_failures_total")).toEqual([
      { failure_type: "pgfault", scope: "container", value: 3n },
      { failure_type: "pgfault", scope: "hierarchy", value: 30n },
      { failure_type: "pgmajfault", scope: "container", value: 1n },
      { failure_type: "pgmajfault", scope: "hierarchy", value: 10n },
    ]);
    expect(of("container_fs_limit_bytes")).toEqual([{ device: "/dev/sda1", value: 1000n }]);
    expect(of("container_fs_usage_bytes")).toEqual([{ device: "/dev/sda1", value: 0n }]);
    expect(of("container_blkio_device_usage_total")).toContainEqual({
      device: "/dev/sda",
      major: "8",
      minor: "0",
      operation: "Total",
      value: 3n,
    });
    expect(of("container_ulimits_soft")).toEqual([{ ulimit: "max_open_files", value: 1024n }]);
    expect(of("container_threads_max")).toEqual([{ value: 0n }]);
    expect(of("container_network_receive_bytes_total")).toEqual([]);
    expect(shown(found?.metrics ?? [], keys, "container_network_receive_bytes_total")).toEqual([
      { interface: "net1", value: 101n },
      { interface: "eth0", value: 1n },
    ]);
    const type = (name: string) => container?.metrics.find((metric) => metric.name === name)?.metricType;
    expect(type("container_cpu_usage_seconds_total")).toBe(MetricType.COUNTER);
    expect(type("container_memory_usage_bytes")).toBe(MetricType.GAUGE);
  });

  it("are of ready pods and living containers only, and the stream has the same", async () => {
    const pod = await node.pod();
    const stopped = await node.pod(second);
    await stopPodSandbox(node.app, ctx(), { podSandboxId: stopped });
    const ended = await node.running(pod);
    await stopContainer(node.app, ctx(), { containerId: ended, timeout: 0n });
    const found = await list();
    expect(found.map(({ podSandboxId }) => podSandboxId)).toEqual([pod]);
    expect(found[0]?.containerMetrics).toEqual([]);
    const streamed: string[] = [];
    await streamPodSandboxMetrics(node.app, ctx(), {}, async ({ podSandboxMetrics }) => {
      streamed.push(...podSandboxMetrics.map(({ podSandboxId }) => podSandboxId));
    });
    expect(streamed).toEqual([pod]);
  });

  it("leave out what cannot be read", async () => {
    const pod = await node.pod();
    await node.running(pod);
    node.runtime.fail("metrics");
    node.runtime.fail("networkCounters");
    const [found] = await list();
    const names = found?.containerMetrics[0]?.metrics.map(({ name }) => name);
    expect(names).toContain("container_start_time_seconds");
    expect(names).not.toContain("container_memory_usage_bytes");
  });
});
