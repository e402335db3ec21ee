import { describe, expect, it } from "vitest";
import { readMetrics } from "../../../../src/core/cgroup/cgroup-metrics.ts";
import { readStats, type StatsPlaces } from "../../../../src/core/cgroup/cgroup-stats.ts";
import { DeviceNames } from "../../../../src/core/cgroup/device-names.ts";
import { devicesOf, devicesOfV1, fieldOf, numberOf, pressureOf } from "../../../../src/core/cgroup/stat-text.ts";
import { interfacesOf } from "../../../../src/core/network-counters.ts";

/** A cgroup filesystem as a map; counts how often each file is read. */
function tree(files: Readonly<Record<string, string>>) {
  const reads: string[] = [];
  const read = async (paths: readonly string[]): Promise<(string | undefined)[]> => {
    reads.push(...paths);
    return paths.map((path) => files[path]);
  };
  return { reads, read, once: () => expect(new Set(reads).size).toBe(reads.length) };
}

const pressure = "some avg10=1.50 avg60=0.25 avg300=0.00 total=2500\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7";
const v1 = (name: string) => ({ version: 1 as const, directory: `/cg/${name}/x` });
const v1Places: StatsPlaces = {
  cpu: v1("cpu"),
  cpuacct: v1("cpuacct"),
  memory: v1("memory"),
  pids: v1("pids"),
  io: v1("blkio"),
  hugetlb: { version: 2, directory: "/cg/unified/x" },
  unified: "/cg/unified/x",
};
const v1Files = {
  "/cg/cpuacct/x/cpuacct.usage": "123456789",
  "/cg/cpuacct/x/cpuacct.stat": "user 300\nsystem 12",
  "/cg/cpu/x/cpu.stat": "nr_periods 10\nnr_throttled 3\nthrottled_time 5000",
  "/cg/memory/x/memory.usage_in_bytes": "1000",
  "/cg/memory/x/memory.limit_in_bytes": "4000",
  "/cg/memory/x/memory.memsw.usage_in_bytes": "1200",
  "/cg/memory/x/memory.memsw.limit_in_bytes": "5000",
  "/cg/memory/x/memory.max_usage_in_bytes": "1500",
  "/cg/memory/x/memory.failcnt": "2",
  "/cg/memory/x/memory.kmem.usage_in_bytes": "77",
  "/cg/memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4",
  "/cg/memory/x/memory.stat":
    "cache 1\npgfault 5\npgmajfault 6\ntotal_cache 400\ntotal_rss 300\ntotal_mapped_file 20\ntotal_pgfault 50\ntotal_pgmajfault 60\ntotal_inactive_file 150\ntotal_active_file 250",
  "/cg/pids/x/pids.current": "9",
  "/cg/pids/x/pids.max": "max",
  "/cg/pids/x/cgroup.procs": "11\n12\n0",
  "/cg/blkio/x/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\nTotal 4196",
  "/cg/blkio/x/blkio.throttle.io_serviced_recursive": "8:0 Read 2\n8:0 Write 1\nTotal 3",
  "/cg/unified/x/cpu.pressure": pressure,
  "/cg/unified/x/memory.pressure": pressure,
  "/cg/unified/x/hugetlb.2MB.current": "2097152",
  "/proc/11/limits":
    "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files     ",
};

const v2At = { version: 2 as const, directory: "/cg/x" };
const v2Places: StatsPlaces = {
  cpu: v2At,
  cpuacct: v2At,
  memory: v2At,
  pids: v2At,
  io: v2At,
  hugetlb: v2At,
  unified: "/cg/x",
};
const v2Files = {
  "/cg/x/cpu.stat":
    "usage_usec 1000\nuser_usec 600\nsystem_usec 400\nnr_periods 5\nnr_throttled 2\nthrottled_usec 30\nnr_bursts 0\nburst_usec 0",
  "/cg/x/memory.current": "1000",
  "/cg/x/memory.max": "max",
  "/cg/x/memory.swap.current": "10",
  "/cg/x/memory.swap.max": "0",
  "/cg/x/memory.peak": "2000",
  "/cg/x/memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1",
  "/cg/x/memory.stat":
    "anon 300\nfile 500\nkernel 90\nkernel_stack 16\nfile_mapped 25\ninactive_file 2000\nactive_file 100\npgfault 55\npgmajfault 1",
  "/cg/x/pids.current": "3",
  "/cg/x/pids.max": "64",
  "/cg/x/cgroup.procs": "",
  "/cg/x/io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \n254:0 rbytes=9",
  "/cg/x/cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1",
  "/cg/x/hugetlb.2MB.current": "0",
};

const metricsOf = (places: StatsPlaces, files: Readonly<Record<string, string>>) => {
  const { read, once } = tree(files);
  const names = new DeviceNames(async ([path]) => [path === "/sys/dev/block/8:0/uevent" ? "MAJOR=8\nDEVNAME=sda" : undefined]);
  const sources = {
    pageSizes: ["2MB"],
    read,
    countDescriptors: async (pids: readonly number[]) => ({ descriptors: 10 * pids.length, sockets: 4 }),
    deviceName: (major: number, minor: number) => names.of(major, minor),
  };
  return { metrics: readMetrics(places, sources, () => 42n), once };
};

describe("the statistics of a cgroup", () => {
  it("come from v1 files, with the pressure of the v2 tree beside them", async () => {
    const { read, reads, once } = tree(v1Files);
    expect(await readStats(v1Places, read, () => 42n)).toEqual({
      timestampNs: 42n,
      cpuUsageNs: 123456789n,
      memoryUsage: 1000n,
      memoryWorkingSet: 850n,
      memoryLimit: 4000n,
      memoryRss: 300n,
      memoryPageFaults: 50n,
      memoryMajorPageFaults: 60n,
      swapUsage: 200n,
      swapLimit: 1000n,
      processCount: 9n,
      cpuPressure: {
        some: { avg10: 1.5, avg60: 0.25, avg300: 0, totalNs: 2_500_000n },
        full: { avg10: 0, avg60: 0, avg300: 0, totalNs: 7_000n },
      },
      memoryPressure: expect.objectContaining({ some: expect.objectContaining({ totalNs: 2_500_000n }) }),
      ioPressure: undefined,
    });
    once();
    expect(reads).toHaveLength(10);
  });

  it("come from v2 files", async () => {
    const { read, reads, once } = tree(v2Files);
    expect(await readStats(v2Places, read, () => 42n)).toMatchObject({
      cpuUsageNs: 1_000_000n,
      memoryUsage: 1000n,
      memoryWorkingSet: 0n,
      memoryLimit: undefined,
      memoryRss: 300n,
      swapUsage: 10n,
      swapLimit: 0n,
      processCount: 3n,
      cpuPressure: { some: { totalNs: 1000n }, full: undefined },
    });
    once();
    expect(reads).toHaveLength(10);
  });

  it("are undefined for a cgroup that is not there, and lack what the machine lacks", async () => {
    expect(await readStats(v2Places, tree({}).read, () => 1n)).toBeUndefined();
    const bare = { cpu: undefined, memory: undefined, pids: undefined, io: undefined, hugetlb: undefined, unified: undefined };
    const { read } = tree(v1Files);
    const stats = await readStats({ ...bare, cpuacct: v1("cpuacct") }, read, () => 1n);
    expect(stats).toMatchObject({ cpuUsageNs: 123456789n, memoryUsage: undefined, cpuPressure: undefined });
  });

  it("take v1's number for no limit as none", async () => {
    const files = { ...v1Files, "/cg/memory/x/memory.limit_in_bytes": "9223372036854771712" };
    expect(await readStats(v1Places, tree(files).read, () => 1n)).toMatchObject({ memoryLimit: undefined, swapLimit: undefined });
  });
});

describe("the metrics of a cgroup", () => {
  it("have everything of v1, each file read once", async () => {
    const { metrics, once } = metricsOf(v1Places, v1Files);
    expect(await metrics).toMatchObject({
      cpuUsageNs: 123456789n,
      cpuUserNs: 3_000_000_000n,
      cpuSystemNs: 120_000_000n,
      cpuPeriods: 10n,
      cpuThrottledPeriods: 3n,
      cpuThrottledNs: 5000n,
      memoryCache: 400n,
      memoryMappedFile: 20n,
      memoryKernel: 77n,
      memoryPeak: 1500n,
      memoryActiveFile: 250n,
      memoryInactiveFile: 150n,
      memoryLimitHits: 2n,
      memoryOwnPageFaults: 5n,
      memoryOwnMajorPageFaults: 6n,
      memoryPageFaults: 50n,
      oomKills: 4n,
      processLimit: undefined,
      processes: 2n,
      descriptors: 20n,
      sockets: 4n,
      softOpenFiles: 1024n,
      devices: [{ device: "/dev/sda", major: 8, minor: 0, readBytes: 4096n, writeBytes: 100n, reads: 2n, writes: 1n }],
      hugepages: [{ pageSize: "2MB", usage: 2_097_152n, peak: undefined }],
    });
    once();
  });

  it("have everything of v2, each file read once", async () => {
    const { metrics, once } = metricsOf(v2Places, v2Files);
    expect(await metrics).toMatchObject({
      cpuUserNs: 600_000n,
      cpuSystemNs: 400_000n,
      cpuPeriods: 5n,
      cpuThrottledNs: 30_000n,
      memoryCache: 500n,
      memoryKernel: 90n,
      memoryPeak: 2000n,
      memoryLimitHits: 7n,
      oomKills: 1n,
      processLimit: 64n,
      processes: 0n,
      softOpenFiles: undefined,
      devices: [
        { device: "/dev/sda", readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n },
        { device: "253:1", readBytes: 0n },
        { device: "254:0", readBytes: 9n, writes: 0n },
      ],
    });
    once();
  });
});

describe("texts of the kernel", () => {
  it.each([
    ["12", 12n],
    ["max", undefined],
    ["", undefined],
    ["-1", undefined],
    [undefined, undefined],
  ])("%s as a number is %s", (text, value) => expect(numberOf(text)).toBe(value));

  it("find a field only as a whole word at the beginning of a line", () => {
    const text = "total_rss 5\nrss 7\nrss_huge 9";
    expect(fieldOf(text, "rss")).toBe(7n);
    expect(fieldOf(text, "total_rss")).toBe(5n);
    expect(fieldOf(text, "rss_huge")).toBe(9n);
    expect(fieldOf(text, "huge")).toBeUndefined();
    expect(fieldOf(undefined, "rss")).toBeUndefined();
  });

  it("do without what does not look as expected", () => {
    expect(pressureOf("")).toBeUndefined();
    expect(pressureOf("some nonsense")).toBeUndefined();
    expect(devicesOf("nonsense\n")).toEqual([]);
    expect(devicesOfV1("Total 0", undefined)).toEqual([]);
  });

  it("of interfaces leave out the loopback, and take names that touch their numbers", () => {
    const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:12345678901234567890       2    3    4    0     0          0         0      5       6    7    8    0     0       0          0
net1.5: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16`;
    expect(interfacesOf(text)).toEqual([
      {
        name: "eth0",
        rxBytes: 12345678901234567890n,
        rxPackets: 2n,
        rxErrors: 3n,
        rxDropped: 4n,
        txBytes: 5n,
        txPackets: 6n,
        txErrors: 7n,
        txDropped: 8n,
      },
      {
        name: "net1.5",
        rxBytes: 1n,
        rxPackets: 2n,
        rxErrors: 3n,
        rxDropped: 4n,
        txBytes: 9n,
        txPackets: 10n,
        txErrors: 11n,
        txDropped: 12n,
      },
    ]);
  });
});
