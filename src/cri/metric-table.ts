/**
 * The metrics of /metrics/cadvisor as data: names, labels and what each is read from (cri-semantics section 7). Descriptors and
 * values come from the same rows, so that no metric is without its descriptor.
 */
import type { CgroupMetrics, DeviceIo, DiskFacts, HugepageUsage, InterfaceCounters, Pressure } from "../core/runtime.ts";
import { type LinuxContainerResources, MetricType } from "../gen/cri/v1/api.ts";
import type { LayerUsage } from "./writable-layer-usage.ts";

/** What is known of one container or pod at one moment; undefined: nothing. */
export interface MetricSource {
  readonly nowNs: bigint;
  readonly createdAtNs: bigint;
  readonly cgroup: CgroupMetrics | undefined;
  readonly resources: LinuxContainerResources | undefined;
  readonly layer: LayerUsage | undefined;
  readonly disk: DiskFacts | undefined;
  readonly interfaces: readonly InterfaceCounters[];
}

export interface Sample {
  /** Values of the row's own labels. */
  readonly labels: readonly string[];
  readonly value: bigint;
  /** 0n: now. */
  readonly timestampNs: bigint;
}

export interface MetricRow {
  readonly name: string;
  readonly help: string;
  readonly type: MetricType;
  /** Labels besides those that every metric has. */
  readonly labels: readonly string[];
  readonly samples: (source: MetricSource) => readonly Sample[];
}

type Kind = "counter" | "gauge";
const types: Readonly<Record<Kind, MetricType>> = { counter: MetricType.COUNTER, gauge: MetricType.GAUGE };

interface Labelled {
  readonly labels: readonly string[];
  readonly value: bigint | undefined;
}

/** One row; what `read` gives no value for is left out. */
function row(
  kind: Kind,
  name: string,
  help: string,
  labels: readonly string[],
  read: (source: MetricSource) => { readonly atNs: bigint; readonly values: readonly Labelled[] } | undefined,
): MetricRow {
  const samples = (source: MetricSource): readonly Sample[] => {
    const reading = read(source);
    return (reading?.values ?? []).flatMap(({ labels: values, value }) =>
      value === undefined ? [] : [{ labels: values, value, timestampNs: reading?.atNs ?? 0n }],
    );
  };
  return { name: `container_${name}`, help, type: types[kind], labels, samples };
}

const plain = (value: bigint | undefined): readonly Labelled[] => [{ labels: [], value }];

/** From the cgroup. */
function ofCgroup(kind: Kind, name: string, help: string, read: (cgroup: CgroupMetrics) => bigint | undefined): MetricRow {
  return row(kind, name, help, [], ({ cgroup }) => cgroup && { atNs: cgroup.timestampNs, values: plain(read(cgroup)) });
}

/** Values are whole numbers: seconds lose their fractions, as with every other runtime. */
function seconds(ns: bigint | undefined): bigint | undefined {
  return ns === undefined ? undefined : ns / 1_000_000_000n;
}

function ofPressure(resource: "cpu" | "memory" | "io", kind: "some" | "full"): MetricRow {
  const [word, who] = kind === "some" ? ["waiting", "some tasks"] : ["stalled", "all tasks"];
  const read = (cgroup: CgroupMetrics): bigint | undefined => {
    const pressures: Readonly<Record<typeof resource, Pressure | undefined>> = {
      cpu: cgroup.cpuPressure,
      memory: cgroup.memoryPressure,
      io: cgroup.ioPressure,
    };
    return seconds(pressures[resource]?.[kind]?.totalNs);
  };
  return ofCgroup("counter", `pressure_${resource}_${word}_seconds_total`, `Time in which ${who} waited for ${resource}.`, read);
}

function ofNetwork(name: string, help: string, read: (counters: InterfaceCounters) => bigint): MetricRow {
  return row("counter", `network_${name}_total`, help, ["interface"], ({ nowNs, interfaces }) => ({
    atNs: nowNs,
    values: interfaces.map((counters) => ({ labels: [counters.name], value: read(counters) })),
  }));
}

function ofDevices(name: string, help: string, read: (device: DeviceIo) => bigint): MetricRow {
  return row("counter", name, help, ["device"], ({ cgroup }) =>
    cgroup === undefined
      ? undefined
      : { atNs: cgroup.timestampNs, values: cgroup.devices.map((io) => ({ labels: [io.device], value: read(io) })) },
  );
}

function ofDisk(name: string, help: string, read: (disk: DiskFacts) => bigint): MetricRow {
  // The filesystem is the container's through its writable layer; a pod has none.
  return row("gauge", name, help, ["device"], ({ nowNs, disk, layer }) =>
    disk === undefined || layer === undefined
      ? undefined
      : { atNs: nowNs, values: [{ labels: [disk.device], value: read(disk) }] },
  );
}

function ofHugepages(name: string, help: string, read: (usage: HugepageUsage) => bigint | undefined): MetricRow {
  return row("gauge", name, help, ["pagesize"], ({ cgroup }) =>
    cgroup === undefined
      ? undefined
      : { atNs: cgroup.timestampNs, values: cgroup.hugepages.map((usage) => ({ labels: [usage.pageSize], value: read(usage) })) },
  );
}

function ofResources(name: string, help: string, read: (resources: LinuxContainerResources) => bigint): MetricRow {
  return row("gauge", name, help, [], ({ nowNs, resources }) => {
    if (resources === undefined) return undefined;
    const value = read(resources);
    return { atNs: nowNs, values: plain(value < 0n ? undefined : value) };
  });
}

const blkioOperations = ["Read", "Write", "Total"] as const;

function blkio(io: DeviceIo): readonly Labelled[] {
  const bytes = { Read: io.readBytes, Write: io.writeBytes, Total: io.readBytes + io.writeBytes };
  return blkioOperations.map((operation) => ({
    labels: [io.device, String(io.major), String(io.minor), operation],
    value: bytes[operation],
  }));
}

function faults(cgroup: CgroupMetrics): readonly Labelled[] {
  return [
    { labels: ["pgfault", "container"], value: cgroup.memoryOwnPageFaults },
    { labels: ["pgfault", "hierarchy"], value: cgroup.memoryPageFaults },
    { labels: ["pgmajfault", "container"], value: cgroup.memoryOwnMajorPageFaults },
    { labels: ["pgmajfault", "hierarchy"], value: cgroup.memoryMajorPageFaults },
  ];
}

/** memory.low of cgroup v2, where the kubelet sets it. */
function reservation({ unified }: LinuxContainerResources): bigint {
  const text = unified["memory.low"] ?? "";
  return /^[0-9]+$/.test(text) ? BigInt(text) : 0n;
}

export const metricTable: readonly MetricRow[] = [
  row("gauge", "last_seen", "Last time that the container was seen, seconds since the epoch.", [], ({ nowNs }) => ({
    atNs: nowNs,
    values: plain(seconds(nowNs)),
  })),
  row("gauge", "start_time_seconds", "When it was made, seconds since the epoch.", [], ({ nowNs, createdAtNs }) => ({
    atNs: nowNs,
    values: plain(seconds(createdAtNs)),
  })),

  ofCgroup("counter", "cpu_user_seconds_total", "CPU time in user mode.", (c) => seconds(c.cpuUserNs)),
  ofCgroup("counter", "cpu_system_seconds_total", "CPU time in the kernel.", (c) => seconds(c.cpuSystemNs)),
  row("counter", "cpu_usage_seconds_total", "CPU time.", ["cpu"], ({ cgroup }) =>
    cgroup === undefined
      ? undefined
      : { atNs: cgroup.timestampNs, values: [{ labels: ["total"], value: seconds(cgroup.cpuUsageNs) }] },
  ),
  ofCgroup("counter", "cpu_cfs_periods_total", "Periods of the CPU quota that have gone by.", (c) => c.cpuPeriods),
  ofCgroup("counter", "cpu_cfs_throttled_periods_total", "Periods in which the quota was used up.", (c) => c.cpuThrottledPeriods),
  ofCgroup("counter", "cpu_cfs_throttled_seconds_total", "Time in which tasks were throttled.", (c) => seconds(c.cpuThrottledNs)),

  ofCgroup("gauge", "memory_usage_bytes", "Memory in use, with caches.", (c) => c.memoryUsage),
  ofCgroup("gauge", "memory_working_set_bytes", "Memory in use without inactive file pages.", (c) => c.memoryWorkingSet),
  ofCgroup("gauge", "memory_rss", "Anonymous memory.", (c) => c.memoryRss),
  ofCgroup("gauge", "memory_cache", "Page cache.", (c) => c.memoryCache),
  ofCgroup("gauge", "memory_mapped_file", "Files mapped into memory.", (c) => c.memoryMappedFile),
  ofCgroup("gauge", "memory_swap", "Swap in use.", (c) => c.swapUsage),
  ofCgroup("gauge", "memory_kernel_usage", "Memory of the kernel for it.", (c) => c.memoryKernel),
  ofCgroup("gauge", "memory_max_usage_bytes", "Most memory that was in use.", (c) => c.memoryPeak),
  ofCgroup("counter", "memory_failcnt", "How often the memory limit was hit.", (c) => c.memoryLimitHits),
  ofCgroup("gauge", "memory_total_active_file_bytes", "Active file pages.", (c) => c.memoryActiveFile),
  ofCgroup("gauge", "memory_total_inactive_file_bytes", "Inactive file pages.", (c) => c.memoryInactiveFile),
  row("counter", "memory_failures_total", "Page faults.", ["failure_type", "scope"], ({ cgroup }) =>
    cgroup === undefined ? undefined : { atNs: cgroup.timestampNs, values: faults(cgroup) },
  ),
  ofCgroup("counter", "oom_events_total", "Processes killed for want of memory.", (c) => c.oomKills),

  ofNetwork("receive_bytes", "Bytes received.", (n) => n.rxBytes),
  ofNetwork("receive_packets", "Packets received.", (n) => n.rxPackets),
  ofNetwork("receive_packets_dropped", "Packets dropped while receiving.", (n) => n.rxDropped),
  ofNetwork("receive_errors", "Errors while receiving.", (n) => n.rxErrors),
  ofNetwork("transmit_bytes", "Bytes sent.", (n) => n.txBytes),
  ofNetwork("transmit_packets", "Packets sent.", (n) => n.txPackets),
  ofNetwork("transmit_packets_dropped", "Packets dropped while sending.", (n) => n.txDropped),
  ofNetwork("transmit_errors", "Errors while sending.", (n) => n.txErrors),

  row("gauge", "fs_usage_bytes", "Bytes in the writable layer.", ["device"], ({ disk, layer }) =>
    disk === undefined || layer === undefined
      ? undefined
      : { atNs: layer.timestampNs, values: [{ labels: [disk.device], value: layer.usedBytes }] },
  ),
  ofDisk("fs_limit_bytes", "Size of the filesystem.", (d) => d.bytes),
  ofDisk("fs_inodes_total", "Inodes of the filesystem.", (d) => d.inodes),
  ofDisk("fs_inodes_free", "Free inodes of the filesystem.", (d) => d.inodesFree),
  ofDevices("fs_reads_total", "Reads from the device.", (d) => d.reads),
  ofDevices("fs_writes_total", "Writes to the device.", (d) => d.writes),
  ofDevices("fs_reads_bytes_total", "Bytes read from the device.", (d) => d.readBytes),
  ofDevices("fs_writes_bytes_total", "Bytes written to the device.", (d) => d.writeBytes),
  row("counter", "blkio_device_usage_total", "Bytes by device and operation.", ["device", "major", "minor", "operation"], (s) =>
    s.cgroup === undefined ? undefined : { atNs: s.cgroup.timestampNs, values: s.cgroup.devices.flatMap(blkio) },
  ),

  ofCgroup("gauge", "processes", "Processes.", (c) => c.processes),
  ofCgroup("gauge", "threads", "Threads.", (c) => c.processCount),
  ofCgroup("gauge", "threads_max", "Most threads that there may be; 0: no limit.", (c) => c.processLimit ?? 0n),
  ofCgroup("gauge", "file_descriptors", "Open descriptors.", (c) => c.descriptors),
  ofCgroup("gauge", "sockets", "Open sockets.", (c) => c.sockets),
  row("gauge", "ulimits_soft", "Soft limits of the first process.", ["ulimit"], ({ cgroup }) =>
    cgroup === undefined
      ? undefined
      : { atNs: cgroup.timestampNs, values: [{ labels: ["max_open_files"], value: cgroup.softOpenFiles }] },
  ),

  ofResources("spec_cpu_period", "Period of the CPU quota, microseconds.", (r) => r.cpuPeriod),
  ofResources("spec_cpu_quota", "CPU quota in each period, microseconds; absent without a limit.", (r) => r.cpuQuota || -1n),
  ofResources("spec_cpu_shares", "CPU shares.", (r) => r.cpuShares),
  ofResources("spec_memory_limit_bytes", "Memory limit; 0: none.", (r) => r.memoryLimitInBytes),
  ofResources("spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0: none.", (r) => r.memorySwapLimitInBytes),
  ofResources("spec_memory_reservation_limit_bytes", "Memory that is protected; 0: none.", reservation),

  ofPressure("cpu", "some"),
  ofPressure("cpu", "full"),
  ofPressure("memory", "some"),
  ofPressure("memory", "full"),
  ofPressure("io", "some"),
  ofPressure("io", "full"),
  ofHugepages("hugetlb_usage_bytes", "Huge pages in use.", (h) => h.usage),
  ofHugepages("hugetlb_max_usage_bytes", "Most huge pages that were in use.", (h) => h.peak),
];
