/** What the library tells, as messages. */
import type { ContainerStats, ProcessExit } from "../core/library/public.ts";
import type { Pressure } from "../core/runtime.ts";
import type { ContainerExit, ContainerPressure, ContainerStatsResponse } from "../gen/caisson/v1/container.ts";

export function exitReply({ exitCode, signal, known, oomKilled }: ProcessExit): ContainerExit {
  return { exitCode, signal, known, oomKilled: oomKilled === true };
}

export function statsReply({ cgroup, interfaces }: ContainerStats): ContainerStatsResponse {
  return {
    timestamp: cgroup.timestampNs,
    cpuUsage: cgroup.cpuUsageNs,
    cpuUser: cgroup.cpuUserNs,
    cpuSystem: cgroup.cpuSystemNs,
    cpuPeriods: cgroup.cpuPeriods,
    cpuThrottledPeriods: cgroup.cpuThrottledPeriods,
    cpuThrottled: cgroup.cpuThrottledNs,
    memoryUsage: cgroup.memoryUsage,
    memoryWorkingSet: cgroup.memoryWorkingSet,
    memoryLimit: cgroup.memoryLimit,
    memoryPeak: cgroup.memoryPeak,
    memoryCache: cgroup.memoryCache,
    memoryRss: cgroup.memoryRss,
    memoryKernel: cgroup.memoryKernel,
    swapUsage: cgroup.swapUsage,
    swapLimit: cgroup.swapLimit,
    pageFaults: cgroup.memoryPageFaults,
    majorPageFaults: cgroup.memoryMajorPageFaults,
    oomKills: cgroup.oomKills,
    pids: cgroup.processCount,
    pidsLimit: cgroup.processLimit,
    devices: cgroup.devices.map(({ major, minor, readBytes, writeBytes, reads, writes }) => ({
      major,
      minor,
      readBytes,
      writeBytes,
      reads,
      writes,
    })),
    interfaces: interfaces.map((one) => ({ ...one })),
    cpuPressure: pressureReply(cgroup.cpuPressure),
    memoryPressure: pressureReply(cgroup.memoryPressure),
    ioPressure: pressureReply(cgroup.ioPressure),
    hugepages: cgroup.hugepages.map(({ pageSize, usage, peak }) => ({ pageSize, usage, peak })),
  };
}

function pressureReply(pressure: Pressure | undefined): ContainerPressure | undefined {
  if (pressure === undefined) return undefined;
  const line = (one: Pressure["some"]) => ({ avg10: one.avg10, avg60: one.avg60, avg300: one.avg300, total: one.totalNs });
  return { some: line(pressure.some), full: pressure.full === undefined ? undefined : line(pressure.full) };
}
