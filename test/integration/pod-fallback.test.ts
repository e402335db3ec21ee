/** The same pods where the helper is told that every newer system call is missing, as on the oldest kernels that are supported. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CoreNode, collectExits, deadline, exec } from "../helpers/core-pod.ts";

const header = readFileSync(join(import.meta.dirname, "../../native/common/kernel.h"), "utf8");
/** Without these there is no way at all: they are older than the oldest supported kernel, and missing ones are refused. */
const needed = new Set(["open_tree", "move_mount", "fsopen", "mount_setattr"]);
const every = [...header.matchAll(/X\(\w+, "(\w+)"\)/g)].map(([, name]) => name ?? "").filter((name) => !needed.has(name));
const ids = [{ containerID: 0, hostID: 300_000, size: 65_536 }];

let node: CoreNode;
beforeAll(async () => {
  node = await CoreNode.start([`CAISSON_DENY_SYSCALLS=${every.join(",")}`]);
});
afterAll(async () => {
  for (const { pod } of node.pods) await pod?.destroy(deadline());
  expect(node.leftovers()).toEqual([]);
  await node[Symbol.asyncDispose]();
});

describe("on an old kernel", () => {
  it("knows what is denied", () => {
    expect(every.length).toBeGreaterThan(8);
  });

  it.each([
    ["a plain pod", {}],
    ["a pod with one PID namespace", { pid: "pod" }],
    ["a pod with a user namespace", { user: { uid: ids, gid: ids } }],
    ["a pod with both", { pid: "pod", user: { uid: ids, gid: ids } }],
  ] as const)("%s starts, runs commands and ends", async (_, changes) => {
    const { pod, spec } = await node.pod(changes);
    const exits = collectExits(pod);
    const made = await node.run(pod, spec, { process: { user: { uid: 0, gid: 0 } } });
    expect((await exec(pod, made, "sh", "-c", "id -u; hostname; echo x > /dev/null; cat /proc/keys | wc -c")).out).toBe(
      "0\ncore-pod\n0\n",
    );
    expect((await exec(pod, made, "ps")).out).toContain("sleep 1000");
    expect((await exec(pod, made, "sh", "-c", "echo 1 > /proc/sys/kernel/domainname")).exitCode).not.toBe(0);
    const tty = await node.output(pod, spec, "tty", { process: { terminal: true } });
    expect(tty.log).toContain("/dev/pts/0");
    const again = collectExits(pod);
    await pod.signal(made.id, 9, "all");
    expect(await Promise.race([exits(made.id), again(made.id)])).toMatchObject({ signal: 9 });
  });

  it.each([
    ["a plain pod", {}],
    ["a pod with a user namespace", { user: { uid: ids, gid: ids } }],
  ] as const)("%s has images as mounts", async (_, changes) => {
    const { pod, spec } = await node.pod(changes);
    const layers = { lowers: [node.layer], spare: join(node.root, `spare-${spec.id}`) };
    await using whole = await pod.openImage(layers, "", deadline());
    await using part = await pod.openImage(layers, "bin", deadline());
    await expect(pod.openImage(layers, "bin/none", deadline())).rejects.toThrow(/"bin\/none" does not exist in the image/);
    const { log } = await node.output(pod, spec, "ls /whole/bin/sh /part/sh; stat -c %u /part; touch /part/x", {
      mounts: ["/whole", "/part"].map((destination) => ({ destination, type: "overlay", options: ["ro"] })),
      spec: {
        trees: [
          { destination: "/whole", fd: whole.fd },
          { destination: "/part", fd: part.fd },
        ],
      },
    });
    expect(log).toMatch(/^\/part\/sh\n\/whole\/bin\/sh\n0\n.*Read-only/s);
  });

  it("shows a target's processes to the container that joins it", async () => {
    const { pod, spec } = await node.pod();
    const target = await node.run(pod, spec, { process: { args: ["sleep", "4321"] } });
    const { log } = await node.output(pod, spec, "ps; cat /proc/keys | wc -c", {
      spec: { pidNamespace: { kind: "target", containerId: target.id } },
    });
    expect(log).toContain("sleep 4321");
    expect(log).toMatch(/^0$/m);
  });
});
