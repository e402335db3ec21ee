/** Devices of the node in containers: single ones, directories of them, all of them when privileged. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
let pod: Message;
let podId: string;
let area: string;
let loop: string;

beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
  area = join(node.daemon.base, "devices");
  mkdirSync(join(area, "sub/deep"), { recursive: true });
  writeFileSync(join(area, "disk"), "on the loop device".padEnd(1 << 20, "."));
  loop = execFileSync("losetup", ["--find", "--show", join(area, "disk")], { encoding: "utf8" }).trim();
  const minor = /\d+$/.exec(loop)?.[0] ?? "";
  execFileSync("mknod", ["-m", "600", join(area, "sub/zero"), "c", "1", "5"]);
  execFileSync("mknod", ["-m", "604", join(area, "sub/deep/disk"), "b", "7", minor]);
  symlinkSync(loop, join(area, "link"));
  writeFileSync(join(area, "sub/file"), "no device");
  pod = node.podConfig("devices", { linux: { security_context: { privileged: true } } });
  podId = await node.runPod(pod);
});
afterAll(async () => {
  await node.removePod(podId);
  execFileSync("losetup", ["--detach", loop]);
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

let count = 0;
const config = (devices: readonly Message[], privileged = false): Message => ({
  ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], { linux: { security_context: { privileged } } }),
  devices,
});
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};
const write = (path: string): string => `echo x | dd of=${path} bs=1 conv=notrunc 2>&1 | head -1`;

it("gives a device through a symlink with exactly its permissions #devices #device-rules", async () => {
  const link = join(area, "link");
  const reader = await node.run(podId, pod, config([{ host_path: link, container_path: "/dev/my/disk", permissions: "r" }]));
  expect(await sh(reader, "head -c 18 /dev/my/disk")).toBe("on the loop device");
  expect(await sh(reader, write("/dev/my/disk"))).toMatch(/Operation not permitted/);
  const writer = await node.run(podId, pod, config([{ host_path: link, container_path: "/dev/my/disk", permissions: "rw" }]));
  expect(await sh(writer, write("/dev/my/disk"))).toMatch(/records in/);
  expect(await sh(reader, "head -c 1 /dev/my/disk")).toBe("x");
});

it("gives all devices below a directory, with the node's modes, and nothing else of it", async () => {
  const id = await node.run(
    podId,
    pod,
    config([{ host_path: join(area, "sub"), container_path: "/dev/all", permissions: "rwm" }]),
  );
  expect(await sh(id, "find /dev/all -type b -o -type c -o -type f | sort")).toBe("/dev/all/deep/disk\n/dev/all/zero");
  expect(await sh(id, "stat -c %a /dev/all/zero /dev/all/deep/disk; head -c 3 /dev/all/zero | wc -c")).toBe("600\n604\n3");
  expect(await sh(id, "head -c 1 /dev/all/deep/disk | wc -c")).toBe("1");
});

it("refuses what is no device, what is missing, and permissions that are none", async () => {
  for (const device of [
    { host_path: join(area, "sub/file"), container_path: "/dev/x" },
    { host_path: join(area, "missing"), container_path: "/dev/x" },
    { host_path: "/dev/null", container_path: "/dev/x", permissions: "rx" },
  ]) {
    expect((await failure(node.create(podId, pod, config([device])))).code).toBe(grpcStatus.INVALID_ARGUMENT);
  }
});

it("gives a privileged container every device of the node, and lets it open them", async () => {
  const id = await node.run(podId, pod, config([], true));
  const isNode = (name: string): boolean => {
    const stats = statSync(join("/dev", name), { throwIfNoEntry: false });
    return stats?.isBlockDevice() === true || stats?.isCharacterDevice() === true;
  };
  const nodes = readdirSync("/dev", { withFileTypes: true })
    .filter((entry) => !entry.isSymbolicLink() && entry.name !== "console" && isNode(entry.name))
    .map((entry) => entry.name);
  const inside = (await sh(id, "ls /dev")).split("\n");
  expect(nodes.filter((name) => name !== "ptmx" && !inside.includes(name))).toEqual([]);
  expect(await sh(id, `head -c 1 ${loop} | wc -c`)).toBe("1");
  // Its terminals are its own.
  expect(await sh(id, "ls /dev/pts")).toBe("ptmx");
  expect(await sh(id, "stat -c %t:%T /dev/ptmx; readlink /dev/ptmx")).toContain("pts/ptmx");
});

it("binds devices in a pod with a user namespace #bound-devices", async () => {
  const mapping = { host_id: 300_000, container_id: 0, length: 65_536 };
  const userns = { mode: "POD", uids: [mapping], gids: [mapping] };
  const options = { network: "NODE", pid: "CONTAINER", ipc: "POD", userns_options: userns };
  const mapped = node.podConfig("mapped", { linux: { security_context: { namespace_options: options } } });
  const mappedId = await node.runPod(mapped);
  const security = { linux: { security_context: { namespace_options: { pid: "CONTAINER", userns_options: userns } } } };
  const asked = {
    ...node.containerConfig("m", ["/bin/sleep", "1000"], security),
    devices: [{ host_path: "/dev/zero", container_path: "/dev/other-zero", permissions: "r" }],
  };
  const id = await node.run(mappedId, mapped, asked);
  expect(await sh(id, "head -c 3 /dev/other-zero | wc -c; stat -c %t:%T /dev/other-zero")).toBe("3\n1:5");
  await node.removePod(mappedId);
});
