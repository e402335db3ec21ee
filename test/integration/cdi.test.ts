/** CDI devices as a kubelet asks for them, from specification files to what a container can open. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
let pod: Message;
let podId: string;
let specs: string;
let area: string;
let loop: string;
let loopMinor: number;

beforeAll(async () => {
  before = takeInventory();
  // The daemon's own directory is known only once it runs: the name of the specifications' one must be known before.
  specs = execFileSync("mktemp", ["-d", "/tmp/caisson-cdi-XXXXXX"], { encoding: "utf8" }).trim();
  area = join(specs, "area");
  for (const directory of [area, join(specs, "static"), join(specs, "dynamic")]) mkdirSync(directory);
  writeFileSync(join(area, "disk"), "on the loop device".padEnd(1 << 20, "."));
  loop = execFileSync("losetup", ["--find", "--show", join(area, "disk")], { encoding: "utf8" }).trim();
  loopMinor = Number(/\d+$/.exec(loop)?.[0]);
  node = await CriNode.start({ config: `[cdi]\nspec_dirs = ["${specs}/static", "${specs}/dynamic"]\n` });
  pod = node.podConfig("cdi");
  podId = await node.runPod(pod);
});
afterAll(async () => {
  execFileSync("losetup", ["--detach", loop]);
  await node[Symbol.asyncDispose]();
  rmSync(specs, { recursive: true });
  await expectNoLeaks(before);
});

const write = (file: string, kind: string, devices: Record<string, object>, more: object = {}): void =>
  writeFileSync(
    join(specs, file),
    JSON.stringify({
      cdiVersion: "1.1.0",
      kind,
      devices: Object.entries(devices).map(([name, containerEdits]) => ({ name, containerEdits })),
      ...more,
    }),
  );
let count = 0;
const config = (names: readonly string[], more: Message = {}): Message => ({
  ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], more),
  CDI_devices: names.map((name) => ({ name })),
});
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};

it("gives devices, mounts, variables and groups of all that was asked for, duplicates once #cdi", async () => {
  mkdirSync(join(area, "lib"));
  writeFileSync(join(area, "lib/driver"), "driver");
  write(
    "static/disk.json",
    "test.caisson/disk",
    {
      a: { deviceNodes: [{ path: "/dev/disk-a", hostPath: loop }], env: ["DISK=a", "PATH=/cdi:/bin"], additionalGids: [0, 4321] },
      b: { deviceNodes: [{ path: "/dev/disk-b", hostPath: loop, permissions: "r", fileMode: 0o640, uid: 3, gid: 4 }] },
    },
    {
      containerEdits: {
        env: ["ALL=disks"],
        mounts: [{ hostPath: join(area, "lib"), containerPath: "/usr/lib/driver", options: ["ro", "nosuid", "nodev", "bind"] }],
      },
    },
  );
  const names = ["test.caisson/disk=a", "test.caisson/disk=b", "test.caisson/disk=a"];
  const id = await node.run(podId, pod, config(names));
  expect(await sh(id, "head -c 18 /dev/disk-a; stat -c ' %t:%T %a %u:%g' /dev/disk-b")).toBe(
    `on the loop device 7:${loopMinor.toString(16)} 640 3:4`,
  );
  expect(await sh(id, "cat /usr/lib/driver/driver; touch /usr/lib/driver/x")).toMatch(/^driver.*Read-only/s);
  expect(await sh(id, "echo $DISK $ALL $PATH; id -G")).toBe("a disks /cdi:/bin\n0 4321");
  expect((await node.status(id)).user.linux.supplemental_groups).toContain("4321");
  const { runtimeSpec } = await node.info(id);
  expect(runtimeSpec.linux.devices.map((device: Message) => device.path)).toEqual(["/dev/disk-a", "/dev/disk-b"]);
});

it("lets a container open exactly what its devices allow #cdi", async () => {
  write("static/read.json", "test.caisson/read", {
    x: { deviceNodes: [{ path: "/dev/x", hostPath: loop, permissions: "r" }] },
    none: { deviceNodes: [{ path: "/dev/x", hostPath: loop, permissions: "none" }] },
  });
  const tryWrite = "echo x | dd of=/dev/x bs=1 conv=notrunc 2>&1 | head -1";
  const reader = await node.run(podId, pod, config(["test.caisson/read=x"]));
  expect(await sh(reader, "head -c 2 /dev/x")).toBe("on");
  expect(await sh(reader, tryWrite)).toMatch(/Operation not permitted/);
  const none = await node.run(podId, pod, config(["test.caisson/read=none"]));
  expect(await sh(none, "head -c 2 /dev/x")).toMatch(/Operation not permitted/);
  const without = await node.run(podId, pod, config([]));
  expect(await sh(without, `mknod /tmp/x b 7 ${loopMinor}; head -c 2 /tmp/x`)).toMatch(/Operation not permitted/);
});

it("gives the container's user the devices that have no owner of their own", async () => {
  write("static/owner.json", "test.caisson/owner", { x: { deviceNodes: [{ path: "/dev/x", hostPath: loop, fileMode: 0o600 }] } });
  const user = { linux: { security_context: { run_as_user: { value: 1000 }, run_as_group: { value: 1000 } } } };
  const id = await node.run(podId, pod, config(["test.caisson/owner=x"], user));
  expect(await sh(id, "id -u; head -c 2 /dev/x; stat -c ' %u:%g' /dev/x")).toBe("1000\non 1000:1000");
});

it("sees files that come, change and go, and lets later directories win", async () => {
  const value = async (): Promise<string> => await sh(await node.run(podId, pod, config(["test.caisson/late=x"])), "echo $WHICH");
  const refused = await failure(node.create(podId, pod, config(["test.caisson/late=x"])));
  expect(refused.details).toContain('unresolvable CDI devices: "test.caisson/late=x"');
  write("static/late.json", "test.caisson/late", { x: { env: ["WHICH=static"] } });
  expect(await value()).toBe("static");
  write("static/late.json", "test.caisson/late", { x: { env: ["WHICH=changed"] } });
  expect(await value()).toBe("changed");
  writeFileSync(
    join(specs, "dynamic/late.yaml"),
    "cdiVersion: 0.3.0\nkind: test.caisson/late\ndevices:\n- name: x\n  containerEdits:\n    env: [WHICH=dynamic]\n",
  );
  expect(await value()).toBe("dynamic");
  rmSync(join(specs, "dynamic/late.yaml"));
  expect(await value()).toBe("changed");
});

it("names every device that it cannot give, and leaves nothing of the container", async () => {
  writeFileSync(join(specs, "static/broken.json"), "{");
  const asked = config(["test.caisson/disk=a", "test.caisson/disk=z", "other.test/y=1"]);
  const refused = await failure(node.create(podId, pod, asked));
  expect(refused.code).toBe(grpcStatus.FAILED_PRECONDITION);
  expect(refused.details).toMatch(/unresolvable CDI devices: "test.caisson\/disk=z", "other.test\/y=1"; .*broken\.json/);
  const { containers } = await node.client.runtime("ListContainers", {});
  expect(containers.some((container: Message) => container.metadata.name === asked.metadata.name)).toBe(false);
  expect((await failure(node.create(podId, pod, config(["disk-a"])))).code).toBe(grpcStatus.INVALID_ARGUMENT);
  rmSync(join(specs, "static/broken.json"));
});

it("runs the hooks of devices, in their namespaces, with the bundle at hand; a failing one takes the container back", async () => {
  const names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
  const script = (name: string) =>
    `cat > ${area}/${name}.state; readlink /proc/self/ns/mnt > ${area}/${name}.mnt; echo ${name} >> ${area}/order`;
  const hook = (hookName: string, text: string) => ({
    hookName,
    path: "/bin/sh",
    args: ["sh", "-c", text],
    env: ["PATH=/bin:/usr/bin"],
  });
  const inside = `test -e ${specs} && test -d proc/self && echo made > tmp/made-by-hook`;
  write("static/hook.json", "test.caisson/hook", {
    x: {
      hooks: [
        ...names.map((name) => hook(name, script(name))),
        hook("createContainer", inside),
        hook("createRuntime", `cp "$(grep -o '"bundle":"[^"]*' | cut -d '"' -f 4)/config.json" ${area}/`),
        hook("startContainer", "echo started > /tmp/started-by-hook"),
      ],
    },
    bad: { hooks: [hook("createContainer", "echo no >&2; exit 4")] },
  });
  const id = await node.run(podId, pod, config(["test.caisson/hook=x"]));
  const seen = await node.exec(id, ["cat", "/tmp/made-by-hook", "/tmp/started-by-hook"]);
  expect(seen.stdout).toBe("made\nstarted\n");
  const { pid } = await node.info(id);
  expect(readlinkSync(`/proc/${pid}/ns/mnt`)).toBe(readFileSync(join(area, "createContainer.mnt"), "utf8").trim());
  expect(JSON.parse(readFileSync(join(area, "config.json"), "utf8")).root.path).toContain(id);
  await node.client.runtime("RemoveContainer", { container_id: id });
  expect(readFileSync(join(area, "order"), "utf8").trim().split("\n")).toEqual(names);
  const states = names.map((name) => JSON.parse(readFileSync(join(area, `${name}.state`), "utf8")));
  expect(states.map(({ status, pid: of }) => [status, of])).toEqual([
    ["creating", pid],
    ["creating", pid],
    ["creating", 1],
    ["running", pid],
    ["stopped", undefined],
  ]);
  expect(new Set(states.map((state) => state.id))).toEqual(new Set([id]));
  const refused = await failure(node.create(podId, pod, config(["test.caisson/hook=bad"])));
  expect(refused.details).toMatch(/error running createContainer hook #0: no/);
});

it("refuses mounts over /proc, as for any mount", async () => {
  write("static/proc.json", "test.caisson/proc", { x: { mounts: [{ hostPath: area, containerPath: "/proc/sys" }] } });
  const refused = await failure(node.create(podId, pod, config(["test.caisson/proc=x"])));
  expect(refused.details).toMatch(/cannot be mounted because it is inside \/proc/);
});

it("binds the node's own device in a pod with a user namespace", async () => {
  const mapping = { host_id: 300_000, container_id: 0, length: 65_536 };
  const userns = { mode: "POD", uids: [mapping], gids: [mapping] };
  const options = { network: "NODE", pid: "CONTAINER", ipc: "POD", userns_options: userns };
  write("static/null.json", "test.caisson/null", {
    x: { deviceNodes: [{ path: "/dev/my-null", hostPath: "/dev/null" }], additionalGids: [44] },
    far: { additionalGids: [70_000] },
  });
  const mapped = node.podConfig("cdi-mapped", { linux: { security_context: { namespace_options: options } } });
  const mappedId = await node.runPod(mapped);
  const security = { linux: { security_context: { namespace_options: { pid: "CONTAINER", userns_options: userns } } } };
  const id = await node.run(mappedId, mapped, config(["test.caisson/null=x"], security));
  expect(await sh(id, "echo x > /dev/my-null && stat -c %t:%T /dev/my-null; id -G")).toBe("1:3\n0 44");
  const refused = await failure(node.create(mappedId, mapped, config(["test.caisson/null=far"], security)));
  expect(refused.details).toContain("group 70000 is not mapped");
  await node.removePod(mappedId);
});

it("gives interfaces of the node to the pod, once, and refuses what this node or pod cannot have", async () => {
  const [device, peer] = ["caisson-cd0", "caisson-cd1"];
  write("static/net.json", "test.caisson/net", {
    x: { netDevices: [{ hostInterfaceName: device, name: "data0" }] },
    rdt: { intelRdt: { closID: "gold", schemata: ["L3:0=f"] } },
  });
  const onNode = await failure(node.create(podId, pod, config(["test.caisson/net=x"])));
  expect(onNode.details).toContain("network namespace of the container's own");
  const resctrl = await failure(node.create(podId, pod, config(["test.caisson/net=rdt"])));
  expect(resctrl.details).toContain("resctrl is not mounted");
  node.enableNetwork("caissoncdi0", "10.212.77.0/24");
  await node.networkReady();
  const networked = node.podConfig("cdi-net", { linux: { security_context: { namespace_options: network.pod } } });
  const id = await node.runPod(networked);
  execFileSync("ip", ["link", "add", device, "type", "veth", "peer", "name", peer]);
  execFileSync("ip", ["addr", "add", "192.0.2.9/24", "dev", device]);
  const container = await node.run(id, networked, config(["test.caisson/net=x"]));
  expect(await sh(container, "ip -4 addr show dev data0")).toMatch(/<[^>]*UP\b[^>]*>[\s\S]*192\.0\.2\.9/);
  await node.client.runtime("StopContainer", { container_id: container, timeout: 0 });
  // The pod has it already: a container that takes the first one's place finds it there.
  const next = await node.run(id, networked, config(["test.caisson/net=x"]));
  expect(await sh(next, "ip -4 addr show dev data0")).toContain("192.0.2.9");
  await node.removePod(id);
});

it("takes no devices from annotations unless the administrator says so", async () => {
  const asked = { ...config([]), annotations: { "cdi.k8s.io/plugin": "test.caisson/disk=a" } };
  const id = await node.run(podId, pod, asked);
  expect(await sh(id, "ls /dev/disk-a")).toMatch(/No such file/);
  await node.removePod(podId);
  await node.daemon.stop();
  const extra = `[cdi]\nspec_dirs = ["${specs}/static"]\nfrom_annotations = true\n`;
  await using trusting = await Daemon.start({ config: extra });
  const { image_ref } = await trusting.client.image("PullImage", { image: { image: node.image } });
  const { pod_sandbox_id } = await trusting.client.runtime("RunPodSandbox", { config: pod });
  const { container_id } = await trusting.client.runtime("CreateContainer", {
    pod_sandbox_id,
    config: { ...asked, image: { image: image_ref } },
    sandbox_config: pod,
  });
  const { info } = await trusting.client.runtime("ContainerStatus", { container_id, verbose: true });
  expect(JSON.parse(info.info).runtimeSpec.linux.devices).toMatchObject([{ path: "/dev/disk-a" }]);
});
