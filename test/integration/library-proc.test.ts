/** Mounts inside /proc: the ten allowed files, lxcfs for real, and everything else refused (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561). */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allowedDevices, type Container, type Mount } from "../../src/core/library/public.ts";
import { initOutput, LibraryPlace, output, shell, until } from "../helpers/library-place.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

const mountsWith = (...more: readonly Mount[]): { mounts: readonly Mount[] } => ({
  mounts: [...(place.config("x").mounts ?? []), ...more],
});
const bind = (source: string, destination: string): Mount => ({ source, destination, device: "bind", flags: ["bind", "ro"] });

describe("lxcfs", () => {
  const names = ["cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps", "diskstats"];
  let lxcfs: ChildProcess;
  let at: string;
  beforeAll(async () => {
    at = join(place.top, "lxcfs");
    mkdirSync(at);
    lxcfs = spawn("lxcfs", ["-f", at], { stdio: "ignore" });
    await until(() => existsSync(join(at, "proc/meminfo")));
  });
  afterAll(async () => {
    // It unmounts itself.
    lxcfs.kill("SIGTERM");
    await once(lxcfs, "exit");
    rmSync(at, { recursive: true });
  });

  it("shows the container's own numbers over seven files, also in a user namespace, beside read-only and masked paths #lxcfs #proc-rule", async () => {
    const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const plain = ["mnt", "uts", "ipc", "pid", "net"] as const;
    for (const types of [plain, [...plain, "user"] as const]) {
      const id = place.newId();
      const container = await place.create(
        {
          ...mountsWith(...names.map((name) => bind(join(at, "proc", name), `/proc/${name}`))),
          namespaces: types.map((type) => ({ type })),
          ...(types.length > plain.length ? { uidMappings: ids, gidMappings: ids } : {}),
          cgroups: { path: `${place.cgroup}/${id}`, resources: { devices: allowedDevices, memory: { limit: 64 << 20 } } },
          maskPaths: ["/proc/kcore", "/proc/timer_list"],
          readonlyPaths: ["/proc/sys", "/proc/sysrq-trigger"],
        },
        id,
      );
      await container.run(shell("exec sleep 1000"));
      expect(await output(container, "head -n 1 /proc/meminfo")).toMatch(/^MemTotal:\s+65536 kB$/);
      const mounted = (await output(container, "grep lxcfs /proc/self/mountinfo")).split("\n").map((line) => line.split(" ")[4]);
      expect(mounted.toSorted()).toEqual(names.map((name) => `/proc/${name}`).toSorted());
      for (const name of names) expect(await output(container, `wc -c < /proc/${name}`)).not.toBe("0");
      const hostUptime = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
      expect(Number((await output(container, "cat /proc/uptime")).split(" ")[0])).toBeLessThan(hostUptime / 2);
      await end(container);
    }
  });
});

describe("a file over procfs #proc-rule", () => {
  const allowed = [
    ...["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"],
    ...["sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"],
  ].filter((name) => existsSync(`/proc/${name}`));
  let file: string;
  beforeAll(() => {
    file = join(place.top, "file");
    writeFileSync(file, "mine\n");
  });

  it("is possible at the ten allowed paths", async () => {
    expect(allowed.length).toBeGreaterThanOrEqual(9);
    const container = await place.create(mountsWith(...allowed.map((name) => bind(file, `/proc/${name}`))));
    expect(await initOutput(container, `cd /proc; cat ${allowed.join(" ")}`)).toBe(allowed.map(() => "mine").join("\n"));
    await container.destroy();
  });

  it("goes by where the path leads: dots and links of the image", async () => {
    const link = join(place.rootfs, "data/uptime");
    symlinkSync("/proc/uptime", link);
    const container = await place.create(mountsWith(bind(file, "/proc/../proc/meminfo"), bind(file, "/data/uptime")));
    expect(await initOutput(container, "cat /proc/meminfo /proc/uptime")).toBe("mine\nmine");
    await container.destroy();
    unlinkSync(link);
  });

  it.each([
    "/proc/net/dev",
    "/proc/self/net/dev",
    "/proc/1/attr/exec",
    "/proc/self/attr/current",
    "/proc/pressure/cpu",
    "/proc/sys/kernel/core_pattern",
    "/proc/version",
    "/proc/filesystems",
    "/proc/stats",
    "/data/../proc/cmdline",
  ])("is refused at %s", async (path) => {
    const container = await place.create(mountsWith(bind(file, path)));
    await expect(container.run(shell("true"))).rejects.toThrow(path === "/proc/stats" ? /proc\/stats/ : /inside \/proc/);
    await container.destroy();
  });

  it("is refused through a link of the image", async () => {
    const link = join(place.rootfs, "data/trigger");
    symlinkSync("/proc/version", link);
    const container = await place.create(mountsWith(bind(file, "/data/trigger")));
    await expect(container.run(shell("true"))).rejects.toThrow("/proc/version cannot be mounted because it is inside /proc");
    await container.destroy();
    unlinkSync(link);
  });
});

describe("/proc itself #proc-rule", () => {
  it.each([
    ["a tmpfs", { source: "tmpfs", destination: "/proc", device: "tmpfs" }],
    ["a directory of the host", { source: "/tmp", destination: "/proc", device: "bind", flags: ["bind"] }],
    ["a directory inside", { source: "/tmp", destination: "/proc/sys/kernel", device: "bind", flags: ["bind"] }],
  ] as const)("cannot be %s (CVE-2015-3631, CVE-2019-16884)", async (_, mount) => {
    const container = await place.create(mountsWith(mount));
    await expect(container.run(shell("true"))).rejects.toThrow(/not of type proc|inside \/proc/);
    await container.destroy();
  });

  it("may be the host's procfs", async () => {
    const { mounts = [] } = place.config("x");
    const host = { source: "/proc", destination: "/proc", device: "bind", flags: ["rbind", "ro"] };
    const container = await place.create({ mounts: mounts.map((mount) => (mount.destination === "/proc" ? host : mount)) });
    expect(await initOutput(container, "ls /proc/self/status")).toBe("/proc/self/status");
    await container.destroy();
  });

  it("is no link of the image, and neither is /sys (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642)", async () => {
    for (const name of ["proc", "sys"]) {
      const path = join(place.rootfs, name);
      renameSync(path, `${path}.away`);
      symlinkSync("/etc", path);
      const container = await place.create();
      await expect(container.run(shell("true"))).rejects.toThrow("must be mounted on an ordinary directory");
      await container.destroy();
      unlinkSync(path);
      renameSync(`${path}.away`, path);
    }
  });
});
