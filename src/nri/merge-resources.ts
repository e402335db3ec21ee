import { Field, LinuxCPU, LinuxMemory, LinuxResources } from "../gen/nri/v1alpha1/api.ts";
import { applyMap, mergeEntries, mergeMap } from "./merge-keyed.ts";
import type { Owners } from "./owners.ts";

const memoryFields = {
  limit: Field.MemLimit,
  reservation: Field.MemReservation,
  swap: Field.MemSwapLimit,
  kernel: Field.MemKernelLimit,
  kernelTcp: Field.MemTCPLimit,
  swappiness: Field.MemSwappiness,
  disableOomKiller: Field.MemDisableOomKiller,
  useHierarchy: Field.MemUseHierarchy,
} as const satisfies Record<keyof LinuxMemory, Field>;

const cpuFields = {
  shares: Field.CPUShares,
  quota: Field.CPUQuota,
  period: Field.CPUPeriod,
  realtimeRuntime: Field.CPURealtimeRuntime,
  realtimePeriod: Field.CPURealtimePeriod,
  cpus: Field.CPUSetCPUs,
  mems: Field.CPUSetMems,
} as const satisfies Record<keyof LinuxCPU, Field>;

const topFields = {
  blockioClass: Field.BlockioClass,
  rdtClass: Field.RdtClass,
  pids: Field.PidsLimit,
} as const satisfies Partial<Record<keyof LinuxResources, Field>>;

type Claim = (field: Field, key?: string) => void;

/** `before` with those fields of `wanted` that say something. */
function overlay<T extends object>(before: T, wanted: T, fields: Partial<Record<keyof T, Field>>, claim: Claim): T {
  const merged = { ...before };
  for (const name of Object.keys(fields) as (keyof T)[]) {
    const value = wanted[name];
    const field = fields[name];
    if (value === undefined || value === "" || field === undefined) continue;
    claim(field);
    merged[name] = value;
  }
  return merged;
}

function combine(before: LinuxResources, wanted: LinuxResources, claim: Claim): LinuxResources {
  const keyed = (field: Field) => ({ claim: (key: string) => claim(field, key), clear: () => {} });
  const { memory, cpu, pids } = wanted;
  return {
    ...overlay(before, { ...wanted, pids: pids?.limit === 0n ? undefined : pids }, topFields, claim),
    memory: overlay(before.memory ?? LinuxMemory.create(), memory ?? LinuxMemory.create(), memoryFields, claim),
    cpu: overlay(before.cpu ?? LinuxCPU.create(), cpu ?? LinuxCPU.create(), cpuFields, claim),
    hugepageLimits: mergeEntries(
      before.hugepageLimits,
      wanted.hugepageLimits,
      ({ pageSize }) => pageSize,
      keyed(Field.HugepageLimits),
    ),
    // The order is the plugins', and the last word counts: nothing to disagree about.
    devices: [...before.devices, ...wanted.devices],
    unified: mergeMap(before.unified, wanted.unified, keyed(Field.CgroupsUnified)),
  };
}

/** What this plugin wants too. @throws RuntimeError failed_precondition when another one wants the same field. */
export function mergeResources(
  before: LinuxResources | undefined,
  wanted: LinuxResources,
  owners: Owners,
  container: string,
  plugin: string,
): LinuxResources {
  const claim: Claim = (field, key = "") => owners.claim(container, field, key, plugin);
  return combine(before ?? LinuxResources.create(), wanted, claim);
}

/** Limits as they are with these changes. */
export function applyResources(now: LinuxResources | undefined, changes: LinuxResources | undefined): LinuxResources {
  const base = now ?? LinuxResources.create();
  if (changes === undefined) return base;
  return { ...combine(base, { ...changes, unified: {} }, () => {}), unified: applyMap(base.unified, changes.unified) };
}
