/**
 * Resources as properties of a unit (libcontainer section 8). Pure. systemd must know them, or it would set its own values whenever it
 * looks at the unit again; the exact ones, and those that it does not know, are written to the cgroup afterwards.
 */
import type { Variant } from "../../lib/dbus/signature.ts";
import type { OciResources } from "../oci.ts";
import { bitMask } from "./cpu-set.ts";
import { cpuWeight, swapOnly } from "./resource-writes.ts";

export type UnitProperty = readonly [name: string, value: Variant];

export interface PropertyContext {
  readonly versionOf: (controller: string) => 1 | 2 | undefined;
  /** 252 and so on; older ones refuse properties that they do not know. */
  readonly systemdVersion: number;
}

const infinity = 0xffff_ffff_ffff_ffffn;
const defaultPeriodUs = 100_000;
const quotaStepUs = 10_000;

export const text = (value: string): Variant => ({ signature: "s", value });
export const flag = (value: boolean): Variant => ({ signature: "b", value });
const number = (value: bigint): Variant => ({ signature: "t", value });
const limit = (value: number): Variant => number(value < 0 ? infinity : BigInt(value));
const mask = (list: string): Variant => ({ signature: "ay", value: bitMask(list) });

/** What the resources are, all of them: a property that is named later wins. */
export function resourceProperties(resources: OciResources, context: PropertyContext): readonly UnitProperty[] {
  const all = [
    ...memoryProperties(resources, context),
    ...cpuProperties(resources, context),
    ...cpusetProperties(resources.cpu?.cpus, resources.cpu?.mems, context),
    ...pidsProperties(resources),
    ...unifiedProperties(resources, context),
  ];
  return [...new Map(all)];
}

function memoryProperties({ memory }: OciResources, { versionOf }: PropertyContext): readonly UnitProperty[] {
  const { limit: most = 0, swap = 0, reservation = 0 } = memory ?? {};
  if (versionOf("memory") !== 2) return most === 0 ? [] : [["MemoryLimit", limit(most)]];
  const swapMax = swapOnly(most, swap);
  return [
    ...(most === 0 ? [] : [["MemoryMax", limit(most)] as const]),
    ...(reservation === 0 ? [] : [["MemoryLow", limit(reservation)] as const]),
    ...(swapMax === undefined ? [] : [["MemorySwapMax", sizeOf(swapMax)] as const]),
  ];
}

function cpuProperties({ cpu }: OciResources, context: PropertyContext): readonly UnitProperty[] {
  const { shares = 0, quota, period = 0 } = cpu ?? {};
  const onV2 = context.versionOf("cpu") === 2;
  const weight: readonly UnitProperty[] =
    shares === 0 ? [] : onV2 ? [["CPUWeight", number(BigInt(cpuWeight(shares)))]] : [["CPUShares", number(BigInt(shares))]];
  return [...weight, ...quotaProperties(quota ?? 0, period, context)];
}

/** Quota 0: not given. systemd counts in steps of 10 ms per second. */
function quotaProperties(quota: number, period: number, { systemdVersion }: PropertyContext): readonly UnitProperty[] {
  const periodUs = period === 0 ? defaultPeriodUs : period;
  const steps = Math.ceil((quota * 1_000_000) / periodUs / quotaStepUs);
  return [
    ...(quota === 0 ? [] : [["CPUQuotaPerSecUSec", number(quota < 0 ? infinity : BigInt(steps * quotaStepUs))] as const]),
    ...(period === 0 || systemdVersion < 242 ? [] : [["CPUQuotaPeriodUSec", number(BigInt(period))] as const]),
  ];
}

function cpusetProperties(cpus = "", mems = "", context: PropertyContext): readonly UnitProperty[] {
  if (context.versionOf("cpuset") !== 2 || context.systemdVersion < 244) return [];
  return [
    ...(cpus === "" ? [] : [["AllowedCPUs", mask(cpus)] as const]),
    ...(mems === "" ? [] : [["AllowedMemoryNodes", mask(mems)] as const]),
  ];
}

function pidsProperties({ pids }: OciResources): readonly UnitProperty[] {
  if (pids === undefined) return [];
  return [["TasksMax", limit(pids.limit < 0 ? -1 : Math.max(1, pids.limit))]];
}

const unifiedSizes: Readonly<Record<string, string>> = {
  "memory.min": "MemoryMin",
  "memory.low": "MemoryLow",
  "memory.high": "MemoryHigh",
  "memory.max": "MemoryMax",
  "memory.swap.max": "MemorySwapMax",
  "pids.max": "TasksMax",
};

function unifiedProperties({ unified }: OciResources, context: PropertyContext): readonly UnitProperty[] {
  return Object.entries(unified ?? {}).flatMap(([file, value]) => unifiedProperty(file, value.trim(), context));
}

/** A value that systemd could not take is left to the cgroup file, whose error is the better one. */
function unifiedProperty(file: string, value: string, context: PropertyContext): readonly UnitProperty[] {
  const size = unifiedSizes[file];
  if (size !== undefined) return /^(max|\d+)$/.test(value) ? [[size, sizeOf(value)]] : [];
  const [first = "", second = "0"] = value.split(/\s+/);
  switch (file) {
    case "cpu.weight":
      return /^\d+$/.test(value) ? [["CPUWeight", number(BigInt(value))]] : [];
    case "cpu.idle":
      return value === "1" && context.systemdVersion >= 252 ? [["CPUWeight", number(0n)]] : [];
    case "cpu.max":
      return /^(max|\d+)( \d+)?$/.test(value)
        ? quotaProperties(first === "max" ? -1 : Number(first), Number(second), context)
        : [];
    case "cpuset.cpus":
      return cpusetProperties(value, "", context);
    case "cpuset.mems":
      return cpusetProperties("", value, context);
    case "memory.oom.group":
      return context.systemdVersion >= 253 ? [["OOMPolicy", text(value === "1" ? "kill" : "continue")]] : [];
    default:
      return [];
  }
}

function sizeOf(value: string): Variant {
  return number(value === "max" ? infinity : BigInt(value));
}

export interface ScopeRequest {
  readonly containerId: string;
  readonly slice: string;
  readonly pid: number;
  readonly resources: OciResources;
  /** What device rules say, where systemd has to know (cgroup v1); undefined: it keeps away from devices. */
  readonly devices: DeviceProperties | undefined;
}

export interface DeviceProperties {
  readonly policy: "auto" | "strict";
  readonly allow: readonly (readonly [path: string, access: string])[];
}

/** A new scope around one process. */
export function scopeProperties(request: ScopeRequest, context: PropertyContext): readonly UnitProperty[] {
  const onV2 = context.versionOf("io") === 2;
  return [
    ["Description", text(`container ${request.containerId}`)],
    ["Slice", text(request.slice)],
    ["PIDs", { signature: "au", value: [request.pid] }],
    ["Delegate", flag(true)],
    // Pods are stopped by the kubelet: no ordering of ours against the node's targets.
    ["DefaultDependencies", flag(false)],
    // A failed unit would stay until somebody resets it.
    ["CollectMode", text("inactive-or-failed")],
    ["CPUAccounting", flag(true)],
    ["MemoryAccounting", flag(true)],
    ["TasksAccounting", flag(true)],
    [onV2 ? "IOAccounting" : "BlockIOAccounting", flag(true)],
    ...deviceProperties(request.devices),
    // Without it systemd's own default would hold, a part of what the node allows.
    ...new Map<string, Variant>([["TasksMax", number(infinity)], ...resourceProperties(request.resources, context)]),
  ];
}

function deviceProperties(devices: DeviceProperties | undefined): readonly UnitProperty[] {
  if (devices === undefined) return [];
  return [
    ["DevicePolicy", text(devices.policy)],
    ["DeviceAllow", { signature: "a(ss)", value: [] }],
    ...(devices.allow.length === 0 ? [] : [["DeviceAllow", { signature: "a(ss)", value: devices.allow }] as const]),
  ];
}
