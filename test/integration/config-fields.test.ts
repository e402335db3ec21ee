/** Fields of pods and containers that have no file of their own: seen from inside, or in the kernel's own numbers. */
import { existsSync, readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { capabilitiesOf } from "../../src/core/process/capabilities.ts";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { freePort } from "../helpers/free-port.ts";

const profiles = `
[runtimes.strict]
default_capabilities = ["CHOWN"]
default_sysctls = { "net.ipv4.ip_unprivileged_port_start" = "512" }
shm_bytes = 1048576
absent_mount_sources = "refuse"
[runtimes.no-devices]
privileged_host_devices = false
`;

let node: CriNode;
let pod: Message;
let podId: string;
let count = 0;

beforeAll(async () => {
  node = await CriNode.start({ config: profiles });
  node.enableNetwork("caissoncf0", "10.211.15.0/24");
  await node.networkReady();
  pod = node.podConfig("fields");
  podId = await node.runPod(pod);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

const forever = ["/bin/sleep", "1000"];
const run = async (more: Message = {}, of: { id: string; config: Message } = { id: podId, config: pod }): Promise<string> =>
  await node.run(of.id, of.config, node.containerConfig(`c${count++}`, forever, more));
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};

/** A file of the container's cgroup: of v1's controller, else of v2. */
async function inForce(id: string, controller: string, v1: string, v2: string): Promise<string> {
  const rows = readFileSync(`/proc/${(await node.info(id)).pid}/cgroup`, "utf8")
    .trim()
    .split("\n");
  const of = (name: string): string =>
    rows.map((row) => row.split(":")).find((row) => row[1]?.split(",").includes(name))?.[2] ?? "";
  const places = [
    `/sys/fs/cgroup/${controller}${of(controller)}/${v1}`,
    ...["/unified", ""].map((top) => `/sys/fs/cgroup${top}${of("")}/${v2}`),
  ];
  const place = places.find(existsSync);
  if (place === undefined) throw new Error(`none of ${places.join(", ")}`);
  return readFileSync(place, "utf8").trim();
}

describe("capabilities", () => {
  const set = (text: string, name: string): readonly string[] =>
    capabilitiesOf(BigInt(`0x${new RegExp(`${name}:\\s*(\\w+)`).exec(text)?.[1] ?? "x"}`));

  it("that are ambient stay with an ordinary user, in init and in execs #ambient", async () => {
    const capabilities = { add_capabilities: ["NET_ADMIN"], add_ambient_capabilities: ["NET_ADMIN", "chown"] };
    const id = await run({ linux: { security_context: { run_as_user: { value: "1000" }, capabilities } } });
    for (const process of ["1", "self"]) {
      const text = await sh(id, `cat /proc/${process}/status`);
      for (const name of ["CapInh", "CapPrm", "CapEff", "CapAmb"])
        expect(set(text, name), name).toEqual(["CAP_CHOWN", "CAP_NET_ADMIN"]);
      expect(set(text, "CapBnd")).toContain("CAP_KILL");
    }
  });

  it("are not ambient where the container does not have them", async () => {
    const capabilities = { drop_capabilities: ["ALL"], add_ambient_capabilities: ["SYS_TIME"] };
    expect(await failure(run({ linux: { security_context: { capabilities } } }))).toMatchObject({
      code: grpcStatus.INVALID_ARGUMENT,
      details: expect.stringContaining("CAP_SYS_TIME"),
    });
  });
});

describe("variables", () => {
  it("keep every byte, also when the daemon ends between create and start", async () => {
    const bytes = Buffer.from([0xff, 0xfe, 0x0a, 0xc3, 0x28, 0x80, 0x3d, 0x20]);
    const envs = [
      { key: "RAW", value: bytes },
      { key: "EMPTY", value: Buffer.alloc(0) },
      { key: "Ü", value: Buffer.from("ä") },
    ];
    const id = await node.create(podId, pod, node.containerConfig(`c${count++}`, forever, { envs }));
    await node.daemon.kill();
    await node.daemon.launch();
    await node.start(id);
    for (const process of ["1", "self"]) {
      const { stdout } = await node.client.runtime("ExecSync", {
        container_id: id,
        cmd: ["/bin/cat", `/proc/${process}/environ`],
      });
      const variables = (stdout as Buffer).toString("latin1").split("\0");
      expect(variables).toContain(`RAW=${bytes.toString("latin1")}`);
      expect(variables).toContain("EMPTY=");
      expect(variables).toContain(Buffer.from("Ü=ä").toString("latin1"));
    }
  });

  it("with a NUL character cannot be", async () => {
    const envs = [{ key: "A", value: Buffer.from("a\0B=c") }];
    expect(await failure(run({ envs }))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
  });
});

describe("limits", () => {
  it("of huge pages and swap are in force #hugetlb #memory", async () => {
    const resources = {
      memory_limit_in_bytes: 32 << 20,
      memory_swap_limit_in_bytes: 48 << 20,
      hugepage_limits: [{ page_size: "2MB", limit: 4 << 20 }],
    };
    const id = await run({ linux: { resources } });
    expect(await inForce(id, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")).toBe(String(4 << 20));
    expect([String(48 << 20), String(16 << 20)]).toContain(
      await inForce(id, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    );
  });
});

describe("port mappings", () => {
  const answer = (port: number): Promise<string> =>
    new Promise((resolve) => {
      let text = "";
      const socket = createConnection({ port, host: "127.0.0.1" });
      socket.on("data", (chunk) => {
        text += chunk;
      });
      socket.on("error", ({ message }) => resolve(message));
      socket.on("close", () => resolve(text));
    });

  it("lead from the node to the pod while it is there; a host port of 0 asks for none", async () => {
    const port = await freePort();
    const config = node.podConfig("ports", {
      port_mappings: [
        { protocol: "TCP", container_port: 8080, host_port: port },
        { protocol: "TCP", container_port: 9090, host_port: 0 },
      ],
      linux: { security_context: { namespace_options: network.pod } },
    });
    const id = await node.runPod(config);
    await node.run(
      id,
      config,
      node.containerConfig("server", ["/bin/nc", "-ll", "-p", "8080", "-e", "/bin/echo", "from the pod"]),
    );
    await expect.poll(() => answer(port)).toBe("from the pod\n");
    await node.removePod(id);
    expect(await answer(port)).toMatch(/ECONNREFUSED/);
  });
});

describe("sysctls that would reach the node are refused", () => {
  it.each([
    ["net.ipv4.ip_forward", { network: "NODE", ipc: "POD" }],
    ["kernel.shmmax", { network: "POD", ipc: "NODE" }],
    ["fs.mqueue.msg_max", { network: "POD", ipc: "NODE" }],
    ["kernel.core_pattern", { network: "POD", ipc: "POD" }],
    ["vm.overcommit_memory", { network: "POD", ipc: "POD" }],
    ["net.ipv4/../../kernel.core_pattern", { network: "POD", ipc: "POD" }],
  ])("%s with %j", async (name, options) => {
    const config = node.podConfig("sysctl", {
      linux: { sysctls: { [name]: "1" }, security_context: { namespace_options: { pid: "CONTAINER", ...options } } },
    });
    expect((await failure(node.runPod(config))).code).toBe(grpcStatus.INVALID_ARGUMENT);
  });
});

describe("numbers that name nothing are refused", () => {
  const strange = 17;
  const podOptions = (options: Message): Message => ({
    linux: { security_context: { namespace_options: { ...network.host, ...options } } },
  });
  it.each<[string, Message]>([
    ["network", podOptions({ network: strange })],
    ["pid", podOptions({ pid: strange })],
    ["ipc", podOptions({ ipc: strange })],
    ["userns_options.mode", podOptions({ userns_options: { mode: strange } })],
    [
      "protocol",
      { ...podOptions({ network: "POD" }), port_mappings: [{ protocol: strange, container_port: 1, host_port: 40_001 }] },
    ],
  ])("in a pod's %s", async (_, more) => {
    expect(await failure(node.runPod(node.podConfig("strange", more)))).toMatchObject({
      code: grpcStatus.INVALID_ARGUMENT,
      details: expect.stringContaining(String(strange)),
    });
  });
  it.each<[string, Message]>([
    ["pid", { linux: { security_context: { namespace_options: { pid: strange } } } }],
    ["seccomp.profile_type", { linux: { security_context: { seccomp: { profile_type: strange } } } }],
    ["supplemental_groups_policy", { linux: { security_context: { supplemental_groups_policy: strange } } }],
    ["propagation", { mounts: [{ container_path: "/x", host_path: "/tmp", propagation: strange }] }],
    ["stop_signal", { stop_signal: 217 }],
  ])("in a container's %s", async (_, more) => {
    expect(await failure(run(more))).toMatchObject({
      code: grpcStatus.INVALID_ARGUMENT,
      details: expect.stringContaining("17"),
    });
  });
});

describe("runtime handlers", () => {
  const podOf = async (handler: string, more: Message = {}): Promise<{ id: string; config: Message }> => {
    const config = node.podConfig(`handled-${count++}`, more);
    const { pod_sandbox_id: id } = await node.client.runtime("RunPodSandbox", { config, runtime_handler: handler });
    return { id, config };
  };

  it("are the profiles of the configuration, and Status names them with what they can do", async () => {
    const { runtime_handlers } = await node.client.runtime("Status", {});
    expect(runtime_handlers.map(({ name }: Message) => name)).toEqual(["", "caisson", "strict", "no-devices"]);
    for (const { features } of runtime_handlers) expect(features).toEqual(runtime_handlers[0].features);
    expect(await failure(podOf("kata"))).toMatchObject({
      code: grpcStatus.INVALID_ARGUMENT,
      details: expect.stringMatching(/kata.*caisson, strict, no-devices/),
    });
  });

  it("give a pod and its containers what they say, and the rest is as ever", async () => {
    const of = await podOf("strict", { linux: { security_context: { namespace_options: network.pod } } });
    const id = await run({}, of);
    expect(await sh(id, "grep CapBnd /proc/1/status")).toMatch(/:\s+0+1$/);
    expect(await sh(id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")).toBe("512");
    expect(await sh(id, "df -k /dev/shm | tail -n 1")).toMatch(/ 1024 /);
    const missing = { mounts: [{ container_path: "/x", host_path: `${node.daemon.base}/not-there` }] };
    expect(await failure(run(missing, of))).toMatchObject({ details: expect.stringContaining("not-there") });
    await run(missing);
    const { status } = await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: of.id });
    expect(status.runtime_handler).toBe("strict");
    const { items } = await node.client.runtime("ListPodSandbox", { filter: { id: of.id } });
    expect(items[0].runtime_handler).toBe("strict");
    await node.removePod(of.id);
  });

  it("can keep the node's devices from privileged containers", async () => {
    const security_context = { privileged: true };
    for (const [handler, there] of [
      ["", "yes"],
      ["no-devices", "no"],
    ] as const) {
      const of = await podOf(handler, { linux: { security_context } });
      const id = await run({ linux: { security_context } }, of);
      expect(await sh(id, "test -e /dev/loop-control && echo yes || echo no"), handler).toBe(there);
      await node.removePod(of.id);
    }
  });
});
