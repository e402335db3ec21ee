/**
 * OCI resources as writes to cgroup files, for either version (libcontainer section 6). Pure. The order of the list is the order of
 * the writes; on a hybrid host each group goes to the version that has its controller.
 */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciResources } from "../oci.ts";
import { deviceWrites, onlyV1 } from "./device-writes.ts";

export interface ResourceWrite {
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** The file may be absent: older kernels, no swap accounting. */
  readonly optional?: boolean;
  /** Written instead where the file is missing. */
  readonly orElse?: ResourceWrite;
  /** The file has a line for each device: that of this one begins with `key`, and `reset` takes it away. */
  readonly key?: string;
  readonly reset?: string;
}

/** What the mapping has to know of the machine. */
export interface ResourceContext {
  /** 1 or 2; undefined: the machine lacks the controller. */
  readonly versionOf: (controller: string) => 1 | 2 | undefined;
  /** Limit in force on v1, which decides the order of the two memory limits; undefined: none. */
  readonly currentMemoryLimit: bigint | undefined;
}

export function resourceWrites(resources: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  return [
    ...pidsWrites(resources),
    ...memoryWrites(resources, context),
    ...cpuWrites(resources, context),
    ...cpusetWrites(resources),
    ...hugepageWrites(resources, context),
    ...deviceWrites(resources, context),
    ...unifiedWrites(resources, context),
  ];
}

function pidsWrites({ pids }: OciResources): readonly ResourceWrite[] {
  if (pids === undefined) return [];
  const value = pids.limit < 0 ? "max" : String(Math.max(1, pids.limit));
  return [{ controller: "pids", file: "pids.max", value }];
}

function memoryWrites({ memory }: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  if (memory === undefined) return [];
  const limit = memory.limit ?? 0;
  const swap = memory.swap ?? 0;
  checkMemory(limit, swap);
  return context.versionOf("memory") === 2
    ? [...refuseV1Memory(memory), ...memoryWritesV2(limit, swap, memory.reservation ?? 0)]
    : [...memoryWritesV1(limit, swap, memory.reservation ?? 0, context.currentMemoryLimit), ...memoryExtrasV1(memory)];
}

type Memory = NonNullable<OciResources["memory"]>;

/** -1 is "unset" of older specifications. */
const unset = -1;

function refuseV1Memory({ swappiness = unset, disableOOMKiller, kernelTCP = 0 }: Memory): readonly [] {
  if (swappiness !== unset) throw onlyV1("memory.swappiness");
  if (disableOOMKiller === true) throw onlyV1("memory.disableOOMKiller");
  if (kernelTCP !== 0) throw onlyV1("memory.kernelTCP");
  return [];
}

function memoryExtrasV1({ swappiness = unset, disableOOMKiller, kernelTCP = 0 }: Memory): readonly ResourceWrite[] {
  const write = (file: string, value: string) => ({ controller: "memory", file: `memory.${file}`, value });
  if (swappiness !== unset && (!Number.isInteger(swappiness) || swappiness < 0 || swappiness > 100)) {
    throw new RuntimeError("invalid_argument", `memory.swappiness ${swappiness} is not in the range 0 to 100`);
  }
  return [
    ...(kernelTCP === 0 ? [] : [write("kmem.tcp.limit_in_bytes", String(kernelTCP))]),
    ...(swappiness === unset ? [] : [write("swappiness", String(swappiness))]),
    ...(disableOOMKiller === undefined ? [] : [write("oom_control", disableOOMKiller ? "1" : "0")]),
  ];
}

function checkMemory(limit: number, swap: number): void {
  if (limit < -1) throw new RuntimeError("invalid_argument", `memory limit ${limit} is negative`);
  if (swap < -1) throw new RuntimeError("invalid_argument", `memory and swap limit ${swap} is negative`);
  if (swap > 0 && limit === 0) {
    throw new RuntimeError("invalid_argument", "a limit of memory and swap needs a memory limit");
  }
  if (swap > 0 && limit > swap) {
    throw new RuntimeError("invalid_argument", `memory and swap limit ${swap} is below the memory limit ${limit}`);
  }
}

function memoryWritesV1(limit: number, swap: number, reservation: number, current: bigint | undefined): readonly ResourceWrite[] {
  const writes: ResourceWrite[] = [];
  const main: ResourceWrite = { controller: "memory", file: "memory.limit_in_bytes", value: String(limit) };
  // An unlimited memory limit is only possible below an unlimited sum.
  const sumValue = limit === -1 && swap === 0 ? -1 : swap;
  const sum: ResourceWrite = {
    controller: "memory",
    file: "memory.memsw.limit_in_bytes",
    value: String(sumValue),
    optional: true,
  };
  if (limit !== 0 && sumValue !== 0) {
    // The kernel keeps memory <= memory+swap at every moment: raise the sum first, lower it last.
    const raises = sumValue === -1 || (current !== undefined && BigInt(sumValue) > current);
    writes.push(...(raises ? [sum, main] : [main, sum]));
  } else if (limit !== 0) writes.push(main);
  else if (sumValue !== 0) writes.push(sum);
  if (reservation !== 0) writes.push({ controller: "memory", file: "memory.soft_limit_in_bytes", value: String(reservation) });
  return writes;
}

function memoryWritesV2(limit: number, swap: number, reservation: number): readonly ResourceWrite[] {
  const writes: ResourceWrite[] = [];
  const swapMax = swapOnly(limit, swap);
  if (swapMax !== undefined) writes.push({ controller: "memory", file: "memory.swap.max", value: swapMax, optional: true });
  if (limit !== 0) writes.push({ controller: "memory", file: "memory.max", value: orMax(limit) });
  if (reservation !== 0) writes.push({ controller: "memory", file: "memory.low", value: orMax(reservation) });
  return writes;
}

/** memory.swap.max from the sum that OCI knows. */
export function swapOnly(limit: number, swap: number): string | undefined {
  if (limit === -1 && swap === 0) return "max";
  if (swap === 0) return undefined;
  if (swap === -1) return "max";
  return limit === -1 ? String(swap) : String(swap - limit);
}

function orMax(value: number): string {
  return value < 0 ? "max" : String(value);
}

const defaultPeriod = 100_000;

function cpuWrites({ cpu }: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  if (cpu === undefined) return [];
  const { shares = 0, quota = 0, period = 0, burst, idle, realtimeRuntime = 0, realtimePeriod = 0 } = cpu;
  const writes: ResourceWrite[] = [];
  const write = (file: string, value: string) => writes.push({ controller: "cpu", file, value });
  // Before the shares: an idle cgroup takes none.
  if (idle !== undefined) write("cpu.idle", String(idle));
  if (context.versionOf("cpu") === 2) {
    if (realtimeRuntime !== 0) throw onlyV1("cpu.realtimeRuntime");
    if (realtimePeriod !== 0) throw onlyV1("cpu.realtimePeriod");
    if (shares !== 0) write("cpu.weight", String(cpuWeight(shares)));
    if (quota !== 0 || period !== 0) write("cpu.max", `${quota > 0 ? quota : "max"} ${period === 0 ? defaultPeriod : period}`);
    if (burst !== undefined) write("cpu.max.burst", String(burst));
    return writes;
  }
  if (shares !== 0) write("cpu.shares", String(shares));
  if (period !== 0) write("cpu.cfs_period_us", String(period));
  if (quota !== 0) write("cpu.cfs_quota_us", String(quota < 0 ? -1 : quota));
  if (burst !== undefined) write("cpu.cfs_burst_us", String(burst));
  if (realtimePeriod !== 0) write("cpu.rt_period_us", String(realtimePeriod));
  if (realtimeRuntime !== 0) write("cpu.rt_runtime_us", String(realtimeRuntime));
  return writes;
}

/** cpu.weight that gives 1024 shares the weight 100, and keeps both ends (libcontainer 6.1). */
export function cpuWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const l = Math.log2(shares);
  return Math.ceil(10 ** ((l * l + 125 * l) / 612 - 7 / 34));
}

function cpusetWrites({ cpu }: OciResources): readonly ResourceWrite[] {
  const write = (file: string, value: string | undefined): readonly ResourceWrite[] =>
    value === undefined || value === "" ? [] : [{ controller: "cpuset", file, value }];
  return [...write("cpuset.cpus", cpu?.cpus), ...write("cpuset.mems", cpu?.mems)];
}

/** The kubelet names every size of the node with limit 0: that is nothing to fail for where the controller is absent. */
function hugepageWrites({ hugepageLimits }: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  const version = context.versionOf("hugetlb");
  return (hugepageLimits ?? []).flatMap(({ pageSize, limit }): ResourceWrite[] => {
    if (!/^[1-9][0-9]*[KMG]B$/.test(pageSize)) {
      throw new RuntimeError("invalid_argument", `huge page size ${JSON.stringify(pageSize)} is not of the form 2MB`);
    }
    if (version === undefined) return [];
    const suffix = version === 2 ? "max" : "limit_in_bytes";
    return [
      { controller: "hugetlb", file: `hugetlb.${pageSize}.${suffix}`, value: String(limit), optional: limit === 0 },
      { controller: "hugetlb", file: `hugetlb.${pageSize}.rsvd.${suffix}`, value: String(limit), optional: true },
    ];
  });
}

function unifiedWrites({ unified }: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  const entries = Object.entries(unified ?? {});
  return entries.flatMap(([file, value]): ResourceWrite[] => {
    if (!/^[a-z][a-zA-Z0-9._]*$/.test(file)) {
      throw new RuntimeError("invalid_argument", `unified resource ${JSON.stringify(file)} is not the name of a cgroup file`);
    }
    const controller = file.split(".")[0] ?? "";
    if (controller !== "cgroup" && context.versionOf(controller) !== 2) {
      throw new RuntimeError(
        "invalid_argument",
        `unified resource ${file} cannot be set: this node has no cgroup v2 controller ${JSON.stringify(controller)}`,
      );
    }
    return value.split("\n").map((line) => ({ controller, file, value: line }));
  });
}
