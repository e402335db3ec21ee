/** Statistics in the shape of `runc events`: what is not known is left out. Times in nanoseconds, sizes in bytes. */
import type { ContainerStats } from "../../core/library/public.ts";

type Tree = { readonly [name: string]: unknown };

export function eventData({ cgroup, detail, interfaces }: ContainerStats): Tree {
  return {
    cpu: {
      usage: {
        total: cgroup.cpuUsageNs,
        kernel: cgroup.cpuSystemNs,
        user: cgroup.cpuUserNs,
        ...(detail.processors.length === 0 ? {} : perProcessor(detail)),
      },
      throttling: {
        periods: cgroup.cpuPeriods,
        throttledPeriods: cgroup.cpuThrottledPeriods,
        throttledTime: cgroup.cpuThrottledNs,
      },
      psi: cgroup.cpuPressure,
    },
    cpuset: detail.cpuset,
    memory: {
      cache: cgroup.memoryCache,
      usage: {
        limit: cgroup.memoryLimit,
        usage: cgroup.memoryUsage,
        max: cgroup.memoryPeak,
        failcnt: cgroup.memoryLimitHits,
      },
      swap: { limit: cgroup.swapLimit, usage: cgroup.swapUsage },
      kernel: { usage: cgroup.memoryKernel },
      raw: detail.memory,
      psi: cgroup.memoryPressure,
    },
    pids: { current: cgroup.processCount, limit: cgroup.processLimit },
    blkio: {
      ioServiceBytesRecursive: cgroup.devices.flatMap(({ major, minor, readBytes, writeBytes }) => [
        { major, minor, op: "Read", value: readBytes },
        { major, minor, op: "Write", value: writeBytes },
      ]),
      ioServicedRecursive: cgroup.devices.flatMap(({ major, minor, reads, writes }) => [
        { major, minor, op: "Read", value: reads },
        { major, minor, op: "Write", value: writes },
      ]),
      ioQueueRecursive: detail.blkio.queued,
      ioServiceTimeRecursive: detail.blkio.serviceTime,
      ioWaitTimeRecursive: detail.blkio.waitTime,
      ioMergedRecursive: detail.blkio.merged,
      ioTimeRecursive: detail.blkio.time,
      sectorsRecursive: detail.blkio.sectors,
      ioCostUsage: detail.blkio.costUsage,
      ioCostWait: detail.blkio.costWait,
      ioCostIndebt: detail.blkio.costIndebt,
      ioCostIndelay: detail.blkio.costIndelay,
      psi: cgroup.ioPressure,
    },
    hugetlb: Object.fromEntries(cgroup.hugepages.map(({ pageSize, usage, peak }) => [pageSize, { usage, max: peak }])),
    intel_rdt: {},
    network_interfaces: interfaces.map((one) => ({
      Name: one.name,
      RxBytes: one.rxBytes,
      RxPackets: one.rxPackets,
      RxErrors: one.rxErrors,
      RxDropped: one.rxDropped,
      TxBytes: one.txBytes,
      TxPackets: one.txPackets,
      TxErrors: one.txErrors,
      TxDropped: one.txDropped,
    })),
  };
}

const perProcessor = ({ processors }: ContainerStats["detail"]): Tree => ({
  percpu: processors.map(({ total }) => total),
  percpu_user: processors.map(({ user }) => user),
  percpu_kernel: processors.map(({ system }) => system),
});

/** bigint as a JSON number, in one line: these counters are read by programs that know 64 bits. */
export function numbersAsJson(value: unknown): string {
  // Not in the compiler's library yet.
  const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown };
  return JSON.stringify(value, (_key, inner: unknown) => (typeof inner === "bigint" ? rawJSON(inner.toString()) : inner));
}
