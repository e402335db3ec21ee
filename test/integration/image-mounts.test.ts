/** Images as volumes, and what mounts may be restricted by. */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Container, Process } from "../../src/core/library/public.ts";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
let pod: Message;
let podId: string;
let area: string;
let tools: string;
const mount = (...args: string[]): void => void execFileSync("mount", args);

beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
  area = join(node.daemon.base, "area");
  mkdirSync(area);
  tools = await addTools("test/tools", "v1");
  pod = node.podConfig("images");
  podId = await node.runPod(pod);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

/** Two layers on busybox: the upper one hides and replaces. */
async function addTools(name: string, version: string): Promise<string> {
  return await node.addImage(name, {
    layers: [
      {
        content: [
          { name: "data/", type: "5", mode: 0o755 },
          { name: "data/version", content: "old" },
          { name: "data/hidden", content: "hidden" },
          { name: "data/owned", content: "owned", uid: 1000, gid: 1000, mode: 0o600 },
          { name: "data/run", content: "#!/bin/sh\necho ran\n", mode: 0o755 },
          { name: "data/setuid", content: "", mode: 0o4755 },
          { name: "data/inside", type: "2", link: "/data/version" },
          { name: "data/outside", type: "2", link: "../../../../../../etc/hostname" },
          { name: "data/loop", type: "2", link: "loop" },
          { name: "data/fifo", type: "6" },
        ],
      },
      {
        content: [
          { name: "data/version", content: version },
          { name: "data/.wh.hidden", content: "" },
        ],
      },
    ],
  });
}

let count = 0;
const config = (mounts: readonly Message[], more: Message = {}): Message => ({
  ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], more),
  mounts,
});
const imageAt = (container_path: string, more: Message = {}): Message => ({
  container_path,
  readonly: true,
  image: { image: tools },
  ...more,
});
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};
const optionsOf = async (id: string, path: string): Promise<string[]> =>
  (await sh(id, `grep ' ${path} ' /proc/self/mounts`)).split(" ")[3]?.split(",") ?? [];
const layers = (): number => readdirSync(join(node.daemon.root, "layers")).filter((name) => !name.startsWith(".")).length;

it("mounts all layers of an image, read-only and without setuid files and devices", async () => {
  const id = await node.run(podId, pod, config([imageAt("/tools/here")]));
  expect(await sh(id, "cat /tools/here/data/version; ls /tools/here/data/hidden")).toMatch(/^v1.*No such file/s);
  expect(await sh(id, "/tools/here/data/run")).toBe("ran");
  expect(await sh(id, "touch /tools/here/x")).toMatch(/Read-only/);
  expect(await optionsOf(id, "/tools/here")).toEqual(expect.arrayContaining(["ro", "nosuid", "nodev"]));
  expect(await optionsOf(id, "/tools/here")).not.toContain("noexec");
  const { mounts } = await node.status(id);
  expect(mounts).toMatchObject([{ container_path: "/tools/here", readonly: true, image: { image: tools, image_ref: tools } }]);
});

it("mounts an image by its name, and one of a single layer", async () => {
  const id = await node.run(podId, pod, config([imageAt("/one", { image: { image: node.image } })]));
  expect(await sh(id, "/one/bin/busybox echo works; touch /one/x")).toMatch(/^works\n.*Read-only/);
});

it("mounts a directory or a file of an image, and follows links inside it only", async () => {
  writeFileSync(join(area, "hostname"), "of the node");
  const id = await node.run(
    podId,
    pod,
    config([
      imageAt("/dir", { image_sub_path: "data" }),
      imageAt("/file", { image_sub_path: "data/version" }),
      imageAt("/link", { image_sub_path: "data/inside" }),
    ]),
  );
  expect(await sh(id, "cat /dir/version /file /link")).toBe("v1v1v1");
  expect(await sh(id, "echo x > /file")).toMatch(/Read-only/);
  expect(await optionsOf(id, "/file")).toEqual(expect.arrayContaining(["ro", "nosuid", "nodev"]));
  expect((await node.status(id)).mounts[0]).toMatchObject({ image_sub_path: "data" });
});

it.each([
  ["data/missing", /^ImageVolumeMountFailed: .*"data\/missing" does not exist in the image/],
  ["data/version/x", /^ImageVolumeMountFailed: .* does not exist in the image/],
  // The node has that file, the image has not.
  ["data/outside", /^ImageVolumeMountFailed: .* does not exist in the image/],
  ["data/loop", /^ImageVolumeMountFailed: .* cannot be resolved/],
  ["data/fifo", /^ImageVolumeMountFailed: .* neither a file nor a directory/],
  ["../etc", /^ImageVolumeMountFailed: .* must not contain "\.\."/],
  ["/data", /^ImageVolumeMountFailed: .* must be relative/],
])("refuses the path %s of an image and leaves nothing of the container", async (image_sub_path, message) => {
  const asked = config([imageAt("/t", { image_sub_path })]);
  const refused = await failure(node.create(podId, pod, asked));
  expect(refused.details).toMatch(message);
  expect(refused.code).toBe(grpcStatus.INVALID_ARGUMENT);
  const { containers } = await node.client.runtime("ListContainers", {});
  expect(containers.some((container: Message) => container.metadata.name === asked.metadata.name)).toBe(false);
});

it("refuses image mounts that are writable, have a host path, or are not on the node", async () => {
  for (const [more, code, message] of [
    [{ readonly: false }, grpcStatus.INVALID_ARGUMENT, /^ImageVolumeMountFailed: .* must be readonly/],
    [{ host_path: area }, grpcStatus.INVALID_ARGUMENT, /^ImageVolumeMountFailed: .* both a host_path and an image/],
    [{ image: { image: "registry.test/never:1" } }, grpcStatus.NOT_FOUND, /^ImageVolumeMountFailed: .* is not on this node/],
  ] as const) {
    const refused = await failure(node.create(podId, pod, config([imageAt("/t", more)])));
    expect(refused).toEqual({ code, details: expect.stringMatching(message) });
  }
});

it("shows the image's owners in a pod with a user namespace", async () => {
  const mapping = { host_id: 300_000, container_id: 0, length: 65_536 };
  const userns = { mode: "POD", uids: [mapping], gids: [mapping] };
  const options = { network: "NODE", pid: "CONTAINER", ipc: "POD", userns_options: userns };
  const mapped = node.podConfig("mapped", { linux: { security_context: { namespace_options: options } } });
  const mappedId = await node.runPod(mapped);
  const security = { linux: { security_context: { namespace_options: { pid: "CONTAINER", userns_options: userns } } } };
  const mounts = [
    imageAt("/tools", { uidMappings: [mapping], gidMappings: [mapping] }),
    imageAt("/part", { image_sub_path: "data" }),
    imageAt("/one", { image: { image: node.imageId } }),
  ];
  const id = await node.run(mappedId, mapped, config(mounts, security));
  expect(await sh(id, "stat -c %u:%g /tools/data /tools/data/owned /part /part/owned /one/bin/busybox /one")).toBe(
    ["0:0", "1000:1000", "0:0", "1000:1000", "0:0", "0:0"].join("\n"),
  );
  expect(await sh(id, "cat /part/version; touch /part/x; mount -o remount,bind,rw /part")).toMatch(/^v1.*Read-only/s);
  await node.removePod(mappedId);
});

it("keeps the layers for as long as a container shows them, also across a restart of the daemon", async () => {
  const had = layers();
  const image = await addTools("test/short-lived", "v2");
  expect(layers()).toBe(had + 1);
  const id = await node.run(podId, pod, config([imageAt("/t", { image: { image } })]));
  const parked = await node.create(podId, pod, config([imageAt("/t", { image: { image }, image_sub_path: "data" })]));
  await node.client.image("RemoveImage", { image: { image } });
  expect((await node.client.image("ImageStatus", { image: { image } })).image).toBe(null);
  await node.daemon.kill();
  await node.daemon.launch();
  expect(await sh(id, "cat /t/data/version")).toBe("v2");
  await node.start(parked);
  expect(await sh(parked, "cat /t/version")).toBe("v2");
  await node.client.runtime("RemoveContainer", { container_id: id });
  expect(layers()).toBe(had + 1);
  expect(await sh(parked, "cat /t/version")).toBe("v2");
  await node.client.runtime("RemoveContainer", { container_id: parked });
  for (let tries = 0; layers() > had && tries < 100; tries++) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(layers()).toBe(had);
});

it("leaves no mount on the node", async () => {
  await node.run(podId, pod, config([imageAt("/t", { image_sub_path: "data" })]));
  const overlays = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(node.daemon.base) && line.includes(" overlay "));
  expect(overlays).toEqual([]);
});

it("honours noexec, nodev and nosuid, for what is mounted below as well, and says so in Status", async () => {
  expect((await node.client.runtime("Status", {})).features.mount_options).toBe(true);
  const volume = join(area, "volume");
  mkdirSync(join(volume, "below"), { recursive: true });
  mount("-t", "tmpfs", "-o", "size=1m", "caisson-test-below", join(volume, "below"));
  try {
    for (const path of ["run", "below/run"]) writeFileSync(join(volume, path), "#!/bin/sh\necho ran\n", { mode: 0o755 });
    execFileSync("mknod", [join(volume, "below/zero"), "c", "1", "5"]);
    const restricted = { host_path: volume, mount_options: ["noexec", "nodev", "nosuid"] };
    const id = await node.run(
      podId,
      pod,
      config([
        { container_path: "/all", ...restricted },
        { container_path: "/free", host_path: volume },
        imageAt("/image", { image_sub_path: "data", mount_options: ["noexec"] }),
      ]),
    );
    expect(await sh(id, "/free/run; /free/below/run; head -c 1 /free/below/zero | wc -c")).toBe("ran\nran\n1");
    for (const command of ["/all/run", "/all/below/run", "cat /all/below/zero", "/image/run"]) {
      expect(await sh(id, command)).toMatch(/Permission denied/);
    }
    for (const path of ["/all", "/all/below"]) {
      expect(await optionsOf(id, path)).toEqual(expect.arrayContaining(["rw", "noexec", "nodev", "nosuid"]));
    }
    const refused = await failure(
      node.create(podId, pod, config([{ container_path: "/x", host_path: volume, mount_options: ["suid"] }])),
    );
    expect(refused.code).toBe(grpcStatus.INVALID_ARGUMENT);
  } finally {
    execFileSync("umount", ["--lazy", join(volume, "below")]);
  }
});

it("makes a mount read-only down to the last submount only where that was asked for", async () => {
  const { runtime_handlers } = await node.client.runtime("Status", {});
  expect(runtime_handlers.map((handler: Message) => handler.features.recursive_read_only_mounts)).toEqual([true, true]);
  const volume = join(area, "tree");
  mkdirSync(join(volume, "below"), { recursive: true });
  mount("-t", "tmpfs", "-o", "size=1m", "caisson-test-tree", join(volume, "below"));
  try {
    const recursive = { host_path: volume, readonly: true, recursive_read_only: true };
    const id = await node.run(
      podId,
      pod,
      config([
        { container_path: "/top", host_path: volume, readonly: true },
        { container_path: "/whole", ...recursive },
      ]),
    );
    expect(await sh(id, "touch /top/x; touch /top/below/written && ls /top/below")).toMatch(/^written\n.*Read-only/);
    expect(await sh(id, "touch /whole/x; touch /whole/below/x")).toMatch(/Read-only.*\n.*Read-only/);
    expect(existsSync(join(volume, "below/x"))).toBe(false);
    for (const change of [{ readonly: false }, { propagation: "PROPAGATION_HOST_TO_CONTAINER" }]) {
      const asked = config([{ container_path: "/x", ...recursive, ...change }]);
      expect((await failure(node.create(podId, pod, asked))).code).toBe(grpcStatus.INVALID_ARGUMENT);
    }
  } finally {
    execFileSync("umount", ["--lazy", join(volume, "below")]);
  }
});

it("layers of a removed image stay as long as a library's container has them for its root, whether it runs or not #overlay-root #service", async () => {
  const only = { name: "etc/only-here", content: "layered" };
  const image = await node.addImage("test/library-root", { layers: [{ content: [only] }] });
  const layers = globSync(join(node.daemon.root, "layers/*/fs"));
  const layer = layers.find((path) => existsSync(join(path, only.name))) ?? "";
  const base = layers.find((path) => existsSync(join(path, "bin/busybox"))) ?? "";
  const collect = async () => {
    const other = await node.addImage("test/passing", { layers: [{ content: [{ name: "etc/passing", content: "x" }] }] });
    await node.client.image("RemoveImage", { image: { image: other } });
  };
  const container = await Container.create(join(node.daemon.state, "library"), "rooted-in-an-image", {
    rootfs: base,
    overlay: { layers: [layer], upper: join(area, "rooted-upper"), work: join(area, "rooted-work") },
    namespaces: [{ type: "mnt" }, { type: "pid" }],
    cgroups: { path: `${node.cgroupParent}/rooted-in-an-image` },
  });
  await node.client.image("RemoveImage", { image: { image } });
  expect((await node.client.image("ListImages", {})).images.map(({ id }: Message) => id)).not.toContain(image);
  await node.daemon.stop();
  await node.daemon.launch();
  await collect();
  expect(existsSync(join(layer, only.name))).toBe(true);
  const process = new Process({ args: ["/bin/sh", "-c", "cat /etc/only-here; cat"], stdin: "pipe", stdout: "pipe" });
  await container.run(process);
  await collect();
  process.stdin?.end(" and read");
  const { stdout } = process;
  expect(stdout === undefined ? "" : await text(stdout)).toBe("layered and read");
  await process.wait();
  await collect();
  expect(existsSync(layer)).toBe(true);
  await container.destroy();
  await collect();
  expect(existsSync(layer)).toBe(false);
});
