/** Resources beyond the common ones, in the cgroups of real containers on cgroup v1; test/vm/resources.ts has v2. */
import { globSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allowedDevices, type Config, type Container, type Resources } from "../../src/core/library/public.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

const limited = (resources: Resources, path?: string): Partial<Config> => ({
  cgroups: { path: path ?? `${place.cgroup}/${place.newId()}`, resources: { devices: allowedDevices, ...resources } },
});
const read = (container: Container, controller: string, file: string): string =>
  readFileSync(`${container.state().cgroup_paths[controller]}/${file}`, "utf8").trim();
async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}
const [major = 0, minor = 0] = readFileSync("/sys/block/vda/dev", "utf8").trim().split(":").map(Number);
const disk = { major, minor };

describe("resources", () => {
  it("are in force: burst, idle, swappiness, OOM killer, TCP memory, throttles of a disk #cpu-burst #swappiness #io-throttle #memory #cpu", async () => {
    const container = await place.sleeping(
      limited({
        cpu: { quota: 50_000, period: 100_000, burst: 20_000 },
        memory: { limit: 64 << 20, swappiness: 17, disableOOMKiller: true, kernelTCP: 8 << 20 },
        blockIO: {
          throttleReadBpsDevice: [{ ...disk, rate: 1_048_576 }],
          throttleWriteBpsDevice: [{ ...disk, rate: 2_097_152 }],
          throttleReadIOPSDevice: [{ ...disk, rate: 100 }],
          throttleWriteIOPSDevice: [{ ...disk, rate: 200 }],
        },
      }),
    );
    expect(read(container, "cpu", "cpu.cfs_burst_us")).toBe("20000");
    expect(read(container, "memory", "memory.swappiness")).toBe("17");
    expect(read(container, "memory", "memory.oom_control")).toContain("oom_kill_disable 1");
    expect(read(container, "memory", "memory.kmem.tcp.limit_in_bytes")).toBe(String(8 << 20));
    const throttle = (file: string) => read(container, "blkio", `blkio.throttle.${file}_device`);
    expect(["read_bps", "write_bps", "read_iops", "write_iops"].map(throttle)).toEqual(
      [1_048_576, 2_097_152, 100, 200].map((rate) => `${major}:${minor} ${rate}`),
    );
    await end(container);
    const idle = await place.sleeping(limited({ cpu: { idle: 1 } }));
    expect(read(idle, "cpu", "cpu.idle")).toBe("1");
    await end(idle);
  });

  it("processors and memory nodes are those of the cpuset, and numbers tell of disks and huge pages #cpuset #stats-io #stats-detail #stats-hugetlb #hugetlb", async () => {
    const container = await place.sleeping({
      ...limited({ cpu: { cpus: "0", mems: "0" }, hugepageLimits: [{ pageSize: "2MB", limit: 4 << 20 }] }),
      mounts: [...(place.config("x").mounts ?? []), { source: place.top, destination: "/data", device: "bind", flags: ["bind"] }],
    });
    expect(await output(container, "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status")).toBe(
      "Cpus_allowed_list:\t0\nMems_allowed_list:\t0",
    );
    expect(read(container, "cpuset", "cpuset.cpus")).toBe("0");
    await output(container, "dd if=/dev/zero of=/data/written bs=65536 count=16 conv=fsync 2>/dev/null");
    const { cgroup, detail } = await container.stats();
    expect(detail.cpuset).toMatchObject({ cpus: "0", mems: "0", cpu_exclusive: "0", sched_load_balance: "1" });
    expect(detail.processors).toHaveLength(availableParallelism());
    expect(detail.processors[0]?.total).toBeGreaterThan(0n);
    expect(detail.memory).toMatchObject({ hierarchical_memory_limit: expect.any(BigInt), pgfault: expect.any(BigInt) });
    expect(detail.numa.total?.N0).toBeGreaterThan(0n);
    expect(Object.keys(detail.counted)).toHaveLength(4);
    const waits = globSync("/sys/fs/cgroup/blkio/blkio.{bfq.,}io_wait_time_recursive");
    expect("waitTime" in detail.blkio).toBe(waits.length > 0);
    expect(cgroup.devices.find((device) => device.major === major && device.minor === minor)?.writeBytes).toBeGreaterThanOrEqual(
      1n << 20n,
    );
    expect(cgroup.hugepages).toContainEqual(expect.objectContaining({ pageSize: "2MB", usage: 0n }));
    await end(container);
  });

  it("device rules change in place: what was open is closed, what was closed is opened #device-rules-update #device-rules", async () => {
    const container = await place.sleeping();
    const tried = "for d in full zero; do head -c 1 /dev/$d > /dev/null 2>&1 && echo $d; done; true";
    expect(await output(container, tried)).toBe("full\nzero");
    const config = container.config();
    const without = (minor: number) => allowedDevices.filter((rule) => !(rule.major === 1 && rule.minor === minor));
    const change = (devices: typeof allowedDevices) =>
      container.set({ ...config, cgroups: { ...config.cgroups, resources: { ...config.cgroups?.resources, devices } } });
    // Opens the closed device without pause, and without a fork: a moment in which everything is allowed would be told.
    await change(without(7));
    const loop = "trap 'echo $n; exit' TERM; n=0; while :; do n=$((n+1)); true < /dev/full && echo OPEN; done 2> /dev/null";
    const prober = shell(loop, { stdout: "pipe" });
    await container.exec(prober);
    let said = "";
    prober.stdout?.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    expect(await output(container, tried)).toBe("zero");
    for (let i = 0; i < 40; i++)
      await change(allowedDevices.filter((rule) => rule.minor !== 7 && (i % 2 === 0 || rule.minor !== 5)));
    await prober.signal("TERM");
    await prober.wait();
    expect(said).toMatch(/^\d+\n$/);
    expect(Number(said)).toBeGreaterThan(40);
    await change(allowedDevices);
    expect(await output(container, tried)).toBe("full\nzero");
    await end(container);
  });

  it("cgroups are found below the caller's own, or made for the container; a frozen one is refused #cgroupfs #cgroup-refusals", async () => {
    const own = /:pids:(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1]?.replace(/^\/$/, "") ?? "";
    const id = place.newId();
    for (const cgroups of [{ path: `caisson-relative-${id}/${id}` }, { parent: `${place.cgroup}/parent`, name: id }]) {
      const container = await place.create({ cgroups: { ...cgroups, resources: { devices: allowedDevices } } }, id);
      await container.run(shell("sleep 1000"));
      const where = cgroups.path === undefined ? `${place.cgroup}/parent/${id}` : `${own}/${cgroups.path}`;
      expect(readFileSync(`/proc/${container.state().init_process_pid}/cgroup`, "utf8")).toContain(`:pids:${where}\n`);
      await end(container);
      expect(globSync(`/sys/fs/cgroup/*${own}/caisson-relative-${id}`)).toEqual([]);
    }
    const frozen = `/sys/fs/cgroup/freezer${place.cgroup}/frozen`;
    mkdirSync(frozen, { recursive: true });
    writeFileSync(`${frozen}/freezer.state`, "FROZEN");
    await expect(place.create({ cgroups: { path: `${place.cgroup}/frozen` } })).rejects.toThrow(
      "container's cgroup unexpectedly frozen",
    );
    writeFileSync(`${frozen}/freezer.state`, "THAWED");
    rmdirSync(frozen);
    rmdirSync(dirname(frozen));
    expect(place.cgroups()).toEqual([]);
  });

  it("change in place, all or none #set", async () => {
    const container = await place.sleeping(
      limited({ memory: { swappiness: 10 }, blockIO: { throttleReadBpsDevice: [{ ...disk, rate: 5000 }] } }),
    );
    const config = container.config();
    const changed = (resources: Resources): Config => ({ ...config, cgroups: { ...config.cgroups, resources } });
    const first = { memory: { swappiness: 20 }, blockIO: { throttleReadBpsDevice: [{ ...disk, rate: 6000 }] } };
    await container.set(changed(first));
    const values = () => [
      read(container, "memory", "memory.swappiness"),
      read(container, "blkio", "blkio.throttle.read_bps_device"),
    ];
    expect(values()).toEqual(["20", `${major}:${minor} 6000`]);
    const refused = {
      memory: { swappiness: 30 },
      blockIO: { throttleReadBpsDevice: [{ ...disk, rate: 7000 }], throttleWriteBpsDevice: [{ major: 0, minor: 9999, rate: 1 }] },
    };
    await expect(container.set(changed(refused))).rejects.toThrow("throttle.write_bps_device");
    expect(values()).toEqual(["20", `${major}:${minor} 6000`]);
    await end(container);
  });

  it("give real-time processes their share, also in a user namespace #cpu-realtime", async () => {
    const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const types = ["mnt", "pid", "uts", "ipc", "net", "user"] as const;
    const container = await place.sleeping({
      ...limited({ cpu: { realtimePeriod: 1_000_000, realtimeRuntime: 10_000 } }, `${place.cgroup}-rt`),
      namespaces: types.map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      scheduler: { policy: "SCHED_RR", priority: 4 },
    });
    const fields = readFileSync(`/proc/${container.state().init_process_pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    expect([fields[38], fields[37]]).toEqual(["2", "4"]);
    expect(read(container, "cpu", "cpu.rt_runtime_us")).toBe("10000");
    await end(container);
  });

  it.each([
    [{ network: { classID: 5 } }, "no cgroup controller net_cls"],
    [{ network: { priorities: [{ name: "lo", priority: 1 }] } }, "no cgroup controller net_prio"],
    [{ rdma: { mlx: { hcaHandles: 1 } } }, "no cgroup controller rdma"],
    [{ blockIO: { leafWeight: 100 } }, "blkio.leaf_weight does not exist"],
    [{ blockIO: { weight: 5 } }, "blockIO.weight 5 (10 to 1000) is not valid"],
    [{ memory: { swappiness: 101 } }, "memory.swappiness 101 is not in the range"],
    [{ unified: { "memory.high": "1" } }, 'no cgroup v2 controller "memory"'],
    [{ cpu: { quota: 50_000, period: 100_000, burst: 60_000 } }, "cpu.cfs_burst_us"],
  ])("%j is refused by name, and nothing is left", async (resources, message) => {
    const container = await place.create(limited(resources));
    await expect(container.run(shell("true"))).rejects.toThrow(message);
    await container.destroy();
    expect(place.cgroups()).toEqual([]);
  });
});
