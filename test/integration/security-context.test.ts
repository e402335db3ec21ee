/** What the fields of a container's configuration do, seen from inside the container. */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compileFixture } from "../helpers/compile.ts";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { startSeccompAgent } from "../helpers/seccomp-agent.ts";

let node: CriNode;
let before: Inventory;
let pod: Message;
let podId: string;
let privilegedPod: Message;
let privilegedPodId: string;
let count = 0;

beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
  pod = node.podConfig("plain");
  podId = await node.runPod(pod);
  privilegedPod = node.podConfig("privileged", { linux: { security_context: { privileged: true } } });
  privilegedPodId = await node.runPod(privilegedPod);
});
afterAll(async () => {
  await node.removePod(podId);
  await node.removePod(privilegedPodId);
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

/** Runs a container with this configuration and returns a shell in it. */
async function shell(more: Message = {}, of: { config: Message; id: string } = { config: pod, id: podId }) {
  const config = { ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], more) };
  const id = await node.run(of.id, of.config, config);
  return async (script: string): Promise<string> => {
    const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
    return `${stdout}${stderr}`.trim();
  };
}
const secured = (security_context: Message): Message => ({ linux: { security_context } });
const inPrivileged = () => ({ config: privilegedPod, id: privilegedPodId });
const status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/1/status";

describe("the user", () => {
  it("has the groups of the image and of the request, or only the latter with policy Strict", async () => {
    const asked = { run_as_username: "user", supplemental_groups: ["3000"] };
    expect(await (await shell(secured(asked)))("id -u; id -g; id -G")).toBe("1000\n1000\n1000 100 2000 3000");
    const strict = await shell(secured({ ...asked, supplemental_groups_policy: "Strict" }));
    expect((await strict("id -G")).split(" ").sort()).toEqual(["1000", "3000"]);
  });

  it("is the image's when the request names none, and its home is known", async () => {
    const image = await node.addImage("test/user", { config: { User: "user:extra", WorkingDir: "/made/here" } });
    const sh = await shell({ image: { image } });
    expect(await sh("id -u; id -g; pwd; echo $HOME")).toBe("1000\n2000\n/made/here\n/home/user");
  });

  it("has no capability left when it is not root (CVE-2016-8867)", async () => {
    const sh = await shell(secured({ run_as_user: { value: "1000" } }));
    expect(await sh(status)).toMatch(/CapPrm:\s0+\nCapEff:\s0+\n/);
  });
});

describe("capabilities", () => {
  it("are exactly those that are left, and none can be inherited (CVE-2022-24769, CVE-2022-27652) #capabilities", async () => {
    const capabilities = { drop_capabilities: ["ALL"], add_capabilities: ["net_bind_service", "CAP_KILL"] };
    const sh = await shell(secured({ capabilities }));
    const set = (0x400 | 0x20).toString(16).padStart(16, "0");
    expect(await sh(status)).toContain(
      `CapInh:\t${"0".repeat(16)}\nCapPrm:\t${set}\nCapEff:\t${set}\nCapBnd:\t${set}\nCapAmb:\t${"0".repeat(16)}`,
    );
  });
});

describe("seccomp", () => {
  it("is off with Unconfined and on with RuntimeDefault", async () => {
    expect(await (await shell(secured({ seccomp: { profile_type: "Unconfined" } })))(status)).toContain("Seccomp:\t0");
    expect(await (await shell(secured({ seccomp: { profile_type: "RuntimeDefault" } })))(status)).toContain("Seccomp:\t2");
  });

  it("closes what the kernel opens to everybody, in every table of calls (class-kernel-interfaces, class-foreign-architecture, CVE-2022-0185, CVE-2022-0492)", async () => {
    const program = compileFixture("attacker");
    const mounts = [{ container_path: "/x", host_path: dirname(program), readonly: true }];
    const calls = async (profile_type: string): Promise<Record<string, string>> => {
      const out = await (await shell({ mounts, ...secured({ seccomp: { profile_type } }) }))("/x/attacker calls");
      return Object.fromEntries(out.split("\n").map((line) => line.split(" ")));
    };
    const guarded = await calls("RuntimeDefault");
    const { newer, ...refused } = guarded;
    // ENOSYS, as from a kernel that does not have it.
    expect(newer).toBe("38");
    for (const [name, result] of Object.entries(refused)) expect(result, name).toBe("1");
    // Without the filter it is the kernel that decides, and it lets an ordinary container do these.
    const open = await calls("Unconfined");
    for (const name of ["keyctl", "io_uring", "perf_event_open", "unshare_user"]) expect(open[name], name).not.toBe("1");
  });

  it("applies a profile of the node, also to execs (class-seccomp-exec)", async () => {
    const path = join(node.daemon.base, "profile.json");
    const rule = { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 28 };
    writeFileSync(path, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] }));
    const sh = await shell(secured({ seccomp: { profile_type: "Localhost", localhost_ref: path } }));
    expect(await sh("mkdir /tmp/x; touch /tmp/y && echo made")).toBe(
      "made\nmkdir: can't create directory '/tmp/x': No space left on device",
    );
  });
});

describe("a seccomp listener of the node #seccomp-notify", () => {
  const profile = (listenerPath: string): string => {
    const rule = { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_NOTIFY" };
    const path = join(node.daemon.base, "notify.json");
    const text = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule], listenerPath, listenerMetadata: "some words" };
    writeFileSync(path, JSON.stringify(text));
    return path;
  };

  it("is handed the descriptors of init and execs, in shared PID and user namespaces as well, and decides", async () => {
    const socket = join(node.daemon.base, "agent.sock");
    await using agent = await startSeccompAgent(socket);
    const mapping = { host_id: 300_000, container_id: 0, length: 65_536 };
    const userns_options = { mode: "POD", uids: [mapping], gids: [mapping] };
    for (const options of [{}, { pid: "POD" }, { userns_options }]) {
      const namespace_options = { network: "NODE", pid: "CONTAINER", ipc: "POD", ...options };
      const config = node.podConfig(`listener${count++}`, { linux: { security_context: { namespace_options } } });
      const id = await node.runPod(config);
      const before = agent.handed().length;
      const seccomp = { profile_type: "Localhost", localhost_ref: profile(socket) };
      const security_context = { namespace_options, seccomp, no_new_privs: count % 2 === 0 };
      const made = node.containerConfig("c", ["/bin/sleep", "1000"], { linux: { security_context } });
      const container = await node.run(id, config, made);
      const { pid } = await node.info(container);
      const { stdout, stderr } = await node.exec(container, ["mkdir", "/tmp/made"]);
      expect(`${stdout}${stderr}`).toContain("Disk quota exceeded");
      const [init, exec] = agent.handed().slice(before);
      expect(init).toMatchObject({ fds: ["seccompFd"], metadata: "some words", state: { id: container, status: "creating" } });
      expect(exec).toMatchObject({ state: { id: container, status: "running", pid } });
      await node.removePod(id);
    }
  });

  it("that is not there fails the creation by its name and leaves nothing", async () => {
    const seccomp = { profile_type: "Localhost", localhost_ref: profile("/tmp/caisson-no-agent.sock") };
    const config = node.containerConfig(`c${count++}`, ["/bin/true"], secured({ seccomp }));
    const refused = await failure(node.create(podId, pod, config));
    expect(refused.details).toMatch(/caisson-no-agent\.sock.*(ENOENT|[Nn]o such)/);
  });
});

describe("a privileged container", () => {
  it("has the node's devices, an open /proc and /sys, and no filter", async () => {
    const sh = await shell(secured({ privileged: true, no_new_privs: true }), inPrivileged());
    expect(await sh("ls /dev/loop-control /dev/kmsg")).toBe("/dev/kmsg\n/dev/loop-control");
    expect(
      await sh("test -w /proc/sys/kernel/domainname && echo writable; grep -cE ' /proc/(keys|kcore|sys) ' /proc/self/mountinfo"),
    ).toBe("writable\n0");
    expect(await sh("grep ' /sys ' /proc/self/mountinfo | grep -o ' rw,' | head -1")).toBe("rw,");
    expect(await sh(status)).toMatch(/NoNewPrivs:\s0\nSeccomp:\s0/);
    // Opening a device that is not among the defaults needs the cgroup's permission too.
    expect(await sh("head -c 0 /dev/loop-control && echo opened")).toBe("opened");
  });

  it("is refused in a sandbox that is not", async () => {
    const config = node.containerConfig(`c${count++}`, ["/bin/true"], secured({ privileged: true }));
    expect(await failure(node.create(podId, pod, config))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
  });
});

describe("devices", () => {
  it("are there with the permissions given, and no others can be used", async () => {
    const devices = [{ host_path: "/dev/loop-control", container_path: "/dev/mine", permissions: "r" }];
    const sh = await shell({ devices });
    expect(await sh("stat -c %t:%T /dev/mine; head -c 0 /dev/mine && echo read")).toBe("a:ed\nread");
    expect(await sh("echo > /dev/mine")).toMatch(/Operation not permitted/);
    expect(await sh("mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg")).toMatch(/Operation not permitted/);
    expect(await sh("head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo ok")).toBe("1\nok");
  });
});

describe("volumes of the image", () => {
  it("start with the image's content, are writable under a read-only root and stay inside it (CVE-2022-23648)", async () => {
    const entries = [
      { name: "var/data/", type: "5", mode: 0o750, uid: 1000, gid: 1000 },
      { name: "var/data/file", content: "from the image\n" },
    ] as const;
    const image = await node.addImage("test/volumes", {
      config: { Volumes: { "/var/data": {}, "/../../new": {} } },
      layers: [{ content: [...entries] }],
    });
    const sh = await shell({ image: { image }, ...secured({ readonly_rootfs: true }) });
    expect(await sh("cat /var/data/file; stat -c '%u %a' /var/data; echo more > /var/data/x && cat /var/data/x")).toBe(
      "from the image\n1000 750\nmore",
    );
    expect(await sh("touch /new/x && ls /new; touch /etc/x")).toMatch(/^x\ntouch: \/etc\/x: Read-only file system/);
    expect(await sh("grep -c ' /etc/hosts ro' /proc/self/mountinfo")).toBe("1");
  });
});

describe("resources", () => {
  it("are those of the request", async () => {
    const resources = {
      cpu_shares: 512,
      cpu_quota: 20000,
      cpu_period: 100000,
      memory_limit_in_bytes: 32 << 20,
      oom_score_adj: 700,
    };
    const sh = await shell({ linux: { resources } });
    const read =
      "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us /proc/1/oom_score_adj 2>/dev/null";
    const readV2 = "cd /sys/fs/cgroup; cat memory.max cpu.weight cpu.max /proc/1/oom_score_adj";
    const v2 = (await sh("test -e /sys/fs/cgroup/cgroup.procs && echo v2")) === "v2";
    const expected = v2 ? `${32 << 20}\n59\n20000 100000\n700` : `${32 << 20}\n512\n20000\n700`;
    expect(await sh(v2 ? readV2 : read)).toBe(expected);
  });
});

describe("sysctls", () => {
  it("hold in the pod's namespaces, defaults included", async () => {
    const own = node.podConfig("sysctls", {
      linux: {
        security_context: { namespace_options: network.pod },
        sysctls: { "kernel.shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "20000 30000", "fs.mqueue.msg_max": "20" },
      },
    });
    node.enableNetwork("caissonsc0", "10.95.0.0/24");
    for (let tries = 0; tries < 100; tries++) {
      const { status: reply } = await node.client.runtime("Status", {});
      if (reply.conditions.some(({ type, status: holds }: Message) => type === "NetworkReady" && holds)) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const id = await node.runPod(own);
    const sh = await shell({}, { config: own, id });
    expect(await sh("cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_local_port_range fs/mqueue/msg_max")).toBe(
      "1\n20000\t30000\n20",
    );
    expect(await sh("cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range")).toBe("0\n0\t2147483647");
    await node.removePod(id);
  });
});
