/** Limits that NRI plugins want: through the same checks as those of the CRI, then the few that the CRI has no word for. */
import type { OciResources } from "../core/oci.ts";
import { LinuxContainerResources } from "../gen/cri/v1/api.ts";
import { LinuxMemory, type LinuxResources } from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { invalid, quoted, safeNumber } from "./translate-check.ts";
import type { ResolvedResources, ResolveResources } from "./translation.ts";

/** What the CRI has words for, as it would have been asked. */
export function asCriResources(wanted: LinuxResources): LinuxContainerResources {
  const { memory, cpu } = wanted;
  return LinuxContainerResources.fromPartial({
    cpuPeriod: cpu?.period?.value ?? 0n,
    cpuQuota: cpu?.quota?.value ?? 0n,
    cpuShares: cpu?.shares?.value ?? 0n,
    cpusetCpus: cpu?.cpus ?? "",
    cpusetMems: cpu?.mems ?? "",
    memoryLimitInBytes: memory?.limit?.value ?? 0n,
    memorySwapLimitInBytes: memory?.swap?.value ?? 0n,
    hugepageLimits: wanted.hugepageLimits,
    unified: wanted.unified,
  });
}

/** @throws RuntimeError unimplemented for what no container of a pod can have here. */
function refuseUnknown({ memory, blockioClass }: LinuxResources): void {
  const { kernel, useHierarchy } = memory ?? LinuxMemory.create();
  const refused: readonly (readonly [what: string, found: boolean, why: string])[] = [
    [
      `blockio_class ${quoted(blockioClass?.value ?? "")}`,
      // Empty: none, as it is.
      (blockioClass?.value ?? "") !== "",
      "this runtime has no classes of block I/O; on cgroup v2 use resources.unified with io.weight, io.max and the like",
    ],
    ["memory.kernel", kernel !== undefined, "the kernel has no such limit any more"],
    ["memory.use_hierarchy", useHierarchy?.value === false, "every cgroup counts what is below it"],
  ];
  const found = refused.find(([, is]) => is);
  if (found !== undefined)
    throw new RuntimeError("unimplemented", `${found[0]}, which an NRI plugin wants, cannot be had: ${found[2]}`);
}

/** A container is made with its class and keeps it. @throws RuntimeError unimplemented. */
export function refuseFixed({ rdtClass }: LinuxResources): void {
  if (rdtClass !== undefined)
    throw new RuntimeError(
      "unimplemented",
      "rdt_class, which an NRI plugin wants changed, can be set only when a container is made",
    );
}

/** What the CRI has no words for. */
function furtherResources({ memory, cpu, pids }: LinuxResources): OciResources {
  const number = (what: string, value: { value: bigint } | undefined): number | undefined =>
    value === undefined ? undefined : safeNumber(what, value.value);
  const given = <T extends object>(fields: T) =>
    Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
      [K in keyof T]?: Exclude<T[K], undefined>;
    };
  const swappiness = number("memory.swappiness", memory?.swappiness);
  if (swappiness !== undefined && (swappiness < 0 || swappiness > 100))
    throw invalid(`memory.swappiness ${swappiness} is outside of 0 to 100`);
  const limit = pids === undefined || pids.limit === 0n ? undefined : safeNumber("pids.limit", pids.limit);
  const furtherMemory = given({
    reservation: number("memory.reservation", memory?.reservation),
    kernelTCP: number("memory.kernel_tcp", memory?.kernelTcp),
    swappiness,
    disableOOMKiller: memory?.disableOomKiller?.value,
  });
  const furtherCpu = given({
    realtimeRuntime: number("cpu.realtime_runtime", cpu?.realtimeRuntime),
    realtimePeriod: number("cpu.realtime_period", cpu?.realtimePeriod),
  });
  return {
    ...(Object.keys(furtherMemory).length > 0 ? { memory: furtherMemory } : {}),
    ...(Object.keys(furtherCpu).length > 0 ? { cpu: furtherCpu } : {}),
    ...(limit === undefined ? {} : { pids: { limit } }),
  };
}

/** Field by field, the later one counts. */
export function overlayResources(before: OciResources, after: OciResources): OciResources {
  const memory = { ...before.memory, ...after.memory };
  const cpu = { ...before.cpu, ...after.cpu };
  const unified = { ...before.unified, ...after.unified };
  const sizes = new Set(after.hugepageLimits?.map(({ pageSize }) => pageSize));
  const hugepageLimits = [
    ...(before.hugepageLimits ?? []).filter(({ pageSize }) => !sizes.has(pageSize)),
    ...(after.hugepageLimits ?? []),
  ];
  return {
    ...before,
    ...after,
    ...(Object.keys(memory).length > 0 ? { memory } : {}),
    ...(Object.keys(cpu).length > 0 ? { cpu } : {}),
    ...(Object.keys(unified).length > 0 ? { unified } : {}),
    ...(hugepageLimits.length > 0 ? { hugepageLimits } : {}),
  };
}

/** `asked` is what the CRI asks for in the same breath, with `wanted` already in it. */
export function resolveWanted(
  resolve: ResolveResources,
  asked: LinuxContainerResources,
  wanted: LinuxResources,
): ResolvedResources {
  refuseUnknown(wanted);
  const resolved = resolve(asked);
  return { ...resolved, resources: overlayResources(resolved.resources, furtherResources(wanted)) };
}
