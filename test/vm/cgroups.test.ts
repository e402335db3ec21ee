/** What pure cgroup v2 does in its own way, in containers of the library: refusals, kills, huge pages, cpusets, numbers. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, watch, writeFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { allowedDevices, type Config, type Container, type Resources } from "../../src/core/library/public.ts";
import { LibraryPlace, output, shell, until } from "../helpers/library-place.ts";

const place = new LibraryPlace();
afterAll(async () => await place[Symbol.asyncDispose]());

const top = `/sys/fs/cgroup${place.cgroup}`;
const limited = (resources: Resources, path = `${place.cgroup}/${place.newId()}`): Partial<Config> => ({
  cgroups: { path, resources: { devices: allowedDevices, ...resources } },
});
const read = (container: Container, file: string): string =>
  readFileSync(`${container.state().cgroup_paths[""]}/${file}`, "utf8").trim();
const end = async (container: Container): Promise<void> => {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
};
async function refused(changes: Partial<Config>, message: RegExp): Promise<void> {
  const container = await place.create(changes);
  await expect(container.run(shell("true"))).rejects.toThrow(message);
  await container.destroy();
}

describe("a cgroup is refused #cgroup-refusals", () => {
  it("that is threaded, that has threaded ones below it, and that lies below a threaded one", async () => {
    mkdirSync(`${top}/domain/threads`, { recursive: true });
    writeFileSync(`${top}/domain/threads/cgroup.type`, "threaded");
    const types = { domain: "domain threaded", "domain/threads": "threaded", "domain/new": "domain threaded" };
    for (const [path, type] of Object.entries(types)) {
      const said = `it is in threaded mode (cgroup.type is "${type}"); name a cgroup outside of the threaded ones`;
      await expect(place.create({ cgroups: { path: `${place.cgroup}/${path}` } })).rejects.toThrow(said);
    }
    mkdirSync(`${top}/domain/other`);
    const said = "it is in an invalid state, as a cgroup above it is threaded";
    await expect(place.create({ cgroups: { path: `${place.cgroup}/domain/other/leaf` } })).rejects.toThrow(said);
    for (const name of ["domain/other", "domain/threads", "domain", ""]) rmdirSync(`${top}/${name}`);
  });

  it("with limits, whose parent has processes of its own, and which one that is", async () => {
    const busy = await place.sleeping(limited({}, `${place.cgroup}/busy`));
    const said = new RegExp(`memory.max to 67108864: the cgroup ${top}/busy has 1 process\\(es\\) of its own`);
    await refused(limited({ memory: { limit: 64 << 20 } }, `${place.cgroup}/busy/below`), said);
    expect(readdirSync(`${top}/busy`)).not.toContain("below");
    // Some controllers could have been enabled, at the price of a threaded tree.
    expect([read(busy, "cgroup.type"), read(busy, "cgroup.subtree_control")]).toEqual(["domain", ""]);
    await end(busy);
  });
});

it("everybody is killed by cgroup.kill, who forks without end and who is frozen too #kill-all", async () => {
  const { namespaces = [] } = place.config("any");
  const changes = { ...limited({ pids: { limit: 40 } }), namespaces: namespaces.filter(({ type }) => type !== "pid") };
  for (const frozen of [false, true]) {
    const container = await place.create(changes);
    await container.run(shell("f() { sleep 1000 & while :; do (sleep 0.1; :) & sleep 0.01; done; }; f 2> /dev/null"));
    await until(async () => (await container.processes()).length > 5);
    const written = watch(`${container.state().cgroup_paths[""]}/cgroup.kill`);
    const events: string[] = [];
    written.on("change", (event) => void events.push(event));
    if (frozen) await container.pause();
    await container.signal("KILL");
    expect((await container.wait()).signal).toBe(9);
    await until(async () => (await container.processes()).length === 0 && events.length > 0);
    written.close();
    await container.destroy();
  }
});

it("huge pages are limited and counted #hugetlb #stats-hugetlb", async () => {
  writeFileSync("/proc/sys/vm/nr_hugepages", "6");
  const huge = {
    source: "hugetlbfs",
    destination: "/data",
    device: "hugetlbfs",
    flags: ["nosuid", "nodev"],
    data: "pagesize=2M",
  };
  const container = await place.sleeping({
    ...limited({ hugepageLimits: [{ pageSize: "2MB", limit: 4 << 20 }] }),
    mounts: [...(place.config("any").mounts ?? []), huge],
  });
  expect(read(container, "hugetlb.2MB.max")).toBe(String(4 << 20));
  await output(container, "busybox fallocate -l 4194304 /data/two");
  await expect(output(container, "busybox fallocate -l 2097152 /data/third")).rejects.toThrow(/fallocate/);
  const { hugepages } = (await container.stats()).cgroup;
  expect(hugepages).toContainEqual(expect.objectContaining({ pageSize: "2MB", usage: BigInt(4 << 20) }));
  expect(Number(/max (\d+)/.exec(read(container, "hugetlb.2MB.events"))?.[1])).toBeGreaterThan(0);
  await output(container, "rm /data/two");
  await end(container);
  writeFileSync("/proc/sys/vm/nr_hugepages", "0");
});

it("a cpuset holds, and numbers tell of disks, nodes and pressure #cpuset #stats-io #stats-detail #stats-pressure", async () => {
  const disk = readdirSync("/sys/block").find((name) => name.startsWith("vd")) ?? "";
  const [major = 0, minor = 0] = readFileSync(`/sys/block/${disk}/dev`, "utf8").trim().split(":").map(Number);
  const node = { path: "/dev/disk", type: "b", major, minor, permissions: "rwm", allow: true, fileMode: 0o600 } as const;
  const container = await place.sleeping({
    ...limited({ cpu: { cpus: "1", mems: "0" }, devices: [...allowedDevices, node] }),
    devices: [...allowedDevices, node],
  });
  expect(read(container, "cpuset.cpus")).toBe("1");
  const said = await output(container, "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status");
  expect(said).toBe("Cpus_allowed_list:\t1\nMems_allowed_list:\t0");
  await output(container, "dd if=/dev/zero of=/dev/disk bs=65536 count=16 conv=fsync 2>/dev/null");
  const { cgroup, detail } = await container.stats();
  expect(detail.cpuset).toMatchObject({ cpus: "1", mems: "0", "cpus.effective": "1", "mems.effective": "0" });
  expect(detail.memory).toMatchObject({ pgfault: expect.any(BigInt), inactive_file: expect.any(BigInt) });
  expect(detail.numa.anon?.N0).toBeGreaterThan(0n);
  const device = cgroup.devices.find((one) => one.major === major && one.minor === minor);
  expect(device?.writeBytes).toBeGreaterThanOrEqual(1n << 20n);
  for (const pressure of [cgroup.cpuPressure, cgroup.memoryPressure, cgroup.ioPressure])
    expect(pressure?.some).toMatchObject({ avg10: expect.any(Number) });
  await end(container);
});

it("cgroups are found below the caller's own, or made for the container; a frozen one is refused #cgroupfs #cgroup-removal", async () => {
  const own = /^0::(.*)\/[^/]*$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1] ?? "";
  const id = place.newId();
  for (const cgroups of [{ path: `caisson-relative-${id}/${id}` }, { parent: `${place.cgroup}/parent`, name: id }]) {
    const container = await place.create({ cgroups: { ...cgroups, resources: { devices: allowedDevices } } }, id);
    await container.run(shell("sleep 1000"));
    const where = cgroups.path === undefined ? `${place.cgroup}/parent/${id}` : `${own}/${cgroups.path}`;
    expect(readFileSync(`/proc/${container.state().init_process_pid}/cgroup`, "utf8")).toBe(`0::${where}\n`);
    // Cgroups of its own, below it, go with it.
    mkdirSync(`/sys/fs/cgroup${where}/inner/most`, { recursive: true });
    await end(container);
    expect(readdirSync(`/sys/fs/cgroup${own}`)).not.toContain(`caisson-relative-${id}`);
  }
  mkdirSync(`${top}/frozen`, { recursive: true });
  writeFileSync(`${top}/frozen/cgroup.freeze`, "1");
  await expect(place.create({ cgroups: { path: `${place.cgroup}/frozen` } })).rejects.toThrow("cgroup unexpectedly frozen");
  writeFileSync(`${top}/frozen/cgroup.freeze`, "0");
  rmdirSync(`${top}/frozen`);
  execFileSync("rmdir", ["--ignore-fail-on-non-empty", top]);
});
