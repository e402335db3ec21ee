/** What containers of a pod share, across CheckpointPod and RestorePod. Real processes go on working. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";

let node: CriNode;
let place: string;
beforeAll(async () => {
  node = await CriNode.start({ config: "[checkpoint]\nrestore = true\n" });
  node.enableNetwork("caissonckp", "10.199.78.0/24");
  await node.networkReady();
  place = mkdtempSync(join(tmpdir(), "caisson-checkpoint-pods-"));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

const podNetwork = { linux: { security_context: { namespace_options: network.pod } } };
const count = async (id: string): Promise<number> => Number((await node.exec(id, ["cat", "/tmp/count"])).stdout);
async function rises(id: string): Promise<void> {
  const then = await count(id);
  await expect.poll(() => count(id), { timeout: 20_000, interval: 10 }).toBeGreaterThan(then);
}
const ipOf = async (pod: string): Promise<string> =>
  (await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: pod })).status.network.ip;

interface Saved {
  readonly output: string;
  readonly ip: string;
  readonly configs: readonly Message[];
}

/** Runs these, in order, waits until `ready`, saves, and removes the pod. */
async function save(
  name: string,
  configs: readonly Message[],
  ready: (ids: readonly string[]) => Promise<void>,
  more: Message = podNetwork,
): Promise<Saved> {
  const config = node.podConfig(name, more);
  const pod = await node.runPod(config);
  const ids: string[] = [];
  for (const one of configs) ids.push(await node.run(pod, config, one));
  await ready(ids);
  const output = join(place, name);
  mkdirSync(output);
  const ip = await ipOf(pod);
  await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
  await ready(ids);
  await node.removePod(pod);
  return { output, ip, configs };
}

async function restore(
  name: string,
  { output, configs }: Saved,
  more: Message = podNetwork,
): Promise<{ pod: string; ids: string[] }> {
  const reply = await node.client.runtime("RestorePod", {
    checkpoint_path: output,
    config: node.podConfig(name, more),
    container_configs: configs,
  });
  return { pod: reply.pod_sandbox_id, ids: reply.restored_containers.map((one: Message) => one.container_id) };
}

describe("TCP connections between containers of a pod", () => {
  const started = (names: readonly string[], commands: readonly string[]) =>
    names.map((name, index) => node.containerConfig(name, ["sh", "-c", commands[index] ?? ""]));

  it("go on with what is under way in them, over the loopback device", async () => {
    const checking = '{ if ($1 != NR) exit 3; if (NR % 2000 == 0) { print NR > "/tmp/count"; close("/tmp/count") } }';
    const [reader, writer] = [`exec nc -l -p 9000 -e awk '${checking}'`, "sleep 0.1; exec nc 127.0.0.1 9000 -e seq 1 1000000000"];
    const saved = await save(
      "tcp-loopback",
      started(["reader", "writer"], [reader, writer]),
      async ([id = ""]) => await rises(id),
    );
    const { pod, ids } = await restore("tcp-loopback-2", saved);
    for (const id of ids) await node.start(id);
    const [id = ""] = ids;
    const then = await count(id);
    // More than fits into both queues.
    await expect.poll(() => count(id), { timeout: 30_000, interval: 20 }).toBeGreaterThan(then + 60_000);
    await node.removePod(pod);
  });

  it("go on over the pod's own address, which is another one then; others are closed", async () => {
    const own = "$(ip -4 -o addr show eth0 | awk '{split($4, a, \"/\"); print a[1]}')";
    const answering = "while read n; do echo $n > /tmp/count; echo $((n+1)); done";
    const server = `exec nc -l -p 9000 -e sh -c '${answering}'`;
    const outside = "nc 10.199.78.1 9999 > /tmp/outside; echo closed > /tmp/outside";
    const client = `(${outside}) & sleep 0.1; exec nc ${own} 9000 -e sh -c 'echo 1; ${answering.replace("echo $((", "sleep 0.01; echo $((")}; sleep 1000'`;
    const world = createServer({ allowHalfOpen: true }, (socket) => socket.on("error", () => {}).write("hello\n"));
    await new Promise<void>((resolve) => world.listen(9999, "10.199.78.1", resolve));
    const heard = async (id = "") => (await node.exec(id, ["cat", "/tmp/outside"])).stdout;
    const saved = await save("tcp-own", started(["server", "client"], [server, client]), async (ids) => {
      for (const id of ids) await rises(id);
      await expect.poll(() => heard(ids[1])).toBe("hello\n");
    });
    const { pod, ids } = await restore("tcp-own-2", saved);
    expect(await ipOf(pod)).not.toBe(saved.ip);
    for (const id of ids) await node.start(id);
    for (const id of ids) await rises(id);
    await expect.poll(() => heard(ids[1])).toBe("closed\n");
    await node.removePod(pod);
    world.close();
  });
});
