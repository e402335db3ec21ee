/**
 * The systemd cgroup driver under a real systemd, inside the virtual machine: on pure cgroup v2, or on v1 with v2 beside it when the
 * kernel was told so.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { afterAll, it } from "vitest";
import { Cgroups } from "../../src/core/cgroup/cgroups.ts";
import { Systemd } from "../../src/core/cgroup/systemd.ts";
import { SystemdCgroups } from "../../src/core/cgroup/systemd-cgroups.ts";
import { allowedDevices, Container } from "../../src/core/library/public.ts";
import type { OciResources } from "../../src/core/oci.ts";
import type { Message } from "../helpers/cri-client.ts";
import { Daemon } from "../helpers/daemon.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";

const onV2 = existsSync("/sys/fs/cgroup/cgroup.controllers");
const forever = ["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.2; done"];
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  // The emulated processor is slow, and others may use the host.
  for (const until = Date.now() + 120_000; !(await holds()); ) {
    if (Date.now() > until) throw new Error(`${what} never came`);
    await sleep(50);
  }
}
const systemctl = (...args: string[]): string => execFileSync("systemctl", args, { encoding: "utf8" }).trim();
const property = (unit: string, name: string): string => systemctl("show", "-P", name, unit);
const loadedUnits = (pattern: string): string =>
  spawnSync("systemctl", ["list-units", "--all", "--no-legend", "--plain", pattern], { encoding: "utf8" }).stdout.trim();
/** Directory of a v1 controller, or of v2. */
const directory = (controller: string, path: string): string => `/sys/fs/cgroup${onV2 ? "" : `/${controller}`}${path}`;
const file = (controller: string, path: string, name: string): string =>
  readFileSync(`${directory(controller, path)}/${name}`, "utf8").trim();
const hierarchies = onV2 ? [""] : readdirSync("/sys/fs/cgroup").map((name) => `/${name}`);
const cgroupExists = (path: string): boolean => hierarchies.some((name) => existsSync(`/sys/fs/cgroup${name}${path}`));
/** Whether a process has this word in its environment or command line. */
const processesWith = (word: string): string[] =>
  readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, "utf8").includes(word);
    } catch {
      return false;
    }
  });

const slice = (uid: string): string => `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid}.slice`;
const unitOf = (id: string): string => `cri-containerd-${id}.scope`;

mkdirSync("/var/tmp/logs", { recursive: true });
buildBusyboxImage("/var/tmp/busybox-layout", { tag: "1" });
const layouts = '[registry.local_layouts]\n"local.test/busybox" = "/var/tmp/busybox-layout"\n';
const base = "/var/tmp/caisson-driver";
mkdirSync(base, { recursive: true });
const daemon = await Daemon.start({ base, config: layouts });
const { client } = daemon;
const { image_ref: image } = await client.image("PullImage", { image: { image: "local.test/busybox:1" } });

function podConfig(name: string, linux: Message = {}): Message {
  const { security_context = {}, ...rest } = linux;
  return {
    metadata: { name, uid: name, namespace: "default", attempt: 0 },
    log_directory: "/var/tmp/logs",
    linux: {
      cgroup_parent: slice(name),
      ...rest,
      security_context: { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" }, ...security_context },
    },
  };
}
async function runPod(config: Message): Promise<string> {
  return (await client.runtime("RunPodSandbox", { config })).pod_sandbox_id;
}
async function create(podId: string, pod: Message, command: readonly string[], resources: Message = {}): Promise<string> {
  const { namespace_options } = pod.linux.security_context;
  const config = {
    metadata: { name: "main", attempt: 0 },
    image: { image },
    command,
    envs: [{ key: "MARK", value: Buffer.from(pod.metadata.name) }],
    log_path: `${pod.metadata.name}.log`,
    linux: { resources, security_context: { namespace_options } },
  };
  return (await client.runtime("CreateContainer", { pod_sandbox_id: podId, config, sandbox_config: pod })).container_id;
}
async function run(podId: string, pod: Message, command: readonly string[], resources: Message = {}): Promise<string> {
  const id = await create(podId, pod, command, resources);
  await client.runtime("StartContainer", { container_id: id });
  return id;
}
async function exec(id: string, ...cmd: string[]): Promise<{ stdout: string; exitCode: number }> {
  const reply = await client.runtime("ExecSync", { container_id: id, cmd, timeout: 60 });
  return { stdout: reply.stdout.toString(), exitCode: reply.exit_code };
}
async function pidOf(id: string): Promise<number> {
  const { info } = await client.runtime("ContainerStatus", { container_id: id, verbose: true });
  return JSON.parse(info.info).pid;
}
async function removePod(podId: string): Promise<void> {
  await client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
  await client.runtime("RemovePodSandbox", { pod_sandbox_id: podId });
}
const statusOf = async (id: string): Promise<Message> => (await client.runtime("ContainerStatus", { container_id: id })).status;
const noKmsg = ["/bin/sh", "-c", "rm -f /tmp/k; mknod /tmp/k c 1 11 && ! cat /tmp/k && head -c 4 /dev/zero | wc -c"];

it("RuntimeConfig says systemd, which auto has chosen", async () => {
  assert.equal((await client.runtime("RuntimeConfig", {})).linux.cgroup_driver, "SYSTEMD");
});

const main = podConfig("main1_2");
let mainPod = "";
let id = "";
let path = "";
it("a container is a delegated scope in the pod's slice, with its limits #systemd", async () => {
  mainPod = await runPod(main);
  id = await run(mainPod, main, forever, {
    memory_limit_in_bytes: 64 << 20,
    cpu_period: 100000,
    cpu_quota: 12345,
    cpu_shares: 512,
    cpuset_cpus: "0",
    ...(onV2 ? { unified: { "pids.max": "64", "memory.high": "60000000" } } : {}),
  });
  path = `${slice("main1_2")}/${unitOf(id)}`;
  const unit = unitOf(id);
  assert.equal(property(unit, "ControlGroup"), path);
  assert.equal(property(unit, "Slice"), "kubepods-burstable-podmain1_2.slice");
  assert.equal(property(unit, "ActiveState"), "active");
  assert.equal(property(unit, "Delegate"), "yes");
  assert.equal(property(unit, "CPUQuotaPerSecUSec"), "130ms");
  if (onV2) {
    assert.equal(property(unit, "MemoryMax"), String(64 << 20));
    assert.equal(property(unit, "MemorySwapMax"), "0");
    assert.equal(property(unit, "MemoryHigh"), "60000000");
    assert.equal(property(unit, "CPUWeight"), "59");
    assert.equal(property(unit, "TasksMax"), "64");
    assert.equal(property(unit, "AllowedCPUs"), "0");
    assert.equal(file("memory", path, "memory.max"), String(64 << 20));
    assert.equal(file("memory", path, "memory.swap.max"), "0");
    assert.equal(file("cpu", path, "cpu.max"), "12345 100000");
    assert.equal(file("cpu", path, "cpu.weight"), "59");
    assert.equal(file("pids", path, "pids.max"), "64");
    assert.equal(file("cpuset", path, "cpuset.cpus"), "0");
  } else {
    assert.equal(property(unit, "MemoryLimit"), String(64 << 20));
    assert.equal(property(unit, "CPUShares"), "512");
    assert.equal(property(unit, "TasksMax"), "infinity");
    assert.equal(property(unit, "DevicePolicy"), "strict");
    assert.equal(file("memory", path, "memory.limit_in_bytes"), String(64 << 20));
    assert.equal(file("cpu", path, "cpu.cfs_quota_us"), "12345");
    assert.equal(file("cpu", path, "cpu.shares"), "512");
    assert.equal(file("cpuset", path, "cpuset.cpus"), "0");
  }
});

it("init and exec are in the scope, in every hierarchy #systemd", async () => {
  const placesOf = (pid: number | string): string[] =>
    readFileSync(`/proc/${pid}/cgroup`, "utf8")
      .trim()
      .split("\n")
      .filter((line) => !/:(misc|rdma):/.test(line))
      .map((line) => line.split(":").slice(2).join(":"));
  assert.deepEqual([...new Set(placesOf(await pidOf(id)))], [path]);
  // An exec joins v1's hierarchies one after the other, and the loop's children end between the list and the look at them.
  const isExecHere = (pid: string): boolean => {
    try {
      return (
        readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("cat /proc/self/cgroup") &&
        placesOf(pid).every((place) => place === path)
      );
    } catch {
      return false;
    }
  };
  // It stays until it is told: the look at it may take its time.
  const running = exec(id, "/bin/sh", "-c", "rm -f /tmp/seen; until [ -e /tmp/seen ]; do sleep 0.1; done; cat /proc/self/cgroup");
  await eventually("the exec in every hierarchy", () => file("pids", path, "cgroup.procs").split("\n").some(isExecHere));
  await exec(id, "/bin/touch", "/tmp/seen");
  const { stdout } = await running;
  if (onV2) assert.equal(stdout, "0::/\n");
});

it("devices are guarded, also after systemd has read its configuration again #systemd #device-rules", async () => {
  assert.equal((await exec(id, ...noKmsg)).stdout.trim(), "4");
  systemctl("daemon-reload");
  // systemd keeps percents, rounded up; what was asked for comes back with the next update. It writes them when it has read everything.
  if (onV2) await eventually("systemd's own quota", () => file("cpu", path, "cpu.max") === "13000 100000");
  assert.equal((await exec(id, ...noKmsg)).stdout.trim(), "4");
  if (onV2) assert.equal(file("cpu", path, "cpu.max"), "13000 100000");
  else assert.ok(!file("devices", path, "devices.list").includes("a *:* rwm"));
});

it("an update reaches the unit and the files; a refused one changes nothing, and one that is taken back leaves nothing #systemd #set", async () => {
  const cgroups = new SystemdCgroups((await Cgroups.find()).hierarchies, new Systemd());
  const update = async (resources: OciResources): Promise<void> => {
    await cgroups.change(path, resources);
  };
  const devices = onV2 ? "" : file("devices", path, "devices.list");
  await update({ memory: { limit: 80 << 20, swap: 80 << 20 }, cpu: { quota: 54321, period: 50000 } });
  assert.equal(property(unitOf(id), "CPUQuotaPerSecUSec"), "1.090000s");
  assert.equal(property(unitOf(id), "CPUQuotaPeriodUSec"), "50ms");
  assert.equal(property(unitOf(id), onV2 ? "MemoryMax" : "MemoryLimit"), String(80 << 20));
  const now = (): string =>
    onV2
      ? `${file("memory", path, "memory.max")} ${file("cpu", path, "cpu.max")}`
      : `${file("memory", path, "memory.limit_in_bytes")} ${file("cpu", path, "cpu.cfs_quota_us")} ${file("cpu", path, "cpu.cfs_period_us")}`;
  assert.equal(now(), `${80 << 20} 54321 50000`);
  await assert.rejects(update({ memory: { limit: 90 << 20, swap: 90 << 20 }, cpu: { cpus: "4000" } }));
  assert.equal(now(), `${80 << 20} 54321 50000`);
  assert.equal(property(unitOf(id), onV2 ? "MemoryMax" : "MemoryLimit"), String(80 << 20));
  if (!onV2) assert.equal(file("devices", path, "devices.list"), devices);
  // Weights and lists of processors that were never set are put back as well.
  const limits = [
    "MemoryMax",
    "MemoryLimit",
    "CPUQuotaPerSecUSec",
    "CPUQuotaPeriodUSec",
    "CPUWeight",
    "CPUShares",
    "AllowedCPUs",
    "TasksMax",
  ];
  const unitLimits = (): readonly string[] => limits.map((name) => property(unitOf(id), name));
  const former = unitLimits();
  const change = await cgroups.change(path, {
    memory: { limit: 70 << 20, swap: 70 << 20 },
    cpu: { quota: 40000, period: 100000, shares: 2048, cpus: "1" },
    pids: { limit: 50 },
  });
  assert.notDeepEqual(unitLimits(), former);
  await change.undo();
  assert.deepEqual(unitLimits(), former);
  assert.equal(now(), `${80 << 20} 54321 50000`);
  systemctl("daemon-reload");
  await sleep(500);
  assert.deepEqual(unitLimits(), former);
  if (!onV2) assert.equal(file("devices", path, "devices.list"), devices);
  cgroups[Symbol.dispose]();
});

it("a daemon that starts again finds its scopes, and refuses another driver", async () => {
  const pid = await pidOf(id);
  await daemon.kill();
  await assert.rejects(Daemon.start({ base, config: `${layouts}[runtime]\ncgroup_driver = "cgroupfs"\n` }));
  assert.match(daemon.log(), /the cgroup driver was systemd and is now cgroupfs, but 1 pods live/);
  await daemon.launch();
  assert.equal(await pidOf(id), pid);
  assert.equal((await exec(id, "/bin/true")).exitCode, 0);
});

it("stop and remove leave neither unit nor cgroup #systemd #cgroup-removal", async () => {
  await client.runtime("StopContainer", { container_id: id, timeout: 20 });
  assert.equal((await statusOf(id)).exit_code, 7);
  await client.runtime("RemoveContainer", { container_id: id });
  assert.equal(loadedUnits(unitOf(id)), "");
  assert.ok(!cgroupExists(path));
  await removePod(mainPod);
});

it("running out of memory is told, and leaves no failed unit", async () => {
  const pod = podConfig("oom");
  const podId = await runPod(pod);
  const eats = ["/bin/sh", "-c", "x=a; while :; do x=$x$x; done"];
  const oom = await run(podId, pod, eats, { memory_limit_in_bytes: 16 << 20 });
  await eventually("the end for want of memory", async () => (await statusOf(oom)).state === "CONTAINER_EXITED");
  const { reason, exit_code } = await statusOf(oom);
  assert.deepEqual([reason, exit_code], ["OOMKilled", 137]);
  await removePod(podId);
  assert.equal(loadedUnits(unitOf(oom)), "");
});

it("a container that is created and never started goes without a trace", async () => {
  const pod = podConfig("parked");
  const podId = await runPod(pod);
  const parked = await create(podId, pod, forever);
  assert.equal(property(unitOf(parked), "ActiveState"), "active");
  await removePod(podId);
  assert.equal(loadedUnits(unitOf(parked)), "");
  assert.ok(!cgroupExists(`${slice("parked")}/${unitOf(parked)}`));
});

it("the slice's name alone is enough, and a slice of ours goes with its pod", async () => {
  const short = podConfig("short", { cgroup_parent: "kubepods-podshort.slice" });
  const podId = await runPod(short);
  const one = await run(podId, short, forever);
  assert.equal(property(unitOf(one), "ControlGroup"), `/kubepods.slice/kubepods-podshort.slice/${unitOf(one)}`);
  const own = podConfig("own", { cgroup_parent: "" });
  const ownId = await runPod(own);
  const two = await run(ownId, own, forever);
  assert.equal(property(unitOf(two), "Slice"), `caisson-pod${ownId}.slice`);
  await removePod(ownId);
  assert.equal(loadedUnits(`caisson-pod${ownId}.slice`), "");
  assert.ok(!cgroupExists(`/caisson.slice/caisson-pod${ownId}.slice`));
  await removePod(podId);
});

it("a parent that is no slice is refused with the remedy", async () => {
  await assert.rejects(runPod(podConfig("plain", { cgroup_parent: "/kubepods/podx" })), /cgroupDriver: systemd/);
});

it("a container of a pod with a user namespace is in its scope", async () => {
  const ids = [{ host_id: 200000, container_id: 0, length: 65536 }];
  const namespace_options = {
    network: "POD",
    pid: "CONTAINER",
    ipc: "POD",
    userns_options: { mode: "POD", uids: ids, gids: ids },
  };
  const pod = podConfig("userns", { security_context: { namespace_options: { ...namespace_options, network: "NODE" } } });
  const podId = await runPod(pod).catch((error: unknown) => {
    if (/network/i.test(String(error))) return undefined;
    throw error;
  });
  assert.ok(podId !== undefined);
  const inside = await run(podId, pod, forever);
  const lines = readFileSync(`/proc/${await pidOf(inside)}/cgroup`, "utf8");
  assert.ok(lines.includes(`${slice("userns")}/${unitOf(inside)}`));
  await removePod(podId);
});

it("makes scopes for the library's containers too: limits, devices, further processes, pause, and nothing is left", async () => {
  await using place = new LibraryPlace();
  const id = place.newId();
  const [unit, parent] = [`lib-${id}.scope`, "caissonlib.slice"];
  const resources = (limit: number) => ({ devices: allowedDevices, memory: { limit: 64 << 20 }, pids: { limit } });
  const at = { systemd: true, path: `${parent}:lib:${id}` };
  const container = await place.create({ cgroups: { ...at, resources: resources(50) } }, id);
  assert.equal(loadedUnits("lib-*"), "");
  await container.run(shell("sleep 1000"));
  assert.deepEqual(
    ["ActiveState", "Slice", "TasksMax"].map((name) => property(unit, name)),
    ["active", parent, "50"],
  );
  assert.equal(file("pids", `/${parent}/${unit}`, "pids.max"), "50");
  assert.equal(file("memory", `/${parent}/${unit}`, onV2 ? "memory.max" : "memory.limit_in_bytes"), String(64 << 20));
  const inScope = (await output(container, "cat /proc/self/cgroup")).split("\n");
  assert.ok(
    inScope.every((line) => line.endsWith(`/${parent}/${unit}`) || /^\d+:(misc|rdma):/.test(line)),
    inScope.join("\n"),
  );
  assert.equal(
    await output(container, "head -c 2 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg 2>&1 || true", {
      capabilities: { bounding: ["CAP_MKNOD"], effective: ["CAP_MKNOD"], permitted: ["CAP_MKNOD"] },
    }),
    "2\nhead: /tmp/kmsg: Operation not permitted",
  );
  await container.set({ ...container.config(), cgroups: { ...at, resources: resources(70) } });
  assert.equal(property(unit, "TasksMax"), "70");
  assert.equal(file("pids", `/${parent}/${unit}`, "pids.max"), "70");
  await container.pause();
  using again = await Container.load(place.stateDir, id);
  assert.equal(await again.status(), "paused");
  await again.resume();
  assert.ok((await again.stats()).cgroup.processes > 0n);
  await again.signal("KILL");
  await again.wait();
  await again.destroy();
  await eventually("the end of the scope", () => loadedUnits("lib-*") === "");
  assert.equal(cgroupExists(`/${parent}`), false);
});

for (const when of ["before", "after"]) {
  it(`a daemon that is killed ${when} the scope is made leaves nothing of it`, async () => {
    const pod = podConfig(`killed${when}`);
    const podId = await runPod(pod);
    daemon.arm(`kill:${when}:container.admit`);
    await assert.rejects(create(podId, pod, forever));
    await eventually("the end of the daemon", () => !daemon.running);
    await eventually("the end of the child", () => loadedUnits("cri-containerd-*") === "");
    daemon.arm("");
    await daemon.launch();
    assert.deepEqual((await client.runtime("ListContainers", { filter: { pod_sandbox_id: podId } })).containers, []);
    assert.deepEqual(processesWith(`MARK=killed${when}`), []);
    await removePod(podId);
    const left = hierarchies.flatMap((name) => {
      const at = `/sys/fs/cgroup${name}${slice(`killed${when}`)}`;
      return existsSync(at) ? readdirSync(at).filter((entry) => entry.endsWith(".scope")) : [];
    });
    assert.deepEqual(left, []);
  });
}

it("systemd re-executing itself disturbs nobody", async () => {
  const pod = podConfig("reexec");
  const podId = await runPod(pod);
  const one = await run(podId, pod, forever);
  systemctl("daemon-reexec");
  const two = await create(podId, pod, forever).catch((error: unknown) => String(error));
  assert.match(two, /^[0-9a-f]{64}$|already|reserved/);
  assert.equal((await exec(one, ...noKmsg)).stdout.trim(), "4");
  await removePod(podId);
});

it("without the bus nothing is created, and pods can still go", async () => {
  const pod = podConfig("nobus");
  const podId = await runPod(pod);
  const one = await run(podId, pod, forever);
  systemctl("stop", "dbus.socket", "dbus.service");
  const second = { ...pod, metadata: { ...pod.metadata, name: "second" } };
  const secondId = await runPod(second);
  await assert.rejects(create(secondId, second, forever), /D-Bus/);
  assert.equal((await exec(one, "/bin/true")).exitCode, 0);
  await removePod(podId);
  systemctl("start", "dbus.socket");
  const again = await run(secondId, second, forever);
  assert.equal(property(unitOf(again), "ActiveState"), "active");
  await removePod(secondId);
  await eventually("the end of all scopes", () => loadedUnits("cri-containerd-*") === "");
});

afterAll(async () => await daemon[Symbol.asyncDispose]());
