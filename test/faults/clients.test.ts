/** Clients that go away and come back, clients that want the same name at once, processes killed behind the daemon's back. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CriClient, failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
beforeAll(async () => {
  node = await CriNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

const steady = ["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"];
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe("a client that disconnects in the middle of a call", () => {
  it.each([
    ["pod.start-shim", "RunPodSandbox"],
    ["container.shim-create", "CreateContainer"],
  ])("at %s finds the result of %s when it comes back", async (step, method) => {
    const before = takeInventory();
    const name = `away-${method.toLowerCase()}`;
    node.daemon.arm(`pause=700:before:${step}`);
    const pod = node.podConfig(name);
    const away = new CriClient(`unix://${node.daemon.socket}`);
    let podId = "";
    let request: Message = { config: pod };
    if (method === "CreateContainer") {
      podId = await node.runPod(pod);
      request = { pod_sandbox_id: podId, config: node.containerConfig("main", steady), sandbox_config: pod };
    }
    const lost = failure(away.runtime(method, request, 200));
    expect((await lost).code).toBe(grpcStatus.DEADLINE_EXCEEDED);
    away.close();
    const reply = await node.client.runtime(method, request);
    node.daemon.arm("");
    const again = await node.client.runtime(method, request);
    expect(again).toEqual(reply);
    podId ||= reply.pod_sandbox_id;
    expect((await node.client.runtime("ListPodSandbox", {})).items).toHaveLength(1);
    await node.removePod(podId);
    await expectNoLeaks(before);
  });

  it("during ExecSync takes the command with it", async () => {
    const pod = node.podConfig("exec-away");
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", steady));
    const cancel = new AbortController();
    const request = { container_id: id, cmd: ["/bin/sh", "-c", "sleep 333 & sleep 334"], timeout: 0 };
    const call = failure(node.client.runtime("ExecSync", request, 30_000, cancel.signal));
    for (let tries = 0; tries < 100; tries++) {
      if ((await node.exec(id, ["/bin/ps", "-o", "args"])).stdout.includes("sleep 334")) break;
      await sleep(20);
    }
    cancel.abort();
    expect((await call).code).toBe(grpcStatus.CANCELLED);
    let left = "";
    for (let tries = 0; tries < 100; tries++) {
      left = (await node.exec(id, ["/bin/ps", "-o", "args"])).stdout;
      if (!left.includes("sleep 33")) break;
      await sleep(20);
    }
    expect(left).not.toContain("sleep 33");
    await node.removePod(podId);
  });
});

describe("two clients at once", () => {
  it("with the same pod get the same one", async () => {
    const pod = node.podConfig("twins");
    const ids = await Promise.all(Array.from({ length: 5 }, () => node.runPod(pod)));
    expect(new Set(ids).size).toBe(1);
    await node.removePod(ids[0] ?? "");
  });

  it("with one name for unequal pods: one wins, the other is told", async () => {
    const pod = node.podConfig("rivals");
    const results = await Promise.allSettled([node.runPod(pod), node.runPod({ ...pod, hostname: "other" })]);
    const [won] = results.filter((result) => result.status === "fulfilled");
    const [told] = results.filter((result) => result.status === "rejected");
    expect(told?.reason).toMatchObject({ code: grpcStatus.ALREADY_EXISTS });
    await node.removePod(won?.value ?? "");
  });

  it("with the same container get the same one, and both may start and stop it", async () => {
    const pod = node.podConfig("pairs");
    const podId = await node.runPod(pod);
    const config = node.containerConfig("main", steady);
    const [one, two] = await Promise.all([node.create(podId, pod, config), node.create(podId, pod, config)]);
    expect(one).toBe(two);
    const starts = await Promise.allSettled([node.start(one), node.start(one)]);
    expect(starts.filter((result) => result.status === "fulfilled").length).toBeGreaterThanOrEqual(1);
    const stop = { container_id: one, timeout: 10 };
    await Promise.all([node.client.runtime("StopContainer", stop), node.client.runtime("StopContainer", stop)]);
    expect(await node.status(one)).toMatchObject({ exit_code: 7 });
    await Promise.all([node.removePod(podId), node.removePod(podId)]);
  });
});

describe("from outside", () => {
  it("a killed process is an exit like any other", async () => {
    const pod = node.podConfig("killed");
    const podId = await node.runPod(pod);
    const ids = await Promise.all(["a", "b"].map((name) => node.run(podId, pod, node.containerConfig(name, steady))));
    for (const id of ids) process.kill((await node.info(id)).pid, "SIGKILL");
    for (const id of ids) expect(await node.exited(id)).toMatchObject({ exit_code: 137, reason: "Error" });
    await node.removePod(podId);
  });

  it("a registry that stalls delays its own pull only, and the caller's deadline ends it", async () => {
    const before = takeInventory({ directories: [`${node.daemon.root}/layers`] });
    const server: Server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const pull = failure(node.client.image("PullImage", { image: { image: `127.0.0.1:${port}/stalls:1` } }, 1500));
    const pod = node.podConfig("meanwhile");
    const podId = await node.runPod(pod);
    await node.run(podId, pod, node.containerConfig("main", steady));
    await node.removePod(podId);
    expect((await pull).code).toBe(grpcStatus.DEADLINE_EXCEEDED);
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await expectNoLeaks(before, { directories: [`${node.daemon.root}/layers`] });
  });
});

it("many pods, containers and execs leave the daemon with the descriptors it had", async () => {
  const once = async (name: string): Promise<void> => {
    const pod = node.podConfig(name);
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", steady));
    await Promise.all(Array.from({ length: 5 }, () => node.exec(id, ["/bin/echo", "x"])));
    await failure(node.exec(id, ["/no/such"]));
    await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
    await node.removePod(podId);
  };
  const round = async (name: string): Promise<void> => {
    for (let i = 0; i < 2; i++) await Promise.all(Array.from({ length: 5 }, (_, n) => once(`${name}-${i}-${n}`)));
  };
  // What is opened once and kept (the store's worker) is there after the first round.
  await round("warm");
  const options = { pids: [node.daemon.pid] };
  const before = takeInventory(options);
  await round("many");
  await expectNoLeaks(before, options);
});
