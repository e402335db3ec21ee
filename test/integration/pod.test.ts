/** Pods and containers straight through the core, with the real helper. Root only. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { defaultSeccompProfile } from "../../src/core/process/seccomp-default.ts";
import { CoreNode, collectExits, deadline, exec, logText } from "../helpers/core-pod.ts";

let node: CoreNode;
beforeAll(async () => {
  node = await CoreNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const { pod, spec } of node.pods) if (existsSync(spec.runDir)) await pod?.destroy(deadline());
  for (let attempt = 0; attempt < 100 && node.leftovers().length > 0; attempt++) await sleep(50);
  expect(node.leftovers()).toEqual([]);
});

const mib = 1 << 20;
const ids = [{ containerID: 0, hostID: 300_000, size: 65_536 }];

describe("a pod", () => {
  it("has its own pinned network, host name and shared memory, and leaves nothing behind", async () => {
    const { pod, spec } = await node.pod();
    expect(readFileSync(`/proc/${pod.shim.pid}/cgroup`, "utf8")).toContain(`/caisson-${node.instance}/shims`);
    expect(statSync(spec.runDir).mode & 0o777).toBe(0o700);
    expect(execFileSync("nsenter", [`--net=${spec.netnsPath}`, "ip", "-o", "link", "show", "lo"]).toString()).toContain("UP");
    const a = await node.run(pod, spec);
    const b = await node.run(pod, spec);
    expect((await exec(pod, a, "hostname")).out).toBe("core-pod\n");
    await exec(pod, a, "sh", "-c", "echo shared > /dev/shm/x");
    expect((await exec(pod, b, "cat", "/dev/shm/x")).out).toBe("shared\n");
    for (const made of [a, b]) await pod.remove(made.id, made.cgroupsPath, deadline());
    await pod.destroy(deadline());
    await pod.destroy(deadline());
  });

  it("names its namespaces for host tools", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const inside = (await exec(pod, made, "readlink", "/proc/self/ns/ipc")).out.trim();
    expect(
      execFileSync("readlink", [pod.namespacePaths.ipc ?? ""])
        .toString()
        .trim(),
    ).toBe(inside);
    expect(pod.namespacePaths.network).toBe(spec.netnsPath);
    expect(made.oci.linux.namespaces).toContainEqual({ type: "network", path: spec.netnsPath });
  });

  it("sets sysctls in its own namespaces only", async () => {
    const host = readFileSync("/proc/sys/net/ipv4/ip_unprivileged_port_start", "utf8");
    const { pod, spec } = await node.pod();
    await pod.applySysctls({ "net.ipv4.ip_unprivileged_port_start": "7", "kernel/shm_rmid_forced": "1" }, deadline());
    const made = await node.run(pod, spec);
    expect((await exec(pod, made, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")).out).toBe("7\n");
    expect((await exec(pod, made, "cat", "/proc/sys/kernel/shm_rmid_forced")).out).toBe("1\n");
    expect(readFileSync("/proc/sys/net/ipv4/ip_unprivileged_port_start", "utf8")).toBe(host);
  });

  it("refuses a sysctl with the reason", async () => {
    const { pod } = await node.pod();
    await expect(pod.applySysctls({ "net.ipv4.no_such_thing": "1" }, deadline())).rejects.toThrow(/net\.ipv4\.no_such_thing/);
  });

  it("shares the node's network where asked", async () => {
    const { pod, spec } = await node.pod({ network: "host" });
    const made = await node.run(pod, spec);
    const own = execFileSync("readlink", ["/proc/self/ns/net"]).toString();
    expect((await exec(pod, made, "readlink", "/proc/self/ns/net")).out).toBe(own);
    expect(pod.namespacePaths.network).toBeUndefined();
  });

  it("is found again by a later daemon, with its containers", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    pod.disconnect();
    const again = await node.runtime.reconnectPod(spec, deadline());
    expect(again?.shim).toEqual(pod.shim);
    expect((await again?.list())?.map(({ id, phase }) => [id, phase])).toEqual([[made.id, "running"]]);
    if (again !== undefined) expect((await exec(again, made, "echo", "here")).out).toBe("here\n");
    await again?.remove(made.id, made.cgroupsPath, deadline());
    await again?.destroy(deadline());
  });

  it("tells a later daemon of exits that it missed", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    pod.disconnect();
    execFileSync("kill", ["-9", String(made.process.pid)]);
    await sleep(300);
    const again = await node.runtime.reconnectPod(spec, deadline());
    if (again === undefined) throw new Error("the shim is gone");
    await sleep(50);
    expect(await collectExits(again)(made.id)).toMatchObject({ exitCode: 137, signal: 9, known: true });
    await again.remove(made.id, made.cgroupsPath, deadline());
    await again.destroy(deadline());
  });

  it("is lost with its shim, and its remains can be cleared", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const parked = await node.create(pod, spec);
    const lost = new Promise<void>((resolve) => pod.onShimLost(resolve));
    execFileSync("kill", ["-9", String(pod.shim.pid)]);
    await lost;
    await expect(pod.list()).rejects.toMatchObject({ code: "unavailable" });
    expect(await node.runtime.reconnectPod(spec, deadline())).toBeUndefined();
    // What has not been executed dies with the shim; a running container only with its cgroup.
    await sleep(100);
    expect(existsSync(`/proc/${parked.process.pid}/ns/mnt`)).toBe(false);
    expect(existsSync(`/proc/${made.process.pid}`)).toBe(true);
    const cgroups = [made.cgroupsPath, parked.cgroupsPath];
    await node.runtime.killRemains(cgroups, deadline());
    await node.runtime.destroyRemains(spec, cgroups, deadline());
    await node.runtime.destroyRemains(spec, cgroups, deadline());
    expect(await node.runtime.stats(made.cgroupsPath)).toBeUndefined();
    pod.disconnect();
  });
});

describe("a container", () => {
  it("is parked until it is started", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.create(pod, spec, { process: { args: ["sh", "-c", "echo started"] } });
    expect((await pod.list())[0]).toMatchObject({ id: made.id, phase: "parked", process: made.process });
    const exits = collectExits(pod);
    expect((await pod.start(made.id, deadline())).startedAtNs).toBeGreaterThan(0n);
    expect(await exits(made.id)).toMatchObject({ exitCode: 0, signal: 0, known: true, oomKilled: false });
    expect(logText(made.logPath)).toBe("started\n");
    await pod.remove(made.id, made.cgroupsPath, deadline());
    await pod.remove(made.id, made.cgroupsPath, deadline());
  });

  it("is gone with its cgroup when it is removed while it is parked", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.create(pod, spec);
    await pod.remove(made.id, made.cgroupsPath, deadline());
    expect(await pod.list()).toEqual([]);
    expect(await node.runtime.stats(made.cgroupsPath)).toBeUndefined();
  });

  it("gets exactly what its specification gives", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec, {
      process: {
        user: { uid: 1000, gid: 1000, additionalGids: [1000, 2000], umask: 0o27 },
        cwd: "/work/below",
        noNewPrivileges: true,
        oomScoreAdj: 321,
        rlimits: [{ type: "RLIMIT_NOFILE", soft: 100, hard: 200 }],
        env: ["PATH=/bin", "A=1", "A=2"],
      },
      linux: { seccomp: defaultSeccompProfile([], process.arch) },
    });
    const of = (file: string) => readFileSync(`/proc/${made.process.pid}/${file}`, "utf8");
    expect(of("status")).toMatch(/^Uid:\t1000\t1000\t1000\t1000$/m);
    expect(of("status")).toMatch(/^Groups:\t1000 2000 ?$/m);
    expect(of("status")).toMatch(/^CapEff:\t0{16}$/m);
    expect(of("status")).toMatch(/^CapInh:\t0{16}$/m);
    expect(of("status")).toMatch(/^NoNewPrivs:\t1$/m);
    expect(of("status")).toMatch(/^Seccomp:\t2$/m);
    expect(of("status")).toMatch(/^Umask:\t0027$/m);
    expect(of("status")).toMatch(/^SigIgn:\t0{16}$/m);
    expect(of("limits")).toMatch(/^Max open files +100 +200 /m);
    expect(of("oom_score_adj")).toBe("321\n");
    expect(of("environ").split("\0").filter(Boolean)).toEqual(["PATH=/bin", "A=2", "HOME=/home/user"]);
    const fromExec = (
      await exec(
        pod,
        made,
        "sh",
        "-c",
        "pwd; id; ls -l /proc/self/fd | wc -l; grep -E 'Seccomp:|NoNewPrivs|CapBnd|Umask' /proc/self/status",
      )
    ).out;
    expect(fromExec).toContain("/work/below\n");
    expect(fromExec).toMatch(/uid=1000\(user\).*groups=1000\(?.*2000/);
    expect(fromExec).toContain("Seccomp:\t2");
    expect(fromExec).toContain("NoNewPrivs:\t1");
    expect(fromExec).toContain("Umask:\t0027");
    expect(of("oom_score_adj")).toBe("321\n");
  });

  it("lies in every hierarchy's own cgroup, with its limits, and so does an exec", async () => {
    const { pod, spec } = await node.pod();
    const resources = {
      devices: [{ allow: false, access: "rwm" }],
      memory: { limit: 64 * mib, swap: 64 * mib },
      cpu: { shares: 512, quota: 50_000, period: 100_000, cpus: "0" },
      pids: { limit: 50 },
      hugepageLimits: [{ pageSize: "2MB", limit: 0 }],
    };
    const cgroupsPath = `/caisson-${node.instance}/pods/limits`;
    const made = await node.run(pod, spec, { linux: { cgroupsPath, resources } });
    const lines = readFileSync(`/proc/${made.process.pid}/cgroup`, "utf8").trim().split("\n");
    for (const line of lines) expect(line.endsWith(`:${cgroupsPath}`)).toBe(true);
    const inExec = (await exec(pod, made, "cat", "/proc/self/cgroup")).out.trim().split("\n");
    expect(inExec.toSorted()).toEqual(lines.toSorted());
    const stats = await node.runtime.stats(cgroupsPath);
    expect(stats?.memoryLimit).toBe(BigInt(64 * mib));
    expect(stats?.processCount).toBe(1n);
    expect(stats?.memoryUsage).toBeGreaterThan(0n);
    expect(stats?.cpuUsageNs).toBeGreaterThan(0n);
    await pod.remove(made.id, cgroupsPath, deadline());
  });

  it("may not open devices that nobody allowed", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const result = await exec(
      pod,
      made,
      "sh",
      "-c",
      "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; echo x > /dev/null && head -c 4 /dev/zero | wc -c",
    );
    expect(result.stderr.toString()).toMatch(/Operation not permitted/);
    expect(result.out).toBe("4\n");
  });

  it("changes its limits all or not at all", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec, { linux: { resources: { memory: { limit: 64 * mib }, pids: { limit: 40 } } } });
    await node.runtime.updateResources(made.cgroupsPath, { memory: { limit: 128 * mib }, cpu: { shares: 256 } });
    expect((await node.runtime.stats(made.cgroupsPath))?.memoryLimit).toBe(BigInt(128 * mib));
    const refused = { pids: { limit: 30 }, memory: { limit: 96 * mib }, cpu: { cpus: "4095" } };
    await expect(node.runtime.updateResources(made.cgroupsPath, refused)).rejects.toThrow(/cpuset\.cpus/);
    expect((await node.runtime.stats(made.cgroupsPath))?.memoryLimit).toBe(BigInt(128 * mib));
  });

  it("is told from one that ended by itself when memory runs out", async () => {
    const { pod, spec } = await node.pod();
    // What is written to a tmpfs counts as memory, and nothing can reclaim it here.
    const script = "dd if=/dev/zero of=/big bs=1M count=64";
    const { exit } = await node.output(
      pod,
      spec,
      `mount -t tmpfs none /tmp; ${script.replace("/big", "/dev/shm/big")}; tail /dev/zero`,
      {
        linux: { resources: { devices: [{ allow: true, access: "rwm" }], memory: { limit: 8 * mib, swap: 8 * mib } } },
        process: { args: ["tail", "/dev/zero"] },
      },
    );
    expect(exit).toMatchObject({ exitCode: 137, signal: 9, oomKilled: true });
  });

  it("cannot be created when a limit is refused, and leaves no cgroup (class-cgroup-leak)", async () => {
    const { pod, spec } = await node.pod();
    const cgroupsPath = `/caisson-${node.instance}/pods/refused`;
    const linux = { cgroupsPath, resources: { cpu: { cpus: "4095" } } };
    await expect(node.create(pod, spec, { linux })).rejects.toThrow(/cpuset\.cpus/);
    expect(await node.runtime.stats(cgroupsPath)).toBeUndefined();
    expect(await pod.list()).toEqual([]);
  });

  it("cannot be created from a mount source that is missing, and says which", async () => {
    const { pod, spec } = await node.pod();
    const mounts = [{ destination: "/m", type: "bind", source: "/no/such/place", options: ["rbind"] }];
    await expect(node.create(pod, spec, { mounts })).rejects.toThrow(/\/no\/such\/place/);
    expect(await pod.list()).toEqual([]);
    expect(node.warnings).toEqual([]);
  });

  it("says why its command cannot be executed, and is gone", async () => {
    const { pod, spec } = await node.pod();
    const exits = collectExits(pod);
    const made = await node.create(pod, spec, { process: { args: ["/no/such/command"] } });
    await expect(pod.start(made.id, deadline())).rejects.toMatchObject({ code: "invalid_argument" });
    await exits(made.id);
    await pod.remove(made.id, made.cgroupsPath, deadline());
  });

  it("shows hidden and read-only parts of procfs as such", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec, { readonlyRoot: true });
    expect((await exec(pod, made, "cat", "/proc/keys")).out).toBe("");
    expect((await exec(pod, made, "sh", "-c", "echo 1 > /proc/sys/kernel/domainname")).exitCode).not.toBe(0);
    expect((await exec(pod, made, "touch", "/x")).stderr.toString()).toMatch(/Read-only file system/);
    expect((await exec(pod, made, "touch", "/dev/shm/x")).exitCode).toBe(0);
    expect((await exec(pod, made, "mkdir", "/sys/fs/cgroup/x")).exitCode).not.toBe(0);
  });

  it("fills image volumes from the image", async () => {
    const { pod, spec } = await node.pod();
    const hostPath = join(node.root, "volume");
    mkdirSync(hostPath);
    const made = await node.run(pod, spec, {
      mounts: [{ destination: "/data", type: "bind", source: hostPath, options: ["rbind", "rprivate"] }],
      spec: { volumes: [{ path: "/data", hostPath }] },
    });
    expect((await exec(pod, made, "cat", "/data/from-image")).out).toBe("content\n");
    expect(statSync(join(hostPath, "from-image")).mode & 0o777).toBe(0o640);
  });

  it("takes more mounts than a plan has slots", async () => {
    const { pod, spec } = await node.pod();
    const source = join(node.root, "many");
    mkdirSync(source, { recursive: true });
    writeFileSync(join(source, "f"), "x");
    const mounts = Array.from({ length: 120 }, (_, at) => ({
      destination: `/m/${at}`,
      type: "bind",
      source,
      options: ["rbind", "ro", "rprivate"],
    }));
    const made = await node.run(pod, spec, { mounts });
    expect((await exec(pod, made, "cat", "/m/119/f")).out).toBe("x");
    expect((await exec(pod, made, "touch", "/m/0/y")).exitCode).not.toBe(0);
  });

  it("has a terminal of its own", async () => {
    const { pod, spec } = await node.pod();
    const script = "tty; stty size; test -t 0 && test -t 1 && echo terminal; ls -l /dev/console | head -c 1";
    const { log } = await node.output(pod, spec, script, { process: { terminal: true, consoleSize: { height: 33, width: 99 } } });
    expect(log).toContain("/dev/pts/0");
    expect(log).toContain("33 99");
    expect(log).toContain("terminal");
  });
});

describe("an exec", () => {
  it("returns output of both streams and the exit code", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const result = await exec(pod, made, "sh", "-c", "echo out; echo err >&2; exit 7");
    expect([result.out, result.stderr.toString(), result.exitCode, result.timedOut]).toEqual(["out\n", "err\n", 7, false]);
  });

  it("is killed with its whole session when its time is over", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const request = { args: ["sh", "-c", "sleep 1000 & sleep 1000"], timeoutMs: 200, maxOutputBytes: 1000, drainMs: 100 };
    const result = await pod.execSync(made.id, made.oci, request, deadline());
    expect(result.timedOut).toBe(true);
    expect((await exec(pod, made, "ps")).out.match(/sleep 1000/g)).toHaveLength(1);
  });

  it("keeps only so much of the output", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const request = { args: ["head", "-c", "100000", "/dev/zero"], timeoutMs: 5000, maxOutputBytes: 1000, drainMs: 100 };
    expect((await pod.execSync(made.id, made.oci, request, deadline())).stdout).toHaveLength(1000);
  });

  it("says that the command is missing", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    await expect(exec(pod, made, "no-such-command")).rejects.toThrow(/no-such-command/);
  });

  it("is refused for a container that has ended", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec, { process: { args: ["true"] } });
    await collectExits(pod)(made.id);
    await expect(exec(pod, made, "true")).rejects.toMatchObject({ code: "failed_precondition" });
  });

  it("can be run many times at once", async () => {
    const { pod, spec } = await node.pod();
    const made = await node.run(pod, spec);
    const results = await Promise.all(Array.from({ length: 40 }, (_, at) => exec(pod, made, "echo", String(at))));
    expect(results.map(({ out }) => out)).toEqual(results.map((_, at) => `${at}\n`));
  });
});

describe("a pod with one PID namespace", () => {
  it("has a reaper as process 1, and containers that see each other", async () => {
    const { pod, spec } = await node.pod({ pid: "pod" });
    const a = await node.run(pod, spec);
    const b = await node.run(pod, spec, { process: { args: ["sleep", "2000"] } });
    const seen = (await exec(pod, a, "ps")).out;
    expect(seen).toMatch(/^ +1 .*caisson-reaper/m);
    expect(seen).toContain("sleep 1000");
    expect(seen).toContain("sleep 2000");
    const exits = collectExits(pod);
    await pod.signal(b.id, 9, "all");
    expect(await exits(b.id)).toMatchObject({ signal: 9 });
    expect((await exec(pod, a, "ps")).out).not.toContain("sleep 2000");
  });

  it("kills what a container's first process leaves behind", async () => {
    const { pod, spec } = await node.pod({ pid: "pod" });
    const keeper = await node.run(pod, spec);
    await node.output(pod, spec, "sleep 3000 & exit 3");
    expect((await exec(pod, keeper, "ps")).out).not.toContain("sleep 3000");
  });

  it("ends as a whole with its shim", async () => {
    const { pod, spec } = await node.pod({ pid: "pod" });
    const made = await node.run(pod, spec);
    const lost = new Promise<void>((resolve) => pod.onShimLost(resolve));
    execFileSync("kill", ["-9", String(pod.shim.pid)]);
    await lost;
    for (let at = 0; at < 50 && existsSync(`/proc/${made.process.pid}/ns/mnt`); at++) await sleep(50);
    expect(existsSync(`/proc/${made.process.pid}/ns/mnt`)).toBe(false);
    await node.runtime.destroyRemains(spec, [made.cgroupsPath], deadline());
    pod.disconnect();
  });

  it("gives a terminal to a container in it", async () => {
    const { pod, spec } = await node.pod({ pid: "pod" });
    const script = "test -t 0 && echo terminal > /dev/tty";
    expect((await node.output(pod, spec, script, { process: { terminal: true } })).log).toContain("terminal");
  });
});

describe("a container that joins another one's PID namespace", () => {
  it("sees its processes and its own procfs", async () => {
    const { pod, spec } = await node.pod();
    const target = await node.run(pod, spec, { process: { args: ["sleep", "4321"] } });
    const { log } = await node.output(pod, spec, "ps", { spec: { pidNamespace: { kind: "target", containerId: target.id } } });
    expect(log).toContain("sleep 4321");
  });
});

describe("a pod with a user namespace", () => {
  it("owns its other namespaces and mounts procfs, sysfs and the network itself", async () => {
    const { pod, spec } = await node.pod({ user: { uid: ids, gid: ids } });
    const admin = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN"];
    const made = await node.run(pod, spec, {
      process: { capabilities: { bounding: admin, permitted: admin, effective: admin } },
    });
    expect(readFileSync(`/proc/${made.process.pid}/status`, "utf8")).toMatch(/^Uid:\t300000\t/m);
    expect((await exec(pod, made, "id", "-u")).out).toBe("0\n");
    expect((await exec(pod, made, "ip", "link", "set", "lo", "down")).exitCode).toBe(0);
    expect((await exec(pod, made, "mount", "-t", "proc", "none", "/tmp")).exitCode).toBe(0);
    expect((await exec(pod, made, "cat", "/proc/self/uid_map")).out.trim().split(/\s+/)).toEqual(["0", "300000", "65536"]);
    expect((await exec(pod, made, "stat", "-c", "%u", "/etc/passwd")).out).toBe("0\n");
    expect((await exec(pod, made, "sh", "-c", "touch /made && echo x > /dev/null")).exitCode).toBe(0);
    expect(statSync(join(node.root, "containers", made.id, "upper/made")).uid).toBe(300_000);
    expect((await exec(pod, made, "sh", "-c", "echo y > /dev/shm/y; stat -c %u /dev/shm/y")).out).toBe("0\n");
  });

  it("runs as a user, with a terminal, and reopens its own output", async () => {
    const { pod, spec } = await node.pod({ user: { uid: ids, gid: ids } });
    const asUser = { user: { uid: 1000, gid: 1000 } };
    expect((await node.output(pod, spec, "id -u; echo again > /dev/stdout", { process: asUser })).log).toBe("1000\nagain\n");
    const { log } = await node.output(pod, spec, "tty", { process: { ...asUser, terminal: true } });
    expect(log).toContain("/dev/pts/0");
  });

  it("sees id-mapped volumes with their owners", async () => {
    const { pod, spec } = await node.pod({ user: { uid: ids, gid: ids } });
    const volume = join(node.root, "idmapped");
    mkdirSync(volume);
    writeFileSync(join(volume, "f"), "");
    const mount = { destination: "/v", type: "bind", source: volume, options: ["rbind", "rw"] };
    const mounts = [
      { ...mount, uidMappings: ids, gidMappings: ids },
      { ...mount, destination: "/plain" },
    ];
    const made = await node.run(pod, spec, { mounts });
    expect((await exec(pod, made, "stat", "-c", "%u", "/v/f", "/plain/f")).out).toBe("0\n65534\n");
    await exec(pod, made, "touch", "/v/by-root");
    expect(statSync(join(volume, "by-root")).uid).toBe(0);
  });

  it("can share its PID namespace as well", async () => {
    const { pod, spec } = await node.pod({ pid: "pod", user: { uid: ids, gid: ids } });
    const made = await node.run(pod, spec);
    expect((await exec(pod, made, "ps")).out).toContain("caisson-reaper");
  });
});
