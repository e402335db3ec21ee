/** A pod with a user namespace: its root is nobody on the node, and everything in it works as if it were root. */
import { chownSync, mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
let pod: Message;
let podId: string;
let id: string;
let volume: string;
const mapping = { host_id: 200_000, container_id: 0, length: 65_536 };
const userns = { mode: "POD", uids: [mapping], gids: [mapping] };
const options = { network: "POD", pid: "CONTAINER", ipc: "POD", userns_options: userns };

beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
  node.enableNetwork("caissonu0", "10.211.6.0/24");
  for (let tries = 0; tries < 200; tries++) {
    const { status } = await node.client.runtime("Status", {});
    if (status.conditions.find((condition: Message) => condition.type === "NetworkReady").status) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  volume = join(node.daemon.base, "volume");
  mkdirSync(volume);
  writeFileSync(join(volume, "file"), "from the node");
  chownSync(join(volume, "file"), 1234, 1234);
  pod = node.podConfig("mapped", { linux: { security_context: { namespace_options: options } } });
  podId = await node.runPod(pod);
  const config = {
    ...node.containerConfig("main", ["/bin/sleep", "1000"], {
      linux: {
        security_context: {
          namespace_options: { pid: "CONTAINER", userns_options: userns },
          capabilities: { add_capabilities: ["NET_ADMIN"] },
        },
      },
    }),
    mounts: [
      { container_path: "/mapped", host_path: volume, uidMappings: [mapping], gidMappings: [mapping] },
      { container_path: "/plain", host_path: volume },
    ],
  };
  id = await node.run(podId, pod, config);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});
const sh = async (script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};

it("maps the container's root to an ordinary user of the node", async () => {
  const { pid } = await node.info(id);
  expect(readFileSync(`/proc/${pid}/uid_map`, "utf8").trim().split(/\s+/)).toEqual(["0", "200000", "65536"]);
  expect(statSync(`/proc/${pid}`).uid).toBe(200_000);
  expect(await sh("id -u; id -g")).toBe("0\n0");
  expect(readlinkSync(`/proc/${pid}/ns/user`)).not.toBe(readlinkSync("/proc/self/ns/user"));
});

it("owns its network namespace: ip link works", async () => {
  expect(await sh("ip link set lo down && ip link set lo up && echo done")).toBe("done");
  expect(await sh("ip -o addr show eth0")).toContain("10.211.6.");
});

it("has a proc, a sysfs, a writable root and devices of its own", async () => {
  expect(await sh("cat /proc/1/comm; test -d /sys/class/net/eth0 && echo sys")).toBe("sleep\nsys");
  expect(await sh("echo x > /new && stat -c %u:%g /new; stat -c %u /bin/busybox; stat -c %u /etc")).toBe("0:0\n0\n0");
  expect(await sh("echo x > /dev/null && head -c 3 /dev/zero | wc -c; stat -c %t:%T /dev/null")).toBe("3\n1:3");
  expect(await sh("touch /dev/shm/x && ls /dev/shm && ls -d /dev/pts")).toBe("x\n/dev/pts");
});

it("sees the owner of a volume through its mapping where that was asked for, and as nobody where not", async () => {
  expect(await sh("stat -c %u /mapped/file")).toBe("1234");
  expect(await sh("stat -c %u /plain/file")).toBe("65534");
  await sh("touch /mapped/made");
  expect(statSync(join(volume, "made")).uid).toBe(0);
});

it("refuses mappings that differ from the pod's, and modes that are none", async () => {
  const other = { ...userns, uids: [{ ...mapping, host_id: 300_000 }] };
  const config = (value: Message): Message =>
    node.containerConfig("differs", ["/bin/true"], {
      linux: { security_context: { namespace_options: { pid: "CONTAINER", userns_options: value } } },
    });
  for (const value of [other, { mode: "CONTAINER" }, { mode: "NODE", uids: [mapping] }]) {
    expect(await failure(node.create(podId, pod, config(value)))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
  }
});
