/** In-place resize over the real daemon: limits of the kernel, the status, and what happens when it cannot be. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
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

const forever = ["/bin/sleep", "1000"];
const MiB = 1 << 20;
const update = (id: string, linux: Message): Promise<Message> =>
  node.client.runtime("UpdateContainerResources", { container_id: id, linux });
const limitsOf = async (id: string): Promise<Message> => (await node.status(id)).resources.linux;

/** The value in force, by its v1 file or its v2 one. */
function inForce(pod: string, id: string, controller: string, v1: string, v2: string): string {
  const path = join(node.cgroupParent, `pod-${pod}`, id);
  const old = join("/sys/fs/cgroup", controller, path, v1);
  return readFileSync(existsSync(old) ? old : join("/sys/fs/cgroup", path, v2), "utf8").trim();
}
const memoryLimit = (pod: string, id: string): number =>
  Number(inForce(pod, id, "memory", "memory.limit_in_bytes", "memory.max"));
const quota = (pod: string, id: string): string => inForce(pod, id, "cpu", "cpu.cfs_quota_us", "cpu.max").split(" ")[0] ?? "";

describe("UpdateContainerResources", () => {
  it("resizes a created and a running container, up and down, and the status says so", async () => {
    const pod = node.podConfig("resize");
    const podId = await node.runPod(pod);
    const resources = { memory_limit_in_bytes: 64 * MiB, cpu_period: 100_000, cpu_quota: 50_000, cpu_shares: 256 };
    const id = await node.create(podId, pod, node.containerConfig("main", forever, { linux: { resources } }));
    await update(id, { memory_limit_in_bytes: 128 * MiB, cpu_quota: 150_000 });
    expect([memoryLimit("resize", id), quota("resize", id)]).toEqual([128 * MiB, "150000"]);
    await node.start(id);
    for (const size of [32 * MiB, 256 * MiB]) {
      await update(id, { memory_limit_in_bytes: size, memory_swap_limit_in_bytes: size });
      expect(memoryLimit("resize", id)).toBe(size);
      expect(await limitsOf(id)).toMatchObject({
        memory_limit_in_bytes: String(size),
        cpu_quota: "150000",
        cpu_period: "100000",
        cpu_shares: "256",
      });
    }
    // As the kubelet's CPU manager does it every ten seconds.
    await update(id, { cpuset_cpus: "0" });
    expect(inForce("resize", id, "cpuset", "cpuset.cpus", "cpuset.cpus")).toBe("0");
    expect((await node.exec(id, ["/bin/nproc"])).stdout).toBe("1\n");
    expect(memoryLimit("resize", id)).toBe(256 * MiB);
    await update(id, { cpu_quota: -1 });
    expect(["-1", "max"]).toContain(quota("resize", id));
    const { runtimeSpec } = await node.info(id);
    expect(runtimeSpec.linux.resources).toMatchObject({ cpu: { cpus: "0", quota: -1 }, memory: { limit: 256 * MiB } });
    expect(await limitsOf(id)).toMatchObject({ cpu_quota: "-1", cpuset_cpus: "0" });
    await node.daemon.kill("SIGKILL");
    await node.daemon.launch();
    expect(await limitsOf(id)).toMatchObject({ cpu_quota: "-1", cpuset_cpus: "0", memory_limit_in_bytes: String(256 * MiB) });
    await node.removePod(podId);
  });

  it("refuses a memory limit below what is in use, kills nothing and changes nothing", async () => {
    const pod = node.podConfig("tight");
    const podId = await node.runPod(pod);
    const resources = { memory_limit_in_bytes: 128 * MiB, cpu_period: 100_000, cpu_quota: 50_000 };
    // 40 MiB that only swap could free, which the container may not use.
    const script = "head -c 41943040 /dev/zero | tr '\\0' x > /dev/shm/big; echo filled; exec sleep 1000";
    const config = node.containerConfig("main", ["/bin/sh", "-c", script], { linux: { resources } });
    const id = await node.run(podId, pod, config);
    for (let tries = 0; !node.log("tight", "main").includes("filled"); tries++) {
      if (tries > 200) throw new Error("the container never filled its memory");
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    const refused = await failure(update(id, { cpu_quota: 70_000, memory_limit_in_bytes: 16 * MiB }));
    expect(refused.code).toBe(grpcStatus.FAILED_PRECONDITION);
    expect(refused.details).toMatch(/unable to set the memory limit to 16777216/);
    expect([memoryLimit("tight", id), quota("tight", id)]).toEqual([128 * MiB, "50000"]);
    expect(await limitsOf(id)).toMatchObject({ memory_limit_in_bytes: String(128 * MiB), cpu_quota: "50000" });
    expect((await node.status(id)).state).toBe("CONTAINER_RUNNING");
    await update(id, { memory_limit_in_bytes: 80 * MiB });
    expect(memoryLimit("tight", id)).toBe(80 * MiB);
    await node.removePod(podId);
  });

  it("puts everything back when the last value is refused", async () => {
    const pod = node.podConfig("rollback");
    const podId = await node.runPod(pod);
    const resources = { memory_limit_in_bytes: 64 * MiB, cpu_period: 100_000, cpu_quota: 50_000 };
    const id = await node.run(podId, pod, node.containerConfig("main", forever, { linux: { resources } }));
    const { code } = await failure(update(id, { memory_limit_in_bytes: 96 * MiB, cpu_quota: 60_000, cpuset_cpus: "4095" }));
    expect([grpcStatus.INVALID_ARGUMENT, grpcStatus.FAILED_PRECONDITION]).toContain(code);
    expect([memoryLimit("rollback", id), quota("rollback", id)]).toEqual([64 * MiB, "50000"]);
    expect(await limitsOf(id)).toMatchObject({ memory_limit_in_bytes: String(64 * MiB), cpuset_cpus: "" });
    await node.removePod(podId);
  });

  it("is refused for an exited container, for none, and for nonsense", async () => {
    const pod = node.podConfig("refused");
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", ["/bin/true"]));
    await node.exited(id);
    expect(await failure(update(id, { cpu_shares: 2 }))).toMatchObject({ code: grpcStatus.FAILED_PRECONDITION });
    expect(await failure(update("0".repeat(64), { cpu_shares: 2 }))).toMatchObject({ code: grpcStatus.NOT_FOUND });
    const live = await node.create(podId, pod, node.containerConfig("live", forever));
    for (const linux of [{ memory_limit_in_bytes: -5 }, { cpuset_cpus: "x" }, { unified: { "cgroup.procs": "1" } }]) {
      expect(await failure(update(live, linux))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    }
    await node.removePod(podId);
  });
});

describe("UpdatePodSandboxResources", () => {
  it("is kept and shown", async () => {
    const podId = await node.runPod(node.podConfig("pod-resize"));
    await node.client.runtime("UpdatePodSandboxResources", {
      pod_sandbox_id: podId,
      overhead: { cpu_shares: 3 },
      resources: { memory_limit_in_bytes: 5 * MiB },
    });
    const { info } = await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId, verbose: true });
    expect(JSON.parse(info.info)).toMatchObject({ overhead: { cpu_shares: 3 }, resources: { memory_limit_in_bytes: 5 * MiB } });
    await node.removePod(podId);
  });
});
