import { describe, expect, it } from "vitest";
import { ioWeight } from "../../../../src/core/cgroup/device-writes.ts";
import { cpuWeight, type ResourceContext, resourceWrites } from "../../../../src/core/cgroup/resource-writes.ts";
import type { OciResources } from "../../../../src/core/oci.ts";

const v1: ResourceContext = { versionOf: () => 1, currentMemoryLimit: undefined };
const v2: ResourceContext = { versionOf: () => 2, currentMemoryLimit: undefined };
const lines = (resources: OciResources, context: ResourceContext) =>
  resourceWrites(resources, context).map(({ file, value }) => `${file}=${value}`);

describe("resources on cgroup v1", () => {
  it("set memory below memory and swap in a new cgroup", () => {
    expect(lines({ memory: { limit: 100, swap: 200, reservation: 50 } }, v1)).toEqual([
      "memory.limit_in_bytes=100",
      "memory.memsw.limit_in_bytes=200",
      "memory.soft_limit_in_bytes=50",
    ]);
  });

  it("raise memory and swap before memory", () => {
    const used = { ...v1, currentMemoryLimit: 100n };
    expect(lines({ memory: { limit: 150, swap: 200 } }, used)).toEqual([
      "memory.memsw.limit_in_bytes=200",
      "memory.limit_in_bytes=150",
    ]);
    expect(lines({ memory: { limit: 50, swap: 60 } }, used)).toEqual([
      "memory.limit_in_bytes=50",
      "memory.memsw.limit_in_bytes=60",
    ]);
  });

  it("take both limits away together", () => {
    expect(lines({ memory: { limit: -1 } }, v1)).toEqual(["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
  });

  it("set the period before the quota", () => {
    expect(lines({ cpu: { shares: 512, quota: 20_000, period: 50_000, cpus: "0-1", mems: "0" } }, v1)).toEqual([
      "cpu.shares=512",
      "cpu.cfs_period_us=50000",
      "cpu.cfs_quota_us=20000",
      "cpuset.cpus=0-1",
      "cpuset.mems=0",
    ]);
    expect(lines({ cpu: { quota: -7 } }, v1)).toEqual(["cpu.cfs_quota_us=-1"]);
  });

  it("refuse unified entries", () => {
    expect(() => lines({ unified: { "memory.high": "1" } }, v1)).toThrow(/no cgroup v2 controller "memory"/);
  });
});

describe("resources on cgroup v2", () => {
  it("turn memory and swap into swap alone", () => {
    expect(lines({ memory: { limit: 100, swap: 100 } }, v2)).toEqual(["memory.swap.max=0", "memory.max=100"]);
    expect(lines({ memory: { limit: 100, swap: 150 } }, v2)).toEqual(["memory.swap.max=50", "memory.max=100"]);
    expect(lines({ memory: { limit: 100, swap: -1 } }, v2)).toEqual(["memory.swap.max=max", "memory.max=100"]);
    expect(lines({ memory: { limit: -1 } }, v2)).toEqual(["memory.swap.max=max", "memory.max=max"]);
    expect(lines({ memory: { limit: -1, swap: 70 } }, v2)).toEqual(["memory.swap.max=70", "memory.max=max"]);
    expect(lines({ memory: { limit: 100 } }, v2)).toEqual(["memory.max=100"]);
  });

  it("give quota and period in one line", () => {
    expect(lines({ cpu: { quota: 20_000 } }, v2)).toEqual(["cpu.max=20000 100000"]);
    expect(lines({ cpu: { quota: -1, period: 50_000 } }, v2)).toEqual(["cpu.max=max 50000"]);
    expect(lines({ cpu: { shares: 1024 } }, v2)).toEqual(["cpu.weight=100"]);
  });

  it.each([
    [2, 1],
    [102, 17],
    [512, 59],
    [1024, 100],
    [2048, 174],
    [262_144, 10_000],
  ])("give %i shares the weight %i", (shares, weight) => {
    expect(cpuWeight(shares)).toBe(weight);
  });

  it("write unified entries verbatim, line by line", () => {
    expect(lines({ unified: { "memory.oom.group": "1", "io.max": "8:0 rbps=1\n8:16 wbps=2" } }, v2)).toEqual([
      "memory.oom.group=1",
      "io.max=8:0 rbps=1",
      "io.max=8:16 wbps=2",
    ]);
  });

  it("never leave the cgroup's directory", () => {
    for (const file of ["../memory.max", "a/b", "", "/etc/passwd", "memory..max/../x"]) {
      expect(() => lines({ unified: { [file]: "1" } }, v2)).toThrow(/not the name of a cgroup file/);
    }
  });
});

describe("resources on either version", () => {
  it("limit processes", () => {
    expect(lines({ pids: { limit: 5 } }, v1)).toEqual(["pids.max=5"]);
    expect(lines({ pids: { limit: 0 } }, v2)).toEqual(["pids.max=1"]);
    expect(lines({ pids: { limit: -1 } }, v2)).toEqual(["pids.max=max"]);
  });

  it("limit huge pages where the controller is, and do not fail where it is not", () => {
    const hugepageLimits = [{ pageSize: "2MB", limit: 0 }];
    expect(lines({ hugepageLimits }, v1)).toEqual(["hugetlb.2MB.limit_in_bytes=0", "hugetlb.2MB.rsvd.limit_in_bytes=0"]);
    expect(lines({ hugepageLimits }, v2)).toEqual(["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"]);
    expect(lines({ hugepageLimits }, { ...v1, versionOf: () => undefined })).toEqual([]);
    expect(() => lines({ hugepageLimits: [{ pageSize: "../2MB", limit: 0 }] }, v1)).toThrow(/huge page size/);
  });

  it("place each group where its controller is on a hybrid host", () => {
    const hybrid: ResourceContext = { versionOf: (name) => (name === "hugetlb" ? 2 : 1), currentMemoryLimit: undefined };
    expect(lines({ memory: { limit: 9 }, hugepageLimits: [{ pageSize: "1GB", limit: 4 }] }, hybrid)).toEqual([
      "memory.limit_in_bytes=9",
      "hugetlb.1GB.max=4",
      "hugetlb.1GB.rsvd.max=4",
    ]);
  });

  it("refuse memory limits that contradict each other", () => {
    expect(() => lines({ memory: { swap: 10 } }, v2)).toThrow(/needs a memory limit/);
    expect(() => lines({ memory: { limit: 20, swap: 10 } }, v2)).toThrow(/below the memory limit/);
    expect(() => lines({ memory: { limit: -2 } }, v1)).toThrow(/negative/);
  });
});

describe("resources of devices", () => {
  const rate = { major: 8, minor: 1, rate: 7 };

  it("have a file each on v1", () => {
    const blockIO = {
      weight: 100,
      leafWeight: 20,
      weightDevice: [{ major: 8, minor: 1, weight: 30 }],
      throttleReadBpsDevice: [rate],
    };
    const writes = resourceWrites({ blockIO, network: { classID: 3, priorities: [{ name: "lo", priority: 4 }] } }, v1);
    expect(writes.map(({ file, value }) => `${file}=${value}`)).toEqual([
      "blkio.weight=100",
      "blkio.leaf_weight=20",
      "blkio.weight_device=8:1 30",
      "blkio.throttle.read_bps_device=8:1 7",
      "net_cls.classid=3",
      "net_prio.ifpriomap=lo 4",
    ]);
    expect(writes.map(({ orElse }) => orElse?.file)).toEqual([
      "blkio.bfq.weight",
      undefined,
      "blkio.bfq.weight_device",
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("share io.max on v2, and weights are converted where only io.weight is there", () => {
    const blockIO = {
      weight: 1000,
      weightDevice: [{ major: 8, minor: 1, weight: 30 }],
      throttleWriteIOPSDevice: [rate, { ...rate, rate: 0 }],
    };
    const writes = resourceWrites({ blockIO, rdma: { mlx: { hcaHandles: 3, hcaObjects: 4 } } }, v2);
    expect(writes.map(({ file, value }) => `${file}=${value}`)).toEqual([
      "io.bfq.weight=1000",
      "io.bfq.weight=8:1 30",
      "io.max=8:1 wiops=7",
      "io.max=8:1 wiops=max",
      "rdma.max=mlx hca_handle=3 hca_object=4",
    ]);
    expect(writes[0]?.orElse).toMatchObject({ file: "io.weight", value: "10000" });
    expect([10, 100, 1000].map(ioWeight)).toEqual([1, 910, 10_000]);
  });

  it.each([{ weight: 9 }, { weight: 1001 }, { throttleReadBpsDevice: [{ ...rate, rate: -1 }] }])("refuse %j", (blockIO) => {
    expect(() => resourceWrites({ blockIO }, v2)).toThrow("is not valid");
  });
});
