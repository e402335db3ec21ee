/** Volumes: read-only, symlinked and missing sources, propagation both ways, and a parked container that pins nothing. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
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
/** Only in tests: mount(8) as the node's administrator would use it. */
const mount = (...args: string[]): void => void execFileSync("mount", args);
const umount = (...args: string[]): void => void execFileSync("umount", args);

beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
  area = join(node.daemon.base, "area");
  mkdirSync(area);
  // A shared mount of its own: what propagates is then ours to see and to undo.
  mount("-t", "tmpfs", "-o", "size=4m", "caisson-test", area);
  mount("--make-shared", area);
  pod = node.podConfig("volumes", { linux: { security_context: { privileged: true } } });
  podId = await node.runPod(pod);
});
afterAll(async () => {
  await node.removePod(podId);
  umount("-R", area);
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

let count = 0;
const config = (mounts: readonly Message[], privileged = false, more: Message = {}): Message => ({
  ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], { linux: { security_context: { privileged } } }),
  mounts,
  ...more,
});
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};

it("binds files and directories, read-only where asked, and follows symlinked sources", async () => {
  const directory = join(area, "dir");
  mkdirSync(directory);
  writeFileSync(join(directory, "file"), "content");
  symlinkSync(directory, join(area, "link"));
  const id = await node.run(
    podId,
    pod,
    config([
      { container_path: "/ro", host_path: directory, readonly: true },
      { container_path: "/rw", host_path: join(area, "link") },
      { container_path: "/etc/one", host_path: join(directory, "file") },
      { container_path: "/deep/er/still", host_path: directory },
    ]),
  );
  expect(await sh(id, "cat /ro/file /rw/file /etc/one /deep/er/still/file")).toBe("content".repeat(4));
  expect(await sh(id, "touch /ro/x")).toContain("Read-only");
  await sh(id, "touch /rw/made");
  expect(existsSync(join(directory, "made"))).toBe(true);
});

it("makes a missing source as a directory", async () => {
  const missing = join(area, "not/yet/there");
  const id = await node.run(podId, pod, config([{ container_path: "/m", host_path: missing }]));
  expect(statSync(missing).mode & 0o7777).toBe(0o755);
  expect(await sh(id, "ls -d /m")).toBe("/m");
});

it("keeps targets inside the root, whatever links the image has (CVE-2021-30465, CVE-2015-1335)", async () => {
  const image = await node.addImage("test/links", {
    layers: [
      {
        content: [
          { name: "out", type: "2", link: "../../../../tmp" },
          { name: "abs", type: "2", link: "/etc" },
          { name: "loop", type: "2", link: "loop" },
        ],
      },
    ],
  });
  const source = join(area, "src");
  mkdirSync(source);
  const base = config(
    [
      { container_path: "/out/landed", host_path: source },
      { container_path: "/abs/landed", host_path: source },
    ],
    false,
    { image: { image } },
  );
  const id = await node.run(podId, pod, base);
  expect(existsSync("/tmp/landed")).toBe(false);
  expect(await sh(id, "ls -d /tmp/landed /etc/landed")).toBe("/etc/landed\n/tmp/landed");
  const looping = config([{ container_path: "/loop/x", host_path: source }], false, { image: { image } });
  const refused = await failure(node.create(podId, pod, looping));
  expect(refused.details).toMatch(/loop/);
});

it("refuses a proc or sys that the image made a link (CVE-2019-19921, CVE-2023-28642)", async () => {
  for (const name of ["proc", "sys"]) {
    const image = await node.addImage(`test/link-${name}`, { layers: [{ content: [{ name, type: "2", link: "/tmp" }] }] });
    const refused = await failure(node.create(podId, pod, config([], false, { image: { image } })));
    expect(refused.details).toMatch(new RegExp(`/${name}.*ordinary directory`));
    expect(refused.code).toBe(grpcStatus.INVALID_ARGUMENT);
  }
});

it("follows a dev that the image made a link inside the root only (CVE-2026-41579, CVE-2026-47766)", async () => {
  const link = `../../..${area}/decoy`;
  mkdirSync(join(area, "decoy"));
  const image = await node.addImage("test/link-dev", { layers: [{ content: [{ name: "dev", type: "2", link }] }] });
  await failure(node.create(podId, pod, config([], false, { image: { image } }))).catch(() => undefined);
  expect(readdirSync(join(area, "decoy"))).toEqual([]);
});

it.each([
  ["PROPAGATION_PRIVATE", false, false],
  ["PROPAGATION_HOST_TO_CONTAINER", true, false],
  ["PROPAGATION_BIDIRECTIONAL", true, true],
] as const)(
  "%s: the node's later mount is seen %s, the container's on the node %s",
  async (propagation, intoContainer, intoNode) => {
    const directory = join(area, propagation);
    mkdirSync(join(directory, "from-node"), { recursive: true });
    mkdirSync(join(directory, "from-container"));
    const privileged = propagation === "PROPAGATION_BIDIRECTIONAL";
    const id = await node.run(podId, pod, config([{ container_path: "/v", host_path: directory, propagation }], true));
    mount("-t", "tmpfs", "caisson-test-late", join(directory, "from-node"));
    writeFileSync(join(directory, "from-node", "late"), "");
    expect(await sh(id, "ls /v/from-node")).toBe(intoContainer ? "late" : "");
    await sh(id, "mount -t tmpfs caisson-test-inner /v/from-container && touch /v/from-container/inner");
    expect(existsSync(join(directory, "from-container", "inner"))).toBe(intoNode);
    expect(privileged).toBe(intoNode);
    if (intoNode) umount(join(directory, "from-container"));
    umount(join(directory, "from-node"));
    await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
  },
);

it("refuses propagation that the source cannot give", async () => {
  const directory = join(area, "lonely");
  mkdirSync(directory);
  mount("-t", "tmpfs", "caisson-test-private", directory);
  mount("--make-private", directory);
  for (const propagation of ["PROPAGATION_HOST_TO_CONTAINER", "PROPAGATION_BIDIRECTIONAL"]) {
    const refused = await failure(
      node.create(podId, pod, config([{ container_path: "/v", host_path: directory, propagation }], true)),
    );
    expect(refused.code).toBe(grpcStatus.FAILED_PRECONDITION);
    expect(refused.details).toContain(directory);
  }
  umount(directory);
});

it("lets the node unmount a volume while a container is parked", async () => {
  for (const propagation of ["PROPAGATION_PRIVATE", "PROPAGATION_HOST_TO_CONTAINER"]) {
    const directory = join(area, `parked-${propagation}`);
    mkdirSync(directory);
    mount("-t", "tmpfs", "caisson-test-volume", directory);
    mount("--make-shared", directory);
    const id = await node.create(podId, pod, config([{ container_path: "/v", host_path: directory, propagation }]));
    umount(directory);
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain("caisson-test-volume");
    await node.start(id);
    await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
  }
});

it("gives a pod one /dev/shm that survives its containers", async () => {
  const one = await node.run(podId, pod, config([]));
  await sh(one, "echo kept > /dev/shm/x");
  await node.client.runtime("StopContainer", { container_id: one, timeout: 0 });
  await node.client.runtime("RemoveContainer", { container_id: one });
  const two = await node.run(podId, pod, config([]));
  expect(await sh(two, "cat /dev/shm/x; df /dev/shm | tail -1 | awk '{print $2}'")).toBe("kept\n65536");
});

it("writes hostname, hosts and resolv.conf as the pod asks", async () => {
  const dns = { servers: ["10.0.0.10"], searches: ["default.svc", "svc"], options: ["ndots:5"] };
  const other = node.podConfig("names", { dns_config: dns });
  const otherId = await node.runPod(other);
  const id = await node.run(otherId, other, config([]));
  expect(await sh(id, "cat /etc/resolv.conf")).toBe("search default.svc svc\nnameserver 10.0.0.10\noptions ndots:5");
  expect((await sh(id, "cat /etc/hosts")).includes("localhost")).toBe(true);
  await node.removePod(otherId);
});
