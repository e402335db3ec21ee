/** Limits that change one by one: zero and empty in an update mean "leave". Pure. */
import { LinuxContainerResources } from "../gen/cri/v1/api.ts";

const nothing = LinuxContainerResources.fromPartial({});

/** What holds after the update, as ContainerStatus shows it. The OOM score of processes that run is not changed. */
export function mergeResources(
  before: LinuxContainerResources = nothing,
  asked: LinuxContainerResources,
): LinuxContainerResources {
  const sizes = new Set(asked.hugepageLimits.map(({ pageSize }) => pageSize));
  return {
    ...before,
    cpuPeriod: asked.cpuPeriod || before.cpuPeriod,
    cpuQuota: asked.cpuQuota || before.cpuQuota,
    cpuShares: asked.cpuShares || before.cpuShares,
    memoryLimitInBytes: asked.memoryLimitInBytes || before.memoryLimitInBytes,
    memorySwapLimitInBytes: swapAfter(before, asked),
    cpusetCpus: asked.cpusetCpus || before.cpusetCpus,
    cpusetMems: asked.cpusetMems || before.cpusetMems,
    hugepageLimits: [...before.hugepageLimits.filter(({ pageSize }) => !sizes.has(pageSize)), ...asked.hugepageLimits],
    unified: { ...before.unified, ...asked.unified },
  };
}

/** A new memory limit without a word on swap allows none: the old sum says nothing of the new limit, and may be below it. */
function swapAfter(before: LinuxContainerResources, asked: LinuxContainerResources): bigint {
  if (asked.memorySwapLimitInBytes !== 0n) return asked.memorySwapLimitInBytes;
  if (asked.memoryLimitInBytes === 0n || before.memorySwapLimitInBytes === 0n) return before.memorySwapLimitInBytes;
  return asked.memoryLimitInBytes;
}

/**
 * The update with what its values go together with: cgroup v2 has quota and period in one file, and a sum of memory and swap means
 * nothing without the memory limit.
 */
export function withPartners(asked: LinuxContainerResources, before: LinuxContainerResources = nothing): LinuxContainerResources {
  const cpu = asked.cpuPeriod !== 0n || asked.cpuQuota !== 0n;
  const swap = asked.memorySwapLimitInBytes !== 0n;
  return {
    ...asked,
    oomScoreAdj: 0n,
    cpuPeriod: asked.cpuPeriod || (cpu ? before.cpuPeriod : 0n),
    cpuQuota: asked.cpuQuota || (cpu ? before.cpuQuota : 0n),
    memoryLimitInBytes: asked.memoryLimitInBytes || (swap ? before.memoryLimitInBytes : 0n),
  };
}
