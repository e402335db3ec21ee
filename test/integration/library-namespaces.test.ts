/** Namespaces, roots and OCI bundles of the library's containers. */
import { mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Config, Container, fromOciSpec, type NamespaceType, Process } from "../../src/core/library/public.ts";
import { onV2 } from "../helpers/cgroup-files.ts";
import { initOutput, LibraryPlace, output, shell } from "../helpers/library-place.ts";

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

const inode = (container: Container, type: string) => readlinkSync(`/proc/${container.state().init_process_pid}/ns/${type}`);
const own = (type: string) => readlinkSync(`/proc/self/ns/${type}`);
const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
const user: Partial<Config> = { uidMappings: ids, gidMappings: ids };
const all = (types: readonly NamespaceType[]) => types.map((type) => ({ type }));
const everything: readonly NamespaceType[] = ["mnt", "uts", "ipc", "pid", "net", "user", "cgroup", "time"];

describe("new namespaces", () => {
  it("makes each kind that is asked for, and only those #ns-new #ns-host", async () => {
    for (const type of everything.filter((kind) => kind !== "mnt" && kind !== "user")) {
      const config = { ...place.config("x"), namespaces: all(["mnt", type]) };
      const { hostname, ...rest } = config;
      const id = place.newId();
      const container = await Container.create(place.stateDir, id, {
        ...rest,
        ...(type === "uts" ? { hostname: hostname ?? "" } : {}),
        cgroups: { path: `${place.cgroup}/${id}`, resources: rest.cgroups?.resources ?? {} },
      });
      await container.run(shell("sleep 1000"));
      for (const kind of everything) {
        const isOwn = inode(container, kind) === own(kind);
        expect(`${type}: ${kind} ${isOwn ? "shared" : "new"}`).toBe(
          `${type}: ${kind} ${kind === type || kind === "mnt" ? "new" : "shared"}`,
        );
      }
      expect(await output(container, `readlink /proc/self/ns/${type}`)).toBe(inode(container, type));
      await end(container);
    }
  });

  it("makes all at once, owned by the user namespace, and further processes join all #ns-new #id-mappings #exec", async () => {
    const container = await place.sleeping({ ...user, namespaces: all(everything) });
    for (const kind of everything) expect(inode(container, kind)).not.toBe(own(kind));
    const inside = await output(container, everything.map((kind) => `readlink /proc/self/ns/${kind}`).join(";"));
    expect(inside.split("\n")).toEqual(everything.map((kind) => inode(container, kind)));
    expect(
      await output(container, "cat /proc/self/uid_map; ip link set lo mtu 1400 && echo ours", {
        capabilities: { bounding: ["CAP_NET_ADMIN"], effective: ["CAP_NET_ADMIN"], permitted: ["CAP_NET_ADMIN"] },
      }),
    ).toMatch(/^\s*0\s+200000\s+65536\nours$/);
    await end(container);
    expect(place.leftovers()).toEqual([]);
  });

  it("lets a user namespace be made inside the container's #nested-user-namespace", async () => {
    const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const types = ["mnt", "pid", "uts", "ipc", "net", "user"] as const;
    const container = await place.sleeping({
      namespaces: types.map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
    });
    const seen = await output(container, "busybox unshare -U -r sh -c 'id -u; cat /proc/self/uid_map'", { user: "user" });
    expect(seen.split("\n").map((line) => line.trim().split(/\s+/))).toEqual([["0"], ["0", "1000", "1"]]);
    await end(container);
  });

  it("sets the clocks of a time namespace, with and without a user namespace #time-offsets", async () => {
    for (const changes of [
      { namespaces: all(["mnt", "uts", "pid", "time"]) },
      { ...user, namespaces: all(["mnt", "uts", "pid", "net", "ipc", "user", "time"]) },
    ]) {
      const container = await place.create({
        ...changes,
        timeOffsets: { boottime: { secs: 1_000_000 }, monotonic: { secs: 5, nanosecs: 7 } },
      });
      const text = await initOutput(
        container,
        "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime || cat /proc/uptime; echo pid $$",
      );
      expect(text).toMatch(/monotonic\s+5\s+7/);
      expect(text).toMatch(/boottime\s+1000000\s+0/);
      expect(text).toContain("pid 1");
      await container.destroy();
    }
  });

  it("sets sysctls of its own and brings up the loopback device #sysctl #loopback", async () => {
    for (const changes of [{}, { ...user, namespaces: all(["mnt", "uts", "ipc", "pid", "net", "user"]) }]) {
      const container = await place.create({
        ...changes,
        sysctl: { "net.ipv4.ip_unprivileged_port_start": "77", "kernel/msgmax": "4242" },
      });
      const text = await initOutput(
        container,
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; ip -o addr",
      );
      expect(text).toMatch(/^77\n4242\n/);
      expect(text).toContain("127.0.0.1/8");
      await container.destroy();
    }
  });
});

describe("joined namespaces", () => {
  it("joins each kind of another container by its path #ns-join", async () => {
    const other = await place.sleeping({ ...user, namespaces: all(everything) });
    const path = (type: string) => `/proc/${other.state().init_process_pid}/ns/${type}`;
    for (const type of everything.filter((kind) => kind !== "mnt")) {
      const needsUser = type !== "user";
      const joined = { type, path: path(type) };
      const namespaces = [{ type: "mnt" as const }, ...(needsUser ? [] : all(["net", "ipc", "pid"])), joined];
      const id = place.newId();
      const { hostname: _hostname, ...rest } = place.config(id, { namespaces });
      const container = await Container.create(place.stateDir, id, rest);
      await container.run(shell("sleep 1000"));
      expect(`${type} ${inode(container, type)}`).toBe(`${type} ${inode(other, type)}`);
      expect(await output(container, `readlink /proc/self/ns/${type}`)).toBe(inode(other, type));
      await end(container);
    }
    await end(other);
    expect(place.leftovers()).toEqual([]);
  });

  it("joins all of another container, its mounts too #ns-join", async () => {
    const other = await place.sleeping({ ...user, namespaces: all(everything) });
    const pid = other.state().init_process_pid;
    const namespaces = everything.map((type) => ({ type, path: `/proc/${pid}/ns/${type}` }));
    const id = place.newId();
    const container = await Container.create(place.stateDir, id, {
      rootfs: "/",
      namespaces,
      cgroups: place.config(id).cgroups ?? {},
    });
    await container.run(new Process({ args: ["sleep", "1000"], env: ["PATH=/bin"] }));
    for (const type of everything) expect(inode(container, type)).toBe(inode(other, type));
    expect(await output(container, "ls /; hostname")).toContain("library");
    await end(container);
    await end(other);
  });

  it("takes its own namespace by path as shared #ns-join", async () => {
    const container = await place.sleeping({
      namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "net", path: "/proc/self/ns/net" }],
    });
    expect(inode(container, "net")).toBe(own("net"));
    await end(container);
  });

  it("refuses what is no namespace of that kind (class-namespace-files) #ns-join", async () => {
    const container = await place.create({
      namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "net", path: "/proc/self/ns/ipc" }],
    });
    await expect(container.run(shell("true"))).rejects.toThrow("/proc/self/ns/ipc is no net namespace");
    await container.destroy();
    const missing = await place.create({ namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "net", path: "/no/such" }] });
    await expect(missing.run(shell("true"))).rejects.toThrow("the net namespace /no/such cannot be opened");
    await missing.destroy();
    expect(place.leftovers()).toEqual([]);
  });
});

describe("root", () => {
  it("is the given directory, read-only where asked, and hides the host's #pivot-root #read-only-root", async () => {
    const container = await place.create({
      readonlyfs: true,
      maskPaths: ["/proc/acpi", "/proc/timer_list"],
      readonlyPaths: ["/proc/sys"],
    });
    const text = await initOutput(
      container,
      "ls /; touch /x 2>&1; cat /proc/timer_list | wc -c; touch /dev/shm/ok && echo ok; ls /home",
    );
    expect(text).toContain("Read-only file system");
    expect(text).toMatch(/^0\nok\nuser$/m);
    await container.destroy();
  });

  it("writes through to the directory", async () => {
    const container = await place.create();
    await initOutput(container, "echo from inside > /data/file");
    expect(readFileSync(join(place.rootfs, "data/file"), "utf8")).toBe("from inside\n");
    await container.destroy();
  });

  it("binds directories, also id-mapped #bind #idmap", async () => {
    const source = join(place.top, "source");
    mkdirSync(source, { recursive: true });
    writeFileSync(join(source, "file"), "content");
    const mounts = [
      ...(place.config("x").mounts ?? []),
      { destination: "/data", source, device: "bind", flags: ["bind", "idmap"] },
    ];
    const container = await place.create({ ...user, namespaces: all(["mnt", "uts", "ipc", "pid", "net", "user"]), mounts });
    expect(await initOutput(container, "stat -c %u /data/file; echo more > /data/made")).toBe("0");
    expect(statSync(join(source, "made")).uid).toBe(0);
    await container.destroy();
  });

  it("keeps device rules in force #device-rules", async () => {
    const container = await place.sleeping();
    const caps = { bounding: ["CAP_MKNOD"], effective: ["CAP_MKNOD"], permitted: ["CAP_MKNOD"] };
    const text = await output(
      container,
      "mknod /dev/kmsg2 c 1 11 && (cat /dev/kmsg2 2>&1 | head -1); cat /dev/null && echo null",
      { capabilities: caps },
    );
    expect(text).toMatch(/Operation not permitted\n?null$/);
    await end(container);
  });
});

describe("an OCI bundle", () => {
  it("runs as its config.json says #oci-config", async () => {
    const id = place.newId();
    const spec = {
      ociVersion: "1.3.0",
      process: {
        args: ["sh", "-c", "id; hostname; pwd; cat /data/file; ls /dev/full"],
        env: ["PATH=/bin"],
        cwd: "/tmp",
        user: { uid: 1000, gid: 1001 },
      },
      root: { path: "rootfs" },
      hostname: "bundle",
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755"] },
        { destination: "/data", type: "bind", source: "source", options: ["rbind", "ro"] },
      ],
      linux: {
        cgroupsPath: `${place.cgroup}/${id}`,
        namespaces: ["mount", "pid", "uts", "ipc", "network"].map((type) => ({ type })),
      },
      annotations: { a: "b" },
    };
    mkdirSync(join(place.top, "source"), { recursive: true });
    writeFileSync(join(place.top, "source/file"), "bound\n");
    const { config, process } = fromOciSpec(spec, place.top);
    const container = await Container.create(place.stateDir, id, config);
    const first = new Process({ ...process, stdout: "pipe", stderr: "pipe" });
    await container.run(first);
    const [out, err] = await Promise.all([first.stdout?.toArray(), first.stderr?.toArray()]);
    expect(err).toEqual([]);
    expect(out?.join("")).toBe("uid=1000(user) gid=1001(user)\nbundle\n/tmp\nbound\n/dev/full\n");
    expect(await container.ociState()).toEqual({
      ociVersion: "1.3.0",
      id,
      status: "stopped",
      bundle: place.top,
      annotations: { a: "b" },
    });
    await container.destroy();
  });
});

describe("namespaces of others", () => {
  const kinds = ["net", "ipc", "uts", "pid"] as const;

  it("are joined by container and by pid #ns-join-of", async () => {
    const first = await place.sleeping();
    const { init_process_pid: pid } = first.state();
    for (const whose of [{ container: first.id }, { pid }]) {
      const { hostname: _, ...config } = place.config("x");
      const id = place.newId();
      const second = await Container.create(place.stateDir, id, {
        ...config,
        namespaces: [{ type: "mnt" }, ...kinds.map((type) => ({ type, ...whose }))],
        cgroups: { path: `${place.cgroup}/${id}`, resources: config.cgroups?.resources ?? {} },
      });
      await second.run(shell("exec sleep 1000"));
      for (const kind of kinds) expect(inode(second, kind)).toBe(inode(first, kind));
      expect(inode(second, "mnt")).not.toBe(inode(first, "mnt"));
      await end(second);
    }
    await end(first);
  });

  it("are refused of what does not run, and of a process that has ended meanwhile (class-recycled-pid) #ns-join-of", async () => {
    const namespaces = (whose: object) => [
      { type: "mnt" as const },
      { type: "uts" as const },
      { type: "net" as const, ...whose },
    ];
    const stopped = await place.create();
    await expect(place.create({ namespaces: namespaces({ container: stopped.id }) })).rejects.toThrow("does not run");
    await expect(place.create({ namespaces: namespaces({ container: "nobody" }) })).rejects.toThrow("container does not exist");
    await expect(place.create({ namespaces: namespaces({ pid: 4_000_000 }) })).rejects.toThrow("there is no process 4000000");
    await expect(place.create({ namespaces: namespaces({ pid: 1, path: "/a" }) })).rejects.toThrow("in more than one way");
    const first = await place.sleeping();
    const joining = await place.create({ namespaces: namespaces({ container: first.id }) });
    // As if another process had got the pid.
    const { init_process_pid: pid } = first.state();
    const other = namespaces({ path: `/proc/${pid}/ns/net`, process: { pid, startTicks: 3 } });
    const recycled = await place.create({ namespaces: other });
    await expect(recycled.run(shell("true"))).rejects.toThrow(`process ${pid}, whose net namespace is to be joined, has ended`);
    await end(first);
    await expect(joining.run(shell("true"))).rejects.toThrow(/cannot be opened|has ended/);
    for (const container of [stopped, joining, recycled]) await container.destroy();
  });
});

describe("a further process", () => {
  it("goes into a cgroup below the container's own, which must be there #sub-cgroup", async () => {
    const container = await place.sleeping();
    const paths = container.state().cgroup_paths;
    mkdirSync(`${paths[onV2 ? "" : "pids"]}/inner`);
    const where = await output(container, "cat /proc/self/cgroup", { subCgroup: "inner" });
    expect(where).toMatch(new RegExp(`${onV2 ? "" : "pids"}:${place.cgroup}/${container.id}/inner$`, "m"));
    if (!onV2) expect(where).toMatch(new RegExp(`memory:${place.cgroup}/${container.id}$`, "m"));
    await expect(output(container, "true", { subCgroup: "none" })).rejects.toThrow('has no cgroup "none" below its own');
    await expect(output(container, "true", { subCgroup: "../.." })).rejects.toThrow("below its own");
    await end(container);
  });
});
