/** One PID namespace for all containers of a pod, and what a hostile sibling in it gains: nothing. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { compileFixture } from "../helpers/compile.ts";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
const shared = { pid: "POD" };
const security = (more: Message = {}): Message => ({ linux: { security_context: { namespace_options: shared, ...more } } });
beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});
const podConfig = (name: string): Message =>
  node.podConfig(name, { linux: { security_context: { namespace_options: { network: "NODE", pid: "POD", ipc: "POD" } } } });

it("shows the containers to each other, with a reaper as process 1", async () => {
  const pod = podConfig("shared");
  const podId = await node.runPod(pod);
  const a = await node.run(podId, pod, node.containerConfig("a", ["/bin/sleep", "1111"], security()));
  const b = await node.run(
    podId,
    pod,
    node.containerConfig("b", ["/bin/sh", "-c", "sleep 2222 & sleep 2223 & sleep 2224"], security()),
  );
  const { stdout } = await node.exec(a, ["/bin/ps", "-o", "pid,args"]);
  for (const expected of ["sleep 1111", "sleep 2222", "sleep 2224"]) expect(stdout).toContain(expected);
  expect(stdout).toMatch(/^\s*1 caisson-reaper/m);
  // Init's end takes the rest of its container with it, and nobody else's.
  await node.client.runtime("StopContainer", { container_id: b, timeout: 0 });
  const rest = (await node.exec(a, ["/bin/ps", "-o", "args"])).stdout;
  expect(rest).toContain("sleep 1111");
  expect(rest).not.toContain("sleep 222");
  await node.removePod(podId);
});

it("reaps orphans (class-zombies)", async () => {
  const pod = podConfig("orphans");
  const podId = await node.runPod(pod);
  const a = await node.run(
    podId,
    pod,
    node.containerConfig("a", ["/bin/sh", "-c", "(sleep 0.1 &) ; exec sleep 1000"], security()),
  );
  for (let i = 0; i < 20; i++) await node.exec(a, ["/bin/sh", "-c", "(sleep 0.05 &)"]);
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect((await node.exec(a, ["/bin/ps", "-o", "stat,args"])).stdout).not.toMatch(/^Z/m);
  await node.removePod(podId);
});

it("gives a sibling with CAP_SYS_PTRACE nothing of a parked init or an exec (CVE-2016-9962)", async () => {
  const pod = podConfig("hostile");
  const podId = await node.runPod(pod);
  const program = compileFixture("sibling");
  const marker = join(node.logs, "only-on-the-host");
  mkdirSync(dirname(marker), { recursive: true });
  writeFileSync(marker, "");
  const attacker = await node.run(podId, pod, {
    ...node.containerConfig("attacker", ["/x/sibling", marker], security({ capabilities: { add_capabilities: ["SYS_PTRACE"] } })),
    mounts: [{ container_path: "/x", host_path: dirname(program), readonly: true }],
  });
  const victim = await node.run(
    podId,
    pod,
    node.containerConfig("victim", ["/bin/sleep", "1000"], security({ no_new_privs: true })),
  );
  for (let i = 0; i < 60; i++) await node.exec(victim, ["/bin/true"]);
  for (let i = 0; i < 10; i++) {
    const id = await node.create(podId, pod, node.containerConfig(`v${i}`, ["/bin/true"], security()));
    await new Promise((resolve) => setTimeout(resolve, 10));
    await node.start(id);
    await node.exited(id);
  }
  const seen = node
    .log("hostile", "attacker")
    .split("\n")
    .filter((line) => line.includes("SEEN"));
  expect(seen.length).toBeGreaterThan(15);
  for (const line of seen) {
    const reaper = / pid=1 /.test(line);
    expect(line, line).toMatch(/ seccomp=2 /);
    expect(line, line).toMatch(reaper ? /capeff=0+ / : /capeff=0*(a80425fb|0) /);
    expect(line, line).toMatch(/host=0$/);
    const descriptors =
      /fds=(\S*)/
        .exec(line)?.[1]
        ?.split(",")
        .filter((part) => part !== "") ?? [];
    expect(descriptors.length, line).toBeLessThanOrEqual(5);
    for (const part of descriptors) expect(part, line).toMatch(/^\d+=(pipe:|socket:|\/dev\/null)/);
  }
  await node.client.runtime("StopContainer", { container_id: attacker, timeout: 0 });
  await node.removePod(podId);
});
