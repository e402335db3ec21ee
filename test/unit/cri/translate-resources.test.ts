import { describe, expect, it } from "vitest";
import type { NodeFacts } from "../../../src/cri/translate-node.ts";
import { resolveResources } from "../../../src/cri/translate-resources.ts";
import { LinuxContainerResources } from "../../../src/gen/cri/v1/api.ts";
import { fakeNode } from "./translate-fixture.ts";

type Asked = Parameters<typeof LinuxContainerResources.fromPartial>[0];
const resolve = (asked: Asked, facts: Partial<NodeFacts> = {}) =>
  resolveResources(LinuxContainerResources.fromPartial(asked), fakeNode(facts).facts);
const resources = (asked: Asked, facts: Partial<NodeFacts> = {}) => resolve(asked, facts).resources;

describe("resources", () => {
  it("are nothing when nothing is asked", () => {
    expect(resolve({})).toEqual({ resources: {}, oomScoreAdj: 0, notes: [] });
    expect(resolveResources(undefined, fakeNode().facts)).toEqual({ resources: {}, oomScoreAdj: 0, notes: [] });
  });

  it("hold the CPU's numbers and sets", () => {
    const asked = { cpuPeriod: 100_000n, cpuQuota: 50_000n, cpuShares: 512n, cpusetCpus: "0-1,3", cpusetMems: "0" };
    expect(resources(asked)).toEqual({ cpu: { period: 100_000, quota: 50_000, shares: 512, cpus: "0-1,3", mems: "0" } });
  });

  it("know -1 as no quota", () => {
    expect(resources({ cpuQuota: -1n })).toEqual({ cpu: { quota: -1 } });
  });

  it.each([
    [{ cpuQuota: -2n }, /cpu_quota -2/],
    [{ cpuQuota: 999n }, /cpu_quota 999/],
    [{ cpuPeriod: -1n }, /cpu_period -1/],
    [{ cpuPeriod: 999n }, /cpu_period 999/],
    [{ cpuPeriod: 1_000_001n }, /cpu_period 1000001/],
    [{ cpuShares: -1n }, /cpu_shares -1 is negative/],
    [{ cpuShares: 2n ** 62n }, /out of range/],
    [{ cpusetCpus: "0;1" }, /cpuset_cpus "0;1"/],
    [{ cpusetMems: "0\n1" }, /cpuset_mems/],
    [{ memoryLimitInBytes: -1n }, /memory_limit_in_bytes -1 is negative/],
    [{ memorySwapLimitInBytes: -2n, memoryLimitInBytes: 4096n }, /memory_swap_limit_in_bytes -2 is negative/],
    [{ memorySwapLimitInBytes: 4096n }, /without memory_limit_in_bytes/],
    [{ memorySwapLimitInBytes: 4096n, memoryLimitInBytes: 8192n }, /is below memory_limit_in_bytes/],
    [{ oomScoreAdj: 1001n }, /oom_score_adj 1001/],
    [{ oomScoreAdj: -1001n }, /oom_score_adj -1001/],
    [{ hugepageLimits: [{ pageSize: "big", limit: 0n }] }, /page_size "big"/],
    [{ hugepageLimits: [{ pageSize: "2MB.max\n", limit: 0n }] }, /page_size/],
  ])("refuse limits that make no sense (%#)", (asked, message) => {
    expect(() => resources(asked)).toThrow(message);
  });

  it("limit swap to nothing beside a memory limit, where the kernel can", () => {
    expect(resources({ memoryLimitInBytes: 1n << 20n })).toEqual({ memory: { limit: 1 << 20, swap: 1 << 20 } });
    expect(resources({ memoryLimitInBytes: 1n << 20n }, { swapLimit: false })).toEqual({ memory: { limit: 1 << 20 } });
  });

  it("give the swap that is asked for, or all of it", () => {
    const memoryLimitInBytes = 1n << 20n;
    expect(resources({ memoryLimitInBytes, memorySwapLimitInBytes: 3n << 20n })).toEqual({
      memory: { limit: 1 << 20, swap: 3 << 20 },
    });
    expect(resources({ memoryLimitInBytes, memorySwapLimitInBytes: -1n })).toEqual({ memory: { limit: 1 << 20, swap: -1 } });
  });

  it("say so when swap cannot be limited as asked", () => {
    const asked = { memoryLimitInBytes: 4096n, memorySwapLimitInBytes: 8192n };
    expect(resolve(asked, { swapLimit: false })).toMatchObject({
      resources: { memory: { limit: 4096 } },
      notes: [/cannot limit swap/],
    });
  });

  it("cut a limit that no machine has to what a number can hold exactly", () => {
    const limit = resources({ memoryLimitInBytes: 2n ** 63n - 1n }).memory?.limit;
    expect(limit).toBe(2 ** 53 - 4096);
    expect(Number.isSafeInteger(limit)).toBe(true);
  });

  it("limit the huge pages that the node has, and note a limit for those it lacks", () => {
    const hugepageLimits = [
      { pageSize: "2MB", limit: 4n << 20n },
      { pageSize: "1GB", limit: 0n },
      { pageSize: "64KB", limit: 0n },
      { pageSize: "32MB", limit: 1n << 25n },
    ];
    const resolved = resolve({ hugepageLimits });
    expect(resolved.resources.hugepageLimits).toEqual([
      { pageSize: "2MB", limit: 4 << 20 },
      { pageSize: "1GB", limit: 0 },
    ]);
    expect(resolved.notes).toEqual([expect.stringMatching(/no huge pages of 32MB/)]);
  });

  it("hand on unified files on cgroup v2 only", () => {
    const unified = { "memory.high": "1048576", "memory.oom.group": "1", "hugetlb.2MB.max": "0" };
    expect(resources({ unified })).toEqual({ unified });
    for (const cgroupVersion of ["v1", "hybrid"] as const) {
      expect(() => resources({ unified }, { cgroupVersion })).toThrow(/need cgroup v2; this node has/);
    }
  });

  it.each(["cgroup.procs", "cgroup.kill", "../memory.max", "memory", "memory.max\n", "a/b.c", ".max"])(
    "refuse the unified file %j",
    (file) => {
      expect(() => resources({ unified: { [file]: "1" } })).toThrow(/not a limit file of a controller/);
    },
  );

  it("refuse a NUL in a unified value", () => {
    expect(() => resources({ unified: { "memory.high": "1\0" } })).toThrow(/NUL/);
  });

  it.each([-1000, -997, 0, 1000])("take the OOM score %d", (score) => {
    expect(resolve({ oomScoreAdj: BigInt(score) }).oomScoreAdj).toBe(score);
  });
});
