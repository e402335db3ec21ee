/** Readings of the core as CRI's usage messages. */
import type { CgroupStats, InterfaceCounters, Pressure, PressureLine } from "../core/runtime.ts";
import type {
  CpuUsage,
  IoUsage,
  MemoryUsage,
  NetworkInterfaceUsage,
  NetworkUsage,
  ProcessUsage,
  PsiData,
  PsiStats,
  SwapUsage,
  UInt64Value,
} from "../gen/cri/v1/api.ts";
import type { UsageSamples } from "./usage-samples.ts";

const wrapped = (value: bigint | undefined): UInt64Value | undefined => (value === undefined ? undefined : { value });

/** `id` is that of the container or pod whose rate is kept. */
export function cpuUsage(samples: UsageSamples, id: string, cgroup: CgroupStats): CpuUsage | undefined {
  const { timestampNs, cpuUsageNs } = cgroup;
  if (cpuUsageNs === undefined) return undefined;
  return {
    timestamp: timestampNs,
    usageCoreNanoSeconds: { value: cpuUsageNs },
    usageNanoCores: wrapped(samples.nanoCores(id, timestampNs, cpuUsageNs)),
    psi: psiStats(cgroup.cpuPressure),
  };
}

export function memoryUsage(cgroup: CgroupStats): MemoryUsage | undefined {
  if (cgroup.memoryUsage === undefined) return undefined;
  return {
    timestamp: cgroup.timestampNs,
    workingSetBytes: wrapped(cgroup.memoryWorkingSet),
    availableBytes: wrapped(available(cgroup)),
    usageBytes: wrapped(cgroup.memoryUsage),
    rssBytes: wrapped(cgroup.memoryRss),
    pageFaults: wrapped(cgroup.memoryPageFaults),
    majorPageFaults: wrapped(cgroup.memoryMajorPageFaults),
    psi: psiStats(cgroup.memoryPressure),
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

export function swapUsage({ timestampNs, swapUsage: used, swapLimit }: CgroupStats): SwapUsage | undefined {
  if (used === undefined) return undefined;
  const left = swapLimit === undefined || swapLimit > unlimited ? undefined : swapLimit > used ? swapLimit - used : 0n;
  return { timestamp: timestampNs, swapUsageBytes: { value: used }, swapAvailableBytes: wrapped(left) };
}

/** Of I/O only the pressure is asked for. */
export function ioUsage({ timestampNs, ioPressure }: CgroupStats): IoUsage | undefined {
  const psi = psiStats(ioPressure);
  return psi === undefined ? undefined : { timestamp: timestampNs, psi };
}

export function processUsage({ timestampNs, processCount }: CgroupStats): ProcessUsage | undefined {
  return processCount === undefined ? undefined : { timestamp: timestampNs, processCount: { value: processCount } };
}

/** The name of the pod's main interface, which CNI gives it. */
const defaultInterface = "eth0";

export function networkUsage(timestampNs: bigint, interfaces: readonly InterfaceCounters[]): NetworkUsage {
  const usages = interfaces.map(interfaceUsage);
  const main = usages.find(({ name }) => name === defaultInterface) ?? usages[0];
  return { timestamp: timestampNs, defaultInterface: main, interfaces: usages };
}

function interfaceUsage(counters: InterfaceCounters): NetworkInterfaceUsage {
  return {
    name: counters.name,
    rxBytes: { value: counters.rxBytes },
    rxErrors: { value: counters.rxErrors },
    txBytes: { value: counters.txBytes },
    txErrors: { value: counters.txErrors },
  };
}

function psiStats(pressure: Pressure | undefined): PsiStats | undefined {
  if (pressure === undefined) return undefined;
  return { Some: psiData(pressure.some), Full: pressure.full === undefined ? undefined : psiData(pressure.full) };
}

function psiData({ totalNs, avg10, avg60, avg300 }: PressureLine): PsiData {
  return { Total: totalNs, Avg10: avg10, Avg60: avg60, Avg300: avg300 };
}
