/** What a client can get wrong, over the real socket: the gRPC code, a message that names the object, and nothing left behind. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let pod: Message;
let podId: string;
let running: string;
beforeAll(async () => {
  node = await CriNode.start();
  pod = node.podConfig("ground");
  podId = await node.runPod(pod);
  running = await node.run(podId, pod, node.containerConfig("running", ["/bin/sleep", "1000"]));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

const { INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, ALREADY_EXISTS, DEADLINE_EXCEEDED, UNKNOWN } = grpcStatus;
const long = "n".repeat(300);

async function refused(call: () => Promise<unknown>, code: number | readonly number[], text: RegExp): Promise<void> {
  const before = takeInventory();
  const got = await failure(call());
  expect([code].flat(), got.details).toContain(got.code);
  expect(got.details).toMatch(text);
  await expectNoLeaks(before);
}

describe("RunPodSandbox refuses", () => {
  const metadata = { name: "p", uid: "u", namespace: "n", attempt: 0 };
  const hostNetwork = { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" } };
  const cases: [string, Message, number, RegExp][] = [
    ["a request without config", { config: null }, INVALID_ARGUMENT, /config/],
    ["a config without metadata", { config: { metadata: null } }, INVALID_ARGUMENT, /metadata/],
    ["metadata without a name", { config: { metadata: { ...metadata, name: "" } } }, INVALID_ARGUMENT, /name/],
    ["metadata without a namespace", { config: { metadata: { ...metadata, namespace: "" } } }, INVALID_ARGUMENT, /namespace/],
    ["metadata without a uid", { config: { metadata: { ...metadata, uid: "" } } }, INVALID_ARGUMENT, /uid/],
    [
      "an over-long name",
      { config: { metadata: { ...metadata, name: long }, linux: { security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /long|name/,
    ],
    [
      "a name that climbs",
      { config: { metadata: { ...metadata, name: "../../x" }, linux: { security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /name/,
    ],
    ["an unknown runtime handler", { config: { metadata }, runtime_handler: "nope" }, INVALID_ARGUMENT, /nope/],
    [
      "a cgroup parent of systemd",
      { config: { metadata, hostname: "h", linux: { cgroup_parent: "/kubepods.slice", security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /\.slice.*systemd|systemd.*slice/s,
    ],
    [
      "a cgroup parent that climbs",
      { config: { metadata, hostname: "h", linux: { cgroup_parent: "/a/../../b", security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /cgroup/,
    ],
    ["a hostname with a slash", { config: { metadata, hostname: "a/b" } }, INVALID_ARGUMENT, /hostname/],
    [
      "a sysctl of the host",
      { config: { metadata, hostname: "h", linux: { sysctls: { "kernel.panic": "1" }, security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /kernel\.panic/,
    ],
    [
      "a sysctl value with a newline",
      {
        config: {
          metadata,
          hostname: "h",
          linux: { sysctls: { "kernel.shmmax": "1\nkernel.core_pattern=x" }, security_context: hostNetwork },
        },
      },
      INVALID_ARGUMENT,
      /shmmax/,
    ],
    [
      "a relative log directory",
      { config: { metadata, hostname: "h", log_directory: "logs", linux: { security_context: hostNetwork } } },
      INVALID_ARGUMENT,
      /log/,
    ],
  ];
  it.each(cases)("%s", async (_, request, code, text) => {
    await refused(() => node.client.runtime("RunPodSandbox", request), code, text);
  });
});

describe("CreateContainer refuses", () => {
  const base = (): Message => node.containerConfig(`c${Math.random().toString(36).slice(2, 8)}`, ["/bin/true"]);
  const security = (fields: Message): Message =>
    node.containerConfig("bad", ["/bin/true"], { linux: { security_context: fields } });
  const mount = (fields: Message): Message => ({
    ...base(),
    mounts: [{ container_path: "/data", host_path: "/tmp", ...fields }],
  });
  const cases: [string, () => Message, number, RegExp][] = [
    ["no config", () => null, INVALID_ARGUMENT, /config/],
    ["no metadata", () => ({ ...base(), metadata: null }), INVALID_ARGUMENT, /metadata/],
    ["an empty name", () => ({ ...base(), metadata: { name: "" } }), INVALID_ARGUMENT, /name/],
    ["an over-long name", () => ({ ...base(), metadata: { name: long } }), INVALID_ARGUMENT, /long|name/],
    ["no image", () => ({ ...base(), image: null }), INVALID_ARGUMENT, /image/],
    [
      "an image that is not here",
      () => ({ ...base(), image: { image: "example.test/none:1" } }),
      NOT_FOUND,
      /example\.test\/none:1/,
    ],
    ["an image reference that is none", () => ({ ...base(), image: { image: "UPPER CASE" } }), NOT_FOUND, /UPPER CASE/],
    ["a log path that climbs", () => ({ ...base(), log_path: "../../etc/x" }), INVALID_ARGUMENT, /log/],
    ["a user that is not in the image", () => security({ run_as_username: "stranger" }), INVALID_ARGUMENT, /stranger/],
    ["a negative user", () => security({ run_as_user: { value: "-1" } }), INVALID_ARGUMENT, /-1/],
    ["a user beyond 2^31-1", () => security({ run_as_user: { value: "4294967296" } }), INVALID_ARGUMENT, /4294967296/],
    ["a group without a user", () => security({ run_as_group: { value: "5" } }), INVALID_ARGUMENT, /group/],
    ["an unknown capability", () => security({ capabilities: { add_capabilities: ["FLY"] } }), INVALID_ARGUMENT, /FLY/],
    [
      "privileged in an unprivileged pod",
      () => security({ privileged: true }),
      [INVALID_ARGUMENT, FAILED_PRECONDITION][0] as number,
      /privileged/,
    ],
    [
      "a seccomp profile that is not there",
      () => security({ seccomp: { profile_type: "Localhost", localhost_ref: "/no/profile.json" } }),
      INVALID_ARGUMENT,
      /\/no\/profile\.json/,
    ],
    [
      "a negative memory limit",
      () => ({ ...base(), linux: { resources: { memory_limit_in_bytes: "-5" } } }),
      INVALID_ARGUMENT,
      /memory/,
    ],
    [
      "a memory limit with a smaller memory and swap limit",
      () => ({ ...base(), linux: { resources: { memory_limit_in_bytes: 1 << 26, memory_swap_limit_in_bytes: 1 << 25 } } }),
      INVALID_ARGUMENT,
      /swap/,
    ],
    ["a relative mount target", () => mount({ container_path: "data" }), INVALID_ARGUMENT, /data/],
    ["a mount target that climbs out", () => mount({ container_path: "/../.." }), INVALID_ARGUMENT, /mount|root/],
    ["a relative mount source", () => mount({ host_path: "tmp" }), INVALID_ARGUMENT, /tmp/],
    [
      "a mount over a file of /proc",
      () => mount({ container_path: "/proc/sys/kernel/core_pattern" }),
      INVALID_ARGUMENT,
      /\/proc/,
    ],
    ["recursive read-only without read-only", () => mount({ recursive_read_only: true }), INVALID_ARGUMENT, /read-?only/i],
    [
      "a device that is not there",
      () => ({ ...base(), devices: [{ host_path: "/dev/nope", container_path: "/dev/nope", permissions: "rwm" }] }),
      INVALID_ARGUMENT,
      /\/dev\/nope/,
    ],
    [
      "device permissions that are none",
      () => ({ ...base(), devices: [{ host_path: "/dev/null", container_path: "/dev/x", permissions: "rz" }] }),
      INVALID_ARGUMENT,
      /permissions/,
    ],
    [
      "an environment name with an equals sign",
      () => ({ ...base(), envs: [{ key: "A=B", value: Buffer.from("c") }] }),
      INVALID_ARGUMENT,
      /A=B/,
    ],
    ["a relative working directory", () => ({ ...base(), working_dir: "here" }), INVALID_ARGUMENT, /here/],
  ];
  it.each(cases)("%s", async (_, config, code, text) => {
    const request = { pod_sandbox_id: podId, config: config(), sandbox_config: pod };
    await refused(() => node.client.runtime("CreateContainer", request), code, text);
  });

  it("a sandbox that is not there", async () => {
    const request = { pod_sandbox_id: "f".repeat(64), config: base(), sandbox_config: pod };
    await refused(() => node.client.runtime("CreateContainer", request), NOT_FOUND, /f{13}/);
  });
  it("a name that is taken by an unequal container", async () => {
    const config = node.containerConfig("running", ["/bin/false"]);
    await refused(() => node.create(podId, pod, config), ALREADY_EXISTS, /running/);
  });
});

describe("a container's command", () => {
  it.each([
    ["that is not in PATH", ["no-such-program"], /no-such-program.*not found/s],
    ["that is a path to nothing", ["/no/such/program"], /\/no\/such\/program.*no such file/s],
    ["that is a directory", ["/etc"], /\/etc.*(permission denied|is a directory)/s],
    ["that is not executable", ["/etc/passwd"], /\/etc\/passwd.*permission denied/s],
  ])("%s is named when it cannot be started", async (_, command, text) => {
    const id = await node.create(podId, pod, node.containerConfig(`x${Math.random().toString(36).slice(2, 8)}`, command));
    const { details } = await failure(node.start(id));
    expect(details).toMatch(text);
    expect(await node.status(id)).toMatchObject({ state: "CONTAINER_EXITED", reason: "StartError", exit_code: 128 });
    await node.client.runtime("RemoveContainer", { container_id: id });
  });

  it("by exec is named when it cannot be started", async () => {
    const { details, code } = await failure(node.exec(running, ["no-such-program"]));
    expect(details).toMatch(/no-such-program.*not found/s);
    expect([INVALID_ARGUMENT, NOT_FOUND, UNKNOWN]).toContain(code);
  });
});

describe("verbs on the wrong object", () => {
  const missing = "e".repeat(64);
  it.each([
    ["StartContainer", { container_id: missing }],
    ["ContainerStatus", { container_id: missing }],
    ["ContainerStats", { container_id: missing }],
    ["ExecSync", { container_id: missing, cmd: ["/bin/true"] }],
    ["ReopenContainerLog", { container_id: missing }],
    ["PodSandboxStatus", { pod_sandbox_id: missing }],
  ])("%s says NOT_FOUND for an unknown id", async (method, request) => {
    await refused(() => node.client.runtime(method, request), NOT_FOUND, /e{13}/);
  });

  it.each([
    ["ContainerStatus", { container_id: "" }],
    ["ExecSync", { container_id: "", cmd: ["/bin/true"] }],
    ["PodSandboxStatus", { pod_sandbox_id: "" }],
  ])("%s says INVALID_ARGUMENT for an empty id", async (method, request) => {
    await refused(() => node.client.runtime(method, request), INVALID_ARGUMENT, /id/);
  });

  it("a running container cannot be started again", async () => {
    await refused(() => node.start(running), FAILED_PRECONDITION, /running/i);
  });

  it("an exited container has no exec, no log to reopen and no start", async () => {
    const id = await node.run(podId, pod, node.containerConfig("gone", ["/bin/true"]));
    await node.exited(id);
    await refused(() => node.exec(id, ["/bin/true"]), FAILED_PRECONDITION, /exited|not running/i);
    await refused(
      () => node.client.runtime("ReopenContainerLog", { container_id: id }),
      FAILED_PRECONDITION,
      /exited|not running/i,
    );
    await refused(() => node.start(id), FAILED_PRECONDITION, /exited/i);
  });

  it("ExecSync without a command is refused, and one that takes too long is ended", async () => {
    await refused(() => node.exec(running, []), INVALID_ARGUMENT, /cmd|command/);
    await refused(() => node.exec(running, ["/bin/sleep", "100"], 1), DEADLINE_EXCEEDED, /1 ?s/);
    await refused(() => node.exec(running, ["/bin/true"], -1), INVALID_ARGUMENT, /timeout/);
  });

  it("a stopped sandbox takes no more containers", async () => {
    const other = node.podConfig("stopped");
    const otherId = await node.runPod(other);
    await node.client.runtime("StopPodSandbox", { pod_sandbox_id: otherId });
    await refused(
      () => node.create(otherId, other, node.containerConfig("late", ["/bin/true"])),
      FAILED_PRECONDITION,
      /not ?ready/i,
    );
    await node.removePod(otherId);
  });
});

describe("images", () => {
  it.each([
    ["an empty reference", "", INVALID_ARGUMENT, /image/],
    ["a reference that is none", "Not A Reference", INVALID_ARGUMENT, /Not A Reference/],
  ])("PullImage refuses %s", async (_, image, code, text) => {
    await refused(() => node.client.image("PullImage", { image: { image } }), code, text);
  });
  it("PullImage says what the registry does not have, and who cannot be reached", async () => {
    await refused(
      () => node.client.image("PullImage", { image: { image: `${node.registry.host}/no/such:1` } }),
      NOT_FOUND,
      /no\/such/,
    );
    await refused(() => node.client.image("PullImage", { image: { image: "127.0.0.1:1/x:1" } }), UNKNOWN, /^RegistryUnavailable/);
  });
  it("ImageStatus of an absent image is no error, nor is its removal", async () => {
    expect((await node.client.image("ImageStatus", { image: { image: "example.test/none:1" } })).image).toBeNull();
    await node.client.image("RemoveImage", { image: { image: "example.test/none:1" } });
  });
});
