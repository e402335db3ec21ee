/** Statistics of containers and pods as a kubelet reads them, over the real daemon. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

const number = (wrapped: Message): number => Number(wrapped.value);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const forever = ["/bin/sleep", "1000"];
const podStats = async (id: string): Promise<Message> =>
  (await node.client.runtime("PodSandboxStats", { pod_sandbox_id: id })).stats;
const containerStats = async (id: string): Promise<Message> =>
  (await node.client.runtime("ContainerStats", { container_id: id })).stats;

describe("ContainerStats", () => {
  it("has CPU with its rate, memory against the limit, swap, pressure and the writable layer #stats-cpu #stats-memory #stats-pressure", async () => {
    const pod = node.podConfig("numbers");
    const podId = await node.runPod(pod);
    const resources = { memory_limit_in_bytes: 64 << 20, cpu_period: 100_000, cpu_quota: 20_000 };
    const script = "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; while :; do :; done";
    const id = await node.run(podId, pod, node.containerConfig("busy", ["/bin/sh", "-c", script], { linux: { resources } }));
    const first = await containerStats(id);
    await sleep(1500);
    const second = await containerStats(id);
    expect(second.attributes).toMatchObject({
      id,
      metadata: { name: "busy" },
      labels: { "io.kubernetes.container.name": "busy" },
    });
    expect(BigInt(second.cpu.timestamp)).toBeGreaterThan(BigInt(first.cpu.timestamp));
    expect(number(second.cpu.usage_core_nano_seconds)).toBeGreaterThan(number(first.cpu.usage_core_nano_seconds));
    // A fifth of a core, measured on a machine that others use as well.
    expect(number(second.cpu.usage_nano_cores)).toBeGreaterThan(20e6);
    expect(number(second.cpu.usage_nano_cores)).toBeLessThan(400e6);
    expect(Number(second.cpu.psi.Some.Total)).toBeGreaterThan(0);
    expect(second.cpu.psi.Some.Avg10).toBeGreaterThanOrEqual(0);
    expect(number(second.memory.working_set_bytes)).toBeGreaterThan(0);
    expect(number(second.memory.working_set_bytes) + number(second.memory.available_bytes)).toBe(64 << 20);
    expect(number(second.memory.usage_bytes)).toBeGreaterThanOrEqual(number(second.memory.working_set_bytes));
    expect(second.memory.psi.Some).toBeDefined();
    expect(second.io.psi.Full).toBeDefined();
    expect(number(second.swap.swap_usage_bytes)).toBe(0);
    // Measured in the background: the first answer may be from before the file.
    for (let tries = 0; ; tries++) {
      const { writable_layer } = await containerStats(id);
      if (writable_layer !== null && number(writable_layer.used_bytes) >= 3 << 20) {
        expect(writable_layer.fs_id.mountpoint).toBe(join(node.daemon.root, "containers"));
        break;
      }
      if (tries > 60) throw new Error("the writable layer was never measured anew");
      await sleep(250);
    }
    await node.removePod(podId);
  });
});

describe("PodSandboxStats", () => {
  it("has the pod's cgroup, its containers and, on the node's network, no interface", async () => {
    const pod = node.podConfig("whole");
    const podId = await node.runPod(pod);
    const empty = await podStats(podId);
    expect(empty.linux).toMatchObject({ network: null, containers: [] });
    const ids = [await node.run(podId, pod, node.containerConfig("a", forever))];
    ids.push(await node.run(podId, pod, node.containerConfig("b", ["/bin/sh", "-c", "sleep 1000 & sleep 1000"])));
    const ended = await node.run(podId, pod, node.containerConfig("ended", ["/bin/true"]));
    await node.exited(ended);
    const { attributes, linux } = await podStats(podId);
    expect(attributes).toMatchObject({ id: podId, metadata: { name: "whole", uid: pod.metadata.uid } });
    expect(linux.containers.map((item: Message) => item.attributes.id).sort()).toEqual(ids.toSorted());
    expect(number(linux.process.process_count)).toBe(3);
    const own = linux.containers.map((item: Message) => number(item.cpu.usage_core_nano_seconds));
    expect(number(linux.cpu.usage_core_nano_seconds)).toBeGreaterThanOrEqual(own[0] + own[1]);
    expect(number(linux.memory.usage_bytes)).toBeGreaterThan(0);
    expect(linux.io.psi.Some).toBeDefined();
    expect(linux.network).toBeNull();
    await node.client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
    expect(await failure(podStats(podId))).toMatchObject({ code: grpcStatus.UNAVAILABLE });
    const { stats } = await node.client.runtime("ListPodSandboxStats", {});
    expect(stats).toEqual([]);
    await node.removePod(podId);
    expect(await failure(podStats(podId))).toMatchObject({ code: grpcStatus.NOT_FOUND });
  });

  it("counts what goes over the pod's interfaces, with and without containers, also after a daemon restart #stats-network", async () => {
    node.enableNetwork("caissonst0", "10.211.57.0/24");
    await node.networkReady();
    const pod = node.podConfig("net", {
      linux: { security_context: { namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } } },
    });
    const podId = await node.runPod(pod);
    const bare = (await podStats(podId)).linux.network;
    expect(bare.interfaces.map((item: Message) => item.name)).toEqual(["eth0"]);
    expect(bare.default_interface).toEqual(bare.interfaces[0]);
    const id = await node.run(podId, pod, node.containerConfig("main", forever));
    const sent = 3 * 1400;
    expect((await node.exec(id, ["/bin/ping", "-c", "3", "-s", "1400", "10.211.57.1"])).exitCode).toBe(0);
    const { network } = (await podStats(podId)).linux;
    const main = network.default_interface;
    expect(number(main.tx_bytes) - number(bare.default_interface.tx_bytes)).toBeGreaterThan(sent);
    expect(number(main.rx_bytes) - number(bare.default_interface.rx_bytes)).toBeGreaterThan(sent);
    expect([number(main.rx_errors), number(main.tx_errors)]).toEqual([0, 0]);
    // The same that a process of the pod sees.
    const { stdout } = await node.exec(id, ["/bin/cat", "/sys/class/net/eth0/statistics/tx_bytes"]);
    expect(Number(stdout)).toBeGreaterThanOrEqual(number(main.tx_bytes));

    await node.daemon.kill("SIGKILL");
    await node.daemon.launch();
    const after = (await podStats(podId)).linux.network.default_interface;
    expect(number(after.tx_bytes)).toBeGreaterThanOrEqual(number(main.tx_bytes));
    await node.removePod(podId);
  });

  it("works in a pod with a user namespace", async () => {
    const mapping = [{ host_id: 200_000, container_id: 0, length: 65_536 }];
    const pod = node.podConfig("userns", {
      linux: {
        security_context: {
          namespace_options: {
            network: "POD",
            pid: "CONTAINER",
            ipc: "POD",
            userns_options: { mode: "POD", uids: mapping, gids: mapping },
          },
        },
      },
    });
    const podId = await node.runPod(pod);
    expect((await podStats(podId)).linux.network.interfaces.map((item: Message) => item.name)).toEqual(["eth0"]);
    await node.removePod(podId);
  });
});

/** What the daemon does meanwhile: paths that it opens, in order, and every program or process that it starts. */
async function traced(work: () => Promise<void>): Promise<{ readonly opened: string[]; readonly started: string[] }> {
  const directory = mkdtempSync(join(tmpdir(), "caisson-trace-"));
  const file = join(directory, "trace");
  const calls = "open,openat,openat2,execve,execveat,fork,vfork,clone,clone3";
  const tracer = spawn("strace", ["-f", "-e", `trace=${calls}`, "-s", "4096", "-o", file, "-p", `${node.daemon.pid}`], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  await once(tracer.stderr, "data");
  await work();
  tracer.kill("SIGINT");
  await once(tracer, "close");
  const lines = readFileSync(file, "utf8").split("\n");
  rmSync(directory, { recursive: true });
  return {
    opened: lines.flatMap((line) => /open(?:at2?)?\([^"]*"([^"]*)"/.exec(line)?.[1] ?? []),
    started: lines.filter((line) => /(execve|fork|clone3?)\(/.test(line) && !line.includes("CLONE_THREAD")),
  };
}

function countOf(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

describe("500 containers", () => {
  const podCount = 10;
  const containersPerPod = 50;
  let pods: readonly string[];
  let ids: readonly string[];
  let reader: ClientReadableStream<Message>;
  const told: Message[] = [];
  /** A client that reads one event and no more. */
  let sleeper: ClientReadableStream<Message>;

  beforeAll(async () => {
    reader = node.client.stream("GetContainerEvents", {});
    reader
      .on("error", () => {})
      .on("data", ({ container_id, container_event_type }) => told.push({ container_id, container_event_type }));
    sleeper = node.client.stream("GetContainerEvents", {});
    sleeper.on("error", () => {}).once("data", () => sleeper.pause());
    await Promise.all([once(reader, "metadata"), once(sleeper, "metadata")]);
    const made = await Promise.all(
      Array.from({ length: podCount }, async (_, index) => {
        const pod = node.podConfig(`crowd-${index}`);
        const podId = await node.runPod(pod);
        const inside: string[] = [];
        for (let n = 0; n < containersPerPod; n++)
          inside.push(await node.run(podId, pod, node.containerConfig(`c${n}`, forever)));
        return { podId, inside };
      }),
    );
    pods = made.map(({ podId }) => podId);
    ids = made.flatMap(({ podId, inside }) => [podId, ...inside]);
  }, 180_000);

  it("have their statistics in one call that opens each file once, starts nothing, and walks through no writable layer", async () => {
    let stats: Message[] = [];
    const call = async (): Promise<void> => {
      ({ stats } = await node.client.runtime("ListContainerStats", {}));
    };
    await call();
    const { opened, started } = await traced(async () => {
      await call();
      await call();
    });
    expect(stats).toHaveLength(podCount * containersPerPod);
    for (const item of stats) expect(number(item.memory.working_set_bytes)).toBeGreaterThan(0);
    expect(started).toEqual([]);
    const cgroupFiles = countOf(opened.filter((path) => path.startsWith("/sys/fs/cgroup/")));
    expect(new Set([...cgroupFiles].map(([path]) => dirname(path).split("/").at(-1))).size).toBe(500);
    expect(Math.max(...cgroupFiles.values()), "opens of one file in two calls").toBe(2);
    // Measured in the background, at most every ten seconds.
    const layers = countOf(opened.filter((path) => path.startsWith(`${node.daemon.root}/containers/`)));
    expect(Math.max(0, ...layers.values()), "walks through one layer for two calls").toBeLessThan(2);

    const all = await node.client.runtime("ListPodSandboxStats", {});
    expect(all.stats).toHaveLength(podCount);
    expect(all.stats.flatMap((item: Message) => item.linux.containers)).toHaveLength(podCount * containersPerPod);
  });

  it("tell all of their events to a client that reads, and end the stream of one that does not, with the reason", async () => {
    await Promise.all(pods.map((podId) => node.removePod(podId)));
    await expect.poll(() => told.length, { timeout: 60_000 }).toBe(4 * ids.length);
    const byId = Map.groupBy(told, ({ container_id }) => container_id);
    const life = ["CREATED", "STARTED", "STOPPED", "DELETED"].map((word) => `CONTAINER_${word}_EVENT`);
    for (const id of ids) expect(byId.get(id)?.map(({ container_event_type }) => container_event_type)).toEqual(life);
    reader.cancel();

    let late = 0;
    const ended = new Promise<ServiceError>((resolve) => sleeper.once("error", resolve));
    sleeper.on("data", () => late++);
    sleeper.resume();
    const { code, details } = await ended;
    expect(code).toBe(grpcStatus.RESOURCE_EXHAUSTED);
    expect(details).toContain("1024 behind");
    expect(late).toBeLessThan(4 * ids.length);
  }, 180_000);
});
