/** What NRI plugins may have of the core for a container: namespaces, cgroups, devices of the network, scheduling, seccomp. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { hierarchyDirectories } from "../helpers/cgroup-files.ts";
import { failure, grpcStatus } from "../helpers/cri-client.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { NriNode } from "../helpers/nri-node.ts";
import { startSeccompAgent } from "../helpers/seccomp-agent.ts";

let before: Inventory;
let nri: NriNode;
/** What the one plugin wants of the next container. */
let wanted: object = {};

beforeAll(async () => {
  before = takeInventory();
  nri = await NriNode.start(["request_timeout_ms = 20000"]);
});
afterEach(() => nri.closePlugins());
afterAll(async () => {
  await nri[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

const joinPlugin = () => nri.join("wants", { CreateContainer: () => ({ adjust: wanted }) });
const ip = (...args: readonly string[]): string => execFileSync("ip", args, { encoding: "utf8" });
const namespaceOf = (pid: number | "self", kind: string): string => readlinkSync(`/proc/${pid}/ns/${kind}`);

it("gives a container namespaces of its own, the node's, or others, and its execs the same", async () => {
  const plugin = await joinPlugin();
  const bound = join(nri.area, "netns");
  writeFileSync(bound, "");
  execFileSync("unshare", [`--net=${bound}`, "true"]);
  try {
    const inside = execFileSync("nsenter", [`--net=${bound}`, "readlink", "/proc/self/ns/net"], { encoding: "utf8" }).trim();
    await nri.inPod(
      async (podId, pod) => {
        const plain = await nri.pidOf(await nri.node.run(podId, pod, nri.sleeper()));
        wanted = {
          linux: { namespaces: [{ type: "network", path: bound }, { type: "ipc" }, { type: "-uts" }] },
        };
        const id = await nri.node.run(podId, pod, nri.sleeper());
        const pid = await nri.pidOf(id);
        expect(namespaceOf(pid, "net")).toBe(inside);
        expect([namespaceOf(plain, "ipc"), namespaceOf("self", "ipc")]).not.toContain(namespaceOf(pid, "ipc"));
        expect(namespaceOf(pid, "uts")).toBe(namespaceOf("self", "uts"));
        const kinds = ["net", "ipc", "uts"];
        expect(await nri.shell(id, kinds.map((kind) => `readlink /proc/self/ns/${kind}`).join(";"))).toBe(
          kinds.map((kind) => namespaceOf(pid, kind)).join("\n"),
        );
        const { linux } = await nri.spec(id);
        expect(linux.namespaces).toContainEqual({ type: "network", path: bound });
        expect(linux.namespaces).toContainEqual({ type: "ipc" });
        const saved = { container_id: id, location: join(nri.area, "saved.tar"), timeout: 10 };
        expect((await failure(nri.node.client.runtime("CheckpointContainer", saved))).details).toContain(
          "namespaces that are not its pod's cannot be checkpointed",
        );

        wanted = {
          linux: { namespaces: [{ type: "network" }, { type: "uts" }, { type: "pid", path: `/proc/${plain}/ns/pid` }] },
        };
        const other = await nri.node.run(podId, pod, nri.sleeper());
        const otherPid = await nri.pidOf(other);
        expect([inside, namespaceOf("self", "net"), namespaceOf(plain, "net")]).not.toContain(namespaceOf(otherPid, "net"));
        expect(namespaceOf(otherPid, "pid")).toBe(namespaceOf(plain, "pid"));
        // A network of its own has its loopback, and a UTS namespace the pod's name.
        expect(await nri.shell(other, "hostname; ip -o addr show lo | grep -o '127.0.0.1/8'; ps | grep -c 'sleep 1000$'")).toBe(
          `${pod.hostname}\n127.0.0.1/8\n2`,
        );
        wanted = { linux: { namespaces: [{ type: "-pid" }] } };
        const host = await nri.node.run(podId, pod, nri.sleeper());
        expect(namespaceOf(await nri.pidOf(host), "pid")).toBe(namespaceOf("self", "pid"));
      },
      { linux: { security_context: { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" } } } },
    );
    // It was told what the container would have without it.
    const { container } = plugin.calls.find(({ method }) => method === "CreateContainer")?.request ?? {};
    expect(container?.linux?.namespaces.map(({ type }) => type)).toEqual(expect.arrayContaining(["mount", "pid", "ipc"]));
  } finally {
    execFileSync("umount", [bound]);
  }
});

it("gives new namespaces to a container in a user namespace, and refuses it others", async () => {
  await joinPlugin();
  const ids = [{ host_id: 400_000, container_id: 0, length: 65_536 }];
  const namespace_options = {
    network: "NODE",
    pid: "CONTAINER",
    ipc: "POD",
    userns_options: { mode: "POD", uids: ids, gids: ids },
  };
  await nri.inPod(
    async (podId, pod) => {
      const more = { linux: { security_context: { namespace_options: { ...namespace_options } } } };
      wanted = { linux: { namespaces: [{ type: "network" }] } };
      const id = await nri.node.run(podId, pod, nri.sleeper(more));
      expect(await nri.shell(id, "ip -o addr show lo | grep -o '127.0.0.1/8'; ls /sys/class/net")).toBe("127.0.0.1/8\nlo");
      wanted = { linux: { namespaces: [{ type: "-ipc" }] } };
      expect(await nri.refused(podId, pod, nri.sleeper(more))).toContain("only new ones can be had");
    },
    { linux: { security_context: { namespace_options } } },
  );
});

it("moves devices of the node's network into a container's own, and gives them back", async () => {
  await joinPlugin();
  ip("link", "add", "caisson-nri0", "type", "veth", "peer", "name", "caisson-nri1");
  try {
    ip("addr", "add", "192.0.2.9/24", "dev", "caisson-nri0");
    await nri.inPod(async (podId, pod) => {
      wanted = { linux: { netDevices: { "caisson-nri0": { name: "data0" } } } };
      expect(await nri.refused(podId, pod)).toContain("network devices need a network namespace of the container's own");
      wanted = { linux: { netDevices: { "caisson-nri0": { name: "data0" }, "-eth9": {} }, namespaces: [{ type: "network" }] } };
      const id = await nri.node.run(podId, pod, nri.sleeper());
      expect(await nri.shell(id, "ip -o addr show data0 | grep -o 'inet [0-9./]*'")).toBe("inet 192.0.2.9/24");
      expect(ip("-br", "link")).not.toContain("caisson-nri0");
      wanted = { linux: { netDevices: { "no-such-dev": {} }, namespaces: [{ type: "network" }] } };
      expect(await nri.refused(podId, pod)).toContain("no-such-dev");
    });
  } finally {
    // Its end is gone with the container's namespace, or both are here still.
    execFileSync("sh", ["-c", "ip link del caisson-nri1 2>/dev/null || ip link del data0 2>/dev/null || true"]);
  }
});

it("puts a container's cgroup elsewhere, whole, and takes it away with the container", async () => {
  await joinPlugin();
  const parent = `${nri.node.cgroupParent}/elsewhere`;
  const directories = (path: string) => hierarchyDirectories().map((directory) => join(directory, path));
  for (const directory of directories(parent)) mkdirSync(directory, { recursive: true });
  try {
    await nri.inPod(async (podId, pod) => {
      wanted = { linux: { cgroupsPath: `${parent}/mine`, resources: { pids: { limit: 33n } } } };
      const id = await nri.node.run(podId, pod, nri.sleeper());
      const pid = await nri.pidOf(id);
      expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(`:${parent}/mine\n`);
      expect((await nri.spec(id)).linux.cgroupsPath).toBe(`${parent}/mine`);
      const { stats } = await nri.node.client.runtime("ContainerStats", { container_id: id });
      expect(Number(stats.memory.working_set_bytes.value)).toBeGreaterThan(0);
      const limits = directories(`${parent}/mine`).map((directory) => join(directory, "pids.max"));
      expect(limits.filter((file) => existsSync(file)).map((file) => readFileSync(file, "utf8").trim())).toEqual(["33"]);

      expect(await nri.refused(podId, pod)).toContain(`it is that of container ${id}, or in it`);
      wanted = { linux: { cgroupsPath: `${parent}/mine/inner` } };
      expect(await nri.refused(podId, pod)).toContain(`it is that of container ${id}, or in it`);
      wanted = { linux: { cgroupsPath: parent } };
      expect(await nri.refused(podId, pod)).toContain("there is such a cgroup already");
      wanted = { linux: { cgroupsPath: `${parent}/no/such` } };
      expect(await nri.refused(podId, pod)).toBe(
        `${grpcStatus.FAILED_PRECONDITION}: cgroups_path ${parent}/no/such, which an NRI plugin wants, cannot be had: there is no cgroup ${parent}/no to make it in`,
      );
      // The daemon that comes back finds it there.
      await nri.node.daemon.kill();
      await nri.node.daemon.launch();
      expect(await nri.shell(id, "echo alive")).toBe("alive");
      await nri.node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
      await nri.node.client.runtime("RemoveContainer", { container_id: id });
      expect(directories(`${parent}/mine`).filter((directory) => existsSync(directory))).toEqual([]);
    });
  } finally {
    for (const directory of directories(parent)) rmdirSync(directory);
  }
});

it("gives the first process and execs their scheduler, I/O priority and memory policy", async () => {
  const plugin = await joinPlugin();
  await nri.inPod(async (podId, pod) => {
    wanted = {
      linux: {
        scheduler: { policy: 4, nice: 7, flags: [] },
        ioPriority: { class: 3, priority: 0 },
        memoryPolicy: { mode: 2, nodes: "0", flags: [] },
      },
    };
    const id = await nri.node.run(podId, pod, nri.sleeper());
    const [planned, made] = [await plugin.saw("CreateContainer"), await plugin.saw("PostCreateContainer")];
    // The node's default profile is seen before, and what was wanted after.
    expect(planned.container?.linux?.seccompPolicy).toMatchObject({ defaultAction: "SCMP_ACT_ERRNO" });
    expect(planned.container?.linux?.seccompPolicy?.syscalls.flatMap(({ names }) => names)).toContain("read");
    expect(planned.container?.linux?.scheduler).toBeUndefined();
    expect(made.container?.linux).toMatchObject({ scheduler: { policy: 4, nice: 7 }, ioPriority: { class: 3, priority: 0 } });
    const pid = await nri.pidOf(id);
    // Fields 19 and 41: nice and policy.
    const scheduling = (stat: string): string[] => {
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return [fields[16] ?? "", fields[38] ?? ""];
    };
    expect(scheduling(readFileSync(`/proc/${pid}/stat`, "utf8"))).toEqual(["7", "3"]);
    expect(execFileSync("ionice", ["-p", String(pid)], { encoding: "utf8" }).trim()).toBe("idle");
    expect(readFileSync(`/proc/${pid}/numa_maps`, "utf8")).toContain("bind:0");
    expect(scheduling(await nri.shell(id, "exec cat /proc/self/stat"))).toEqual(["7", "3"]);
    wanted = { linux: { scheduler: { policy: 2, nice: 7 } } };
    expect(await nri.refused(podId, pod)).toContain("scheduler.nice is for SCHED_OTHER and SCHED_BATCH, not for SCHED_FIFO");
  });
});

it("gives a container a seccomp policy with a listener that answers for it", async () => {
  await joinPlugin();
  const socket = join(nri.area, "agent.sock");
  await using agent = await startSeccompAgent(socket);
  await nri.inPod(async (podId, pod) => {
    const rule = { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_NOTIFY" };
    const policy = { defaultAction: "SCMP_ACT_ALLOW", listenerPath: socket, listenerMetadata: "of a plugin", syscalls: [rule] };
    wanted = { linux: { seccompPolicy: policy } };
    const id = await nri.node.run(podId, pod, nri.sleeper());
    expect(await nri.shell(id, "mkdir /tmp/x 2>&1 | grep -o 'Disk quota exceeded'")).toBe("Disk quota exceeded");
    expect(agent.handed().map(({ metadata }) => metadata)).toContain("of a plugin");
    wanted = { linux: { seccompPolicy: { ...policy, listenerPath: "" } } };
    expect(await nri.refused(podId, pod)).toContain("SCMP_ACT_NOTIFY needs an absolute listenerPath");
    wanted = { linux: { seccompPolicy: { ...policy, syscalls: [] } } };
    expect(await nri.refused(podId, pod)).toContain("of no use without SCMP_ACT_NOTIFY");
  });
});

it("gives a container the last word of plugins on its devices", async () => {
  await joinPlugin();
  await nri.inPod(async (podId, pod) => {
    // No driver has it: what may be opened says so.
    const [major, minor] = [{ value: 60n }, { value: 1n }];
    wanted = {
      linux: {
        devices: [{ path: "/dev/extra", type: "c", major: 60n, minor: 1n }],
        resources: { devices: [{ allow: false, type: "c", major, minor, access: "w" }] },
      },
    };
    const id = await nri.node.run(podId, pod, nri.sleeper());
    expect(await nri.shell(id, "(: </dev/extra); (: >/dev/extra)")).toMatch(/No such device.*\n.*Operation not permitted$/);
    wanted = { linux: { resources: { devices: [{ allow: true, type: "x", access: "rwm" }] } } };
    expect(await nri.refused(podId, pod)).toContain('has type "x", which is none of a, b, c');
  });
});

it("refuses by name what no container here can have", async () => {
  await joinPlugin();
  await nri.inPod(async (podId, pod) => {
    const refused = async (linux: object): Promise<string> => {
      wanted = { linux };
      return await nri.refused(podId, pod);
    };
    const unimplemented = `${grpcStatus.UNIMPLEMENTED}: `;
    const uts = `/proc/${process.pid}/ns/uts`;
    const invalid = `${grpcStatus.INVALID_ARGUMENT}: `;
    for (const [linux, sentence] of [
      [{ resources: { blockioClass: { value: "gold" } } }, `${unimplemented}blockio_class "gold", which an NRI plugin wants`],
      [{ resources: { memory: { kernel: { value: 1n } } } }, `${unimplemented}memory.kernel`],
      [{ namespaces: [{ type: "mount" }] }, `${unimplemented}a mount namespace`],
      [{ namespaces: [{ type: "-user" }] }, `${unimplemented}a user namespace`],
      [{ namespaces: [{ type: "time" }] }, `${unimplemented}a time namespace`],
      [{ namespaces: [{ type: "cgroup", path: "/proc/1/ns/cgroup" }] }, `${unimplemented}the cgroup namespace of another`],
      [{ namespaces: [{ type: "net", path: "" }] }, `${invalid}namespace type "net"`],
      [{ namespaces: [{ type: "network", path: uts }] }, `${invalid}${uts} is no network namespace`],
      [{ namespaces: [{ type: "ipc", path: "/no/such" }] }, `${invalid}ipc namespace /no/such cannot be opened`],
      [{ namespaces: [{ type: "pid", path: "/run/pidns" }] }, `${invalid}PID namespace "/run/pidns"`],
      [{ namespaces: [{ type: "pid", path: "/proc/999999999/ns/pid" }] }, "the process has ended"],
      [{ namespaces: [{ type: "ipc" }], sysctl: { "kernel.shmmax": "1" } }, `${unimplemented}sysctl "kernel.shmmax"`],
      [{ cgroupsPath: "/" }, `${invalid}cgroups_path of an NRI plugin must not be the root cgroup`],
      [{ cgroupsPath: "a/../../b" }, "is not an absolute path"],
      [
        { rdt: { schemata: { value: ["L3:0=f"] } } },
        `${grpcStatus.FAILED_PRECONDITION}: intelRdt cannot be applied: resctrl is not`,
      ],
      [{ resources: { rdtClass: { value: "gold" } } }, `${grpcStatus.FAILED_PRECONDITION}: intelRdt cannot be applied`],
      [
        { resources: { rdtClass: { value: "a" } }, rdt: { closId: { value: "b" } } },
        `${invalid}NRI plugins want both rdt_class "a"`,
      ],
      [{ rdt: { closId: { value: "../x" } } }, `${invalid}intelRdt.closID "../x"`],
    ] as const) {
      expect(await refused(linux)).toContain(sentence);
    }
    // No class is what it has.
    wanted = { linux: { resources: { rdtClass: { value: "" }, blockioClass: { value: "" } }, rdt: { remove: true } } };
    await nri.node.run(podId, pod, nri.sleeper());
    const { containers } = await nri.node.client.runtime("ListContainers", { filter: { pod_sandbox_id: podId } });
    expect(containers.length).toBe(1);
  });
});

it("names both plugins that want one field", async () => {
  const adjustments: readonly (readonly [field: string, a: object, b: object])[] = [
    ["CgroupsPath", { cgroupsPath: "/a" }, { cgroupsPath: "/b" }],
    ['Namespace "ipc"', { namespaces: [{ type: "ipc" }] }, { namespaces: [{ type: "ipc", path: "/x" }] }],
    ['LinuxNetDevices "eth7"', { netDevices: { eth7: {} } }, { netDevices: { eth7: { name: "x" } } }],
    ["RdtClosID", { rdt: { closId: { value: "a" } } }, { rdt: { closId: { value: "b" } } }],
    ["BlockioClass", { resources: { blockioClass: { value: "a" } } }, { resources: { blockioClass: { value: "b" } } }],
    ["LinuxSched", { scheduler: { policy: 4 } }, { scheduler: { policy: 1 } }],
    ["IoPriority", { ioPriority: { class: 3 } }, { ioPriority: { class: 2 } }],
    ["MemoryPolicy", { memoryPolicy: { mode: 2, nodes: "0" } }, { memoryPolicy: { mode: 4 } }],
    [
      "SeccompPolicy",
      { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } },
      { seccompPolicy: { defaultAction: "SCMP_ACT_LOG" } },
    ],
  ];
  let at = 0;
  await nri.join("one", { CreateContainer: () => ({ adjust: { linux: adjustments[at]?.[1] } }) }, "31");
  await nri.join("two", { CreateContainer: () => ({ adjust: { linux: adjustments[at]?.[2] } }) }, "32");
  await nri.inPod(async (podId, pod) => {
    for (; at < adjustments.length; at++) {
      expect(await nri.refused(podId, pod)).toContain(`NRI plugins 31-one and 32-two both set ${adjustments[at]?.[0]} of`);
    }
  });
});
