import { describe, expect, it } from "vitest";
import { bitMask } from "../../../../src/core/cgroup/cpu-set.ts";
import { type PropertyContext, resourceProperties, scopeProperties } from "../../../../src/core/cgroup/systemd-properties.ts";
import type { OciResources } from "../../../../src/core/oci.ts";

const v2: PropertyContext = { versionOf: () => 2, systemdVersion: 252 };
const v1: PropertyContext = { versionOf: (controller) => (controller === "io" ? undefined : 1), systemdVersion: 252 };
const infinity = 2n ** 64n - 1n;
const valuesOf = (resources: OciResources, context: PropertyContext) =>
  Object.fromEntries(resourceProperties(resources, context).map(([name, { value }]) => [name, value]));

describe("resources as properties of a unit", () => {
  it("have the names of cgroup v2", () => {
    const resources: OciResources = {
      memory: { limit: 100, swap: 150, reservation: 50 },
      cpu: { shares: 1024, quota: 50_000, period: 100_000, cpus: "0-1", mems: "0" },
      pids: { limit: 7 },
    };
    expect(valuesOf(resources, v2)).toEqual({
      MemoryMax: 100n,
      MemoryLow: 50n,
      MemorySwapMax: 50n,
      CPUWeight: 100n,
      CPUQuotaPerSecUSec: 500_000n,
      CPUQuotaPeriodUSec: 100_000n,
      AllowedCPUs: Uint8Array.of(3),
      AllowedMemoryNodes: Uint8Array.of(1),
      TasksMax: 7n,
    });
  });

  it("have the names of cgroup v1, which has no properties for processors and swap", () => {
    const resources: OciResources = { memory: { limit: 100, swap: 150 }, cpu: { shares: 512, cpus: "0" } };
    expect(valuesOf(resources, v1)).toEqual({ MemoryLimit: 100n, CPUShares: 512n });
  });

  it("are without a limit when they are negative", () => {
    expect(valuesOf({ memory: { limit: -1 }, cpu: { quota: -1 }, pids: { limit: -1 } }, v2)).toEqual({
      MemoryMax: infinity,
      MemorySwapMax: infinity,
      CPUQuotaPerSecUSec: infinity,
      TasksMax: infinity,
    });
  });

  it("round a quota up to what systemd keeps, over the default period when there is none", () => {
    expect(valuesOf({ cpu: { quota: 12_345 } }, v2)).toEqual({ CPUQuotaPerSecUSec: 130_000n });
    expect(valuesOf({ cpu: { quota: 10_000, period: 50_000 } }, v2).CPUQuotaPerSecUSec).toBe(200_000n);
  });

  it("say nothing of what was not asked for, or what an older systemd does not know", () => {
    expect(valuesOf({}, v2)).toEqual({});
    const old = { ...v2, systemdVersion: 241 };
    expect(valuesOf({ cpu: { period: 100_000, cpus: "0" }, unified: { "memory.oom.group": "1" } }, old)).toEqual({});
  });

  it("take unified values, which win", () => {
    const unified = {
      "memory.max": "max",
      "memory.high": "9000",
      "cpu.max": "max 50000",
      "pids.max": "5",
      "hugetlb.2MB.max": "0",
    };
    expect(valuesOf({ memory: { limit: 100 }, unified }, v2)).toEqual({
      MemoryMax: infinity,
      MemoryHigh: 9000n,
      CPUQuotaPerSecUSec: infinity,
      CPUQuotaPeriodUSec: 50_000n,
      TasksMax: 5n,
    });
    expect(valuesOf({ unified: { "cpu.idle": "1", "memory.oom.group": "1" } }, { ...v2, systemdVersion: 253 })).toEqual({
      CPUWeight: 0n,
      OOMPolicy: "kill",
    });
  });

  it("leave nonsense to the file that will refuse it", () => {
    expect(valuesOf({ unified: { "memory.max": "lots", "cpu.max": "1 2 3", "cpu.weight": "-1" } }, v2)).toEqual({});
  });
});

describe("a scope", () => {
  const request = { containerId: "c1", slice: "a.slice", pid: 42, resources: {}, devices: undefined };

  it("is delegated, around the process, in the slice, and never stays as failed", () => {
    const properties = scopeProperties(request, v2);
    expect(properties).toContainEqual(["PIDs", { signature: "au", value: [42] }]);
    expect(properties).toContainEqual(["Slice", { signature: "s", value: "a.slice" }]);
    expect(properties).toContainEqual(["Delegate", { signature: "b", value: true }]);
    expect(properties).toContainEqual(["CollectMode", { signature: "s", value: "inactive-or-failed" }]);
    expect(properties).toContainEqual(["IOAccounting", { signature: "b", value: true }]);
    expect(properties.map(([name]) => name)).not.toContain("DevicePolicy");
  });

  it("has systemd's default number of tasks only when it is asked for", () => {
    const tasks = (limit: number | undefined) =>
      scopeProperties({ ...request, resources: limit === undefined ? {} : { pids: { limit } } }, v2)
        .filter(([name]) => name === "TasksMax")
        .map(([, { value }]) => value);
    expect(tasks(undefined)).toEqual([infinity]);
    expect(tasks(0)).toEqual([1n]);
  });

  it("resets the list of devices before it fills it", () => {
    const devices = { policy: "strict", allow: [["/dev/char/1:3", "rwm"]] } as const;
    const properties = scopeProperties({ ...request, devices }, v1).filter(([name]) => name.startsWith("Device"));
    expect(properties.map(([, { value }]) => value)).toEqual(["strict", [], [["/dev/char/1:3", "rwm"]]]);
  });
});

describe("a list of processors", () => {
  it.each([
    ["0", [1]],
    ["0-3,8", [0x0f, 0x01]],
    [" 7 , 15-16\n", [0x80, 0x80, 0x01]],
  ])("%j is a mask", (list, mask) => {
    expect([...bitMask(list)]).toEqual(mask);
  });

  it.each(["", "a", "3-1", "-1", "1-", "0,,1", "9999"])("%j is refused", (list) => {
    expect(() => bitMask(list)).toThrow();
  });
});
