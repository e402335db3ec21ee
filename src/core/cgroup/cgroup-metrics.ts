/** What monitoring wants beyond cgroup-stats.ts (cri-semantics section 7), with the same one read per file. */
import type { CgroupMetrics, DeviceIo, HugepageUsage } from "../runtime.ts";
import {
  fromUs,
  type ReadFiles,
  readTexts,
  type StatsPlace,
  type StatsPlaces,
  statsFiles,
  statsOf,
  type TextOf,
  type WantedFiles,
} from "./cgroup-stats.ts";
import { devicesOf, devicesOfV1, fieldOf, numberOf } from "./stat-text.ts";

/** What the machine has to say besides cgroup files. */
export interface MetricsSources {
  /** Huge pages of the node, as "2MB". */
  readonly pageSizes: readonly string[];
  readonly read: ReadFiles;
  countDescriptors(pids: readonly number[]): Promise<{ readonly descriptors: number; readonly sockets: number }>;
  /** "/dev/sda" for 8:0. */
  deviceName(major: number, minor: number): Promise<string>;
}

/** undefined: there is no such cgroup. */
export async function readMetrics(
  places: StatsPlaces,
  sources: MetricsSources,
  nowNs: () => bigint,
): Promise<CgroupMetrics | undefined> {
  const { pageSizes, read } = sources;
  const textOf = await readTexts([...statsFiles(places), ...metricsFiles(places, pageSizes)], read);
  const stats = statsOf(places, textOf, nowNs());
  if (stats === undefined) return undefined;
  return {
    ...stats,
    ...cpuOf(places, textOf),
    ...memoryOf(places.memory, textOf),
    processLimit: numberOf(textOf(places.pids, "pids.max")),
    ...(await processesOf(textOf(places.pids ?? places.memory, "cgroup.procs"), sources)),
    devices: await named(places.io, textOf, sources),
    hugepages: pageSizes.flatMap((pageSize) => hugepagesOf(places.hugetlb, pageSize, textOf)),
  };
}

const ioBytesV1 = "blkio.throttle.io_service_bytes_recursive";
const ioOperationsV1 = "blkio.throttle.io_serviced_recursive";

function metricsFiles({ cpu, cpuacct, memory, pids, io, hugetlb }: StatsPlaces, pageSizes: readonly string[]): WantedFiles {
  const v1Memory = ["memory.max_usage_in_bytes", "memory.failcnt", "memory.kmem.usage_in_bytes", "memory.oom_control"];
  return [
    // On v2 everything of the CPU is in the one file that is read already.
    [cpuacct?.version === 1 ? cpuacct : undefined, ["cpuacct.stat"]],
    [cpu?.version === 1 ? cpu : undefined, ["cpu.stat"]],
    [memory, memory?.version === 1 ? v1Memory : ["memory.events", "memory.peak"]],
    [pids, ["pids.max"]],
    [pids ?? memory, ["cgroup.procs"]],
    [io, io?.version === 1 ? [ioBytesV1, ioOperationsV1] : ["io.stat"]],
    [hugetlb, pageSizes.flatMap((size) => Object.values(hugepageFiles(hugetlb, size)))],
  ];
}

/** USER_HZ: what the kernel tells user space, whatever its own tick is. */
const nsPerTick = 10_000_000n;

type CpuMetrics = Pick<CgroupMetrics, "cpuUserNs" | "cpuSystemNs" | "cpuPeriods" | "cpuThrottledPeriods" | "cpuThrottledNs">;

function cpuOf({ cpu, cpuacct }: StatsPlaces, textOf: TextOf): CpuMetrics {
  const quota = textOf(cpu, "cpu.stat");
  const throttling = { cpuPeriods: fieldOf(quota, "nr_periods"), cpuThrottledPeriods: fieldOf(quota, "nr_throttled") };
  if (cpuacct?.version === 1) {
    const ticks = (name: string): bigint | undefined => {
      const value = fieldOf(textOf(cpuacct, "cpuacct.stat"), name);
      return value === undefined ? undefined : value * nsPerTick;
    };
    return {
      cpuUserNs: ticks("user"),
      cpuSystemNs: ticks("system"),
      ...throttling,
      cpuThrottledNs: fieldOf(quota, "throttled_time"),
    };
  }
  const usage = textOf(cpuacct, "cpu.stat");
  return {
    cpuUserNs: fromUs(fieldOf(usage, "user_usec")),
    cpuSystemNs: fromUs(fieldOf(usage, "system_usec")),
    ...throttling,
    cpuThrottledNs: fromUs(fieldOf(quota, "throttled_usec")),
  };
}

type MemoryMetrics = Pick<
  CgroupMetrics,
  | "memoryCache"
  | "memoryMappedFile"
  | "memoryKernel"
  | "memoryPeak"
  | "memoryActiveFile"
  | "memoryInactiveFile"
  | "memoryLimitHits"
  | "memoryOwnPageFaults"
  | "memoryOwnMajorPageFaults"
  | "oomKills"
>;

function memoryOf(place: StatsPlace | undefined, textOf: TextOf): MemoryMetrics {
  const stat = textOf(place, "memory.stat");
  // v2 has no numbers of the cgroup alone; in v1 the plain names are those.
  const own = { memoryOwnPageFaults: fieldOf(stat, "pgfault"), memoryOwnMajorPageFaults: fieldOf(stat, "pgmajfault") };
  if (place?.version === 1) {
    return {
      memoryCache: fieldOf(stat, "total_cache"),
      memoryMappedFile: fieldOf(stat, "total_mapped_file"),
      memoryKernel: numberOf(textOf(place, "memory.kmem.usage_in_bytes")),
      memoryPeak: numberOf(textOf(place, "memory.max_usage_in_bytes")),
      memoryActiveFile: fieldOf(stat, "total_active_file"),
      memoryInactiveFile: fieldOf(stat, "total_inactive_file"),
      memoryLimitHits: numberOf(textOf(place, "memory.failcnt")),
      ...own,
      oomKills: fieldOf(textOf(place, "memory.oom_control"), "oom_kill"),
    };
  }
  const events = textOf(place, "memory.events");
  return {
    memoryCache: fieldOf(stat, "file"),
    memoryMappedFile: fieldOf(stat, "file_mapped"),
    // All of the kernel's memory since Linux 5.18, before that the largest part of it.
    memoryKernel: fieldOf(stat, "kernel") ?? fieldOf(stat, "kernel_stack"),
    memoryPeak: numberOf(textOf(place, "memory.peak")),
    memoryActiveFile: fieldOf(stat, "active_file"),
    memoryInactiveFile: fieldOf(stat, "inactive_file"),
    memoryLimitHits: fieldOf(events, "max"),
    ...own,
    oomKills: fieldOf(events, "oom_kill"),
  };
}

type ProcessMetrics = Pick<CgroupMetrics, "processes" | "descriptors" | "sockets" | "softOpenFiles">;

async function processesOf(text: string | undefined, { countDescriptors, read }: MetricsSources): Promise<ProcessMetrics> {
  // A process of another PID namespace reads as 0.
  const pids = (text ?? "")
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
  if (pids.length === 0) return { processes: 0n, descriptors: 0n, sockets: 0n, softOpenFiles: undefined };
  const [{ descriptors, sockets }, [limits]] = await Promise.all([countDescriptors(pids), read([`/proc/${pids[0]}/limits`])]);
  const [, soft] = /^Max open files +([0-9]+) /m.exec(limits ?? "") ?? [];
  return {
    processes: BigInt(pids.length),
    descriptors: BigInt(descriptors),
    sockets: BigInt(sockets),
    softOpenFiles: numberOf(soft),
  };
}

async function named(place: StatsPlace | undefined, textOf: TextOf, sources: MetricsSources): Promise<readonly DeviceIo[]> {
  const devices =
    place?.version === 1
      ? devicesOfV1(textOf(place, ioBytesV1), textOf(place, ioOperationsV1))
      : devicesOf(textOf(place, "io.stat"));
  return await Promise.all(
    devices.map(async (device) => ({ ...device, device: await sources.deviceName(device.major, device.minor) })),
  );
}

function hugepageFiles(place: StatsPlace | undefined, pageSize: string): { readonly usage: string; readonly peak?: string } {
  const prefix = `hugetlb.${pageSize}`;
  if (place?.version !== 1) return { usage: `${prefix}.current` };
  return { usage: `${prefix}.usage_in_bytes`, peak: `${prefix}.max_usage_in_bytes` };
}

function hugepagesOf(place: StatsPlace | undefined, pageSize: string, textOf: TextOf): readonly HugepageUsage[] {
  const files = hugepageFiles(place, pageSize);
  const usage = numberOf(textOf(place, files.usage));
  if (usage === undefined) return [];
  return [{ pageSize, usage, peak: files.peak === undefined ? undefined : numberOf(textOf(place, files.peak)) }];
}
