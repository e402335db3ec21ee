/** What a kubelet puts on /metrics/cadvisor, over the real daemon. */
import { createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grpcStatus, type Message } from "../helpers/cri-client.ts";
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

/** name{key="value",...} to value, as Prometheus has it. */
function exposition(metrics: readonly Message[], keys: ReadonlyMap<string, readonly string[]>): ReadonlyMap<string, number> {
  return new Map(
    metrics.map(({ name, label_values, value }) => {
      const names = keys.get(name) ?? [];
      expect(label_values).toHaveLength(names.length);
      const labels = names
        .map((key, i) => `${key}=${label_values[i]}`)
        .filter((pair) => !/^(pod|namespace|container|id|image)=/.test(pair));
      return [`${name}{${labels.join(",")}}`, Number(value.value)];
    }),
  );
}

describe("pod metrics", () => {
  it("tell of CPU, memory, disk, processes and limits of each container, and of the pod", async () => {
    const { descriptors } = await node.client.runtime("ListMetricDescriptors", {});
    const keys = new Map<string, readonly string[]>(descriptors.map((item: Message) => [item.name, item.label_keys]));
    for (const { name, help, label_keys } of descriptors) {
      expect(name).toMatch(/^container_[a-z_]+$/);
      expect(help).not.toBe("");
      expect(label_keys.slice(0, 5)).toEqual(["pod", "namespace", "container", "id", "image"]);
    }
    const pod = node.podConfig("metrics");
    const podId = await node.runPod(pod);
    const resources = { memory_limit_in_bytes: 32 << 20, cpu_period: 100_000, cpu_quota: 20_000, cpu_shares: 512 };
    const script =
      "dd if=/dev/zero of=/big bs=1M count=2 2>/dev/null; sleep 1000 & timeout 2 sh -c 'while :; do :; done'; sleep 1000";
    const config = node.containerConfig("main", ["/bin/sh", "-c", script], { linux: { resources } });
    const id = await node.run(podId, pod, config);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const { pod_metrics } = await node.client.runtime("ListPodSandboxMetrics", {});
    expect(pod_metrics.map((item: Message) => item.pod_sandbox_id)).toEqual([podId]);
    const [{ metrics, container_metrics }] = pod_metrics;
    expect(container_metrics.map((item: Message) => item.container_id)).toEqual([id]);
    const own = exposition(container_metrics[0].metrics, keys);
    const whole = exposition(metrics, keys);
    const value = (name: string): number => own.get(name) ?? Number.NaN;
    const plain = (name: string): number => value(`container_${name}{}`);

    expect(plain("cpu_cfs_periods_total")).toBeGreaterThan(5);
    expect(plain("cpu_cfs_throttled_periods_total")).toBeGreaterThan(0);
    expect(value("container_cpu_usage_seconds_total{cpu=total}")).toBeGreaterThanOrEqual(0);
    expect(plain("memory_usage_bytes")).toBeGreaterThan(2 << 20);
    expect(plain("memory_cache")).toBeGreaterThanOrEqual(2 << 20);
    expect(plain("memory_working_set_bytes")).toBeLessThanOrEqual(plain("memory_usage_bytes"));
    expect(plain("memory_max_usage_bytes")).toBeGreaterThanOrEqual(plain("memory_usage_bytes"));
    expect(value("container_memory_failures_total{failure_type=pgfault,scope=container}")).toBeGreaterThan(0);
    expect(plain("oom_events_total")).toBe(0);
    // The shell's last command takes the shell's place.
    expect(plain("processes")).toBe(2);
    expect(plain("threads")).toBe(2);
    expect(plain("file_descriptors")).toBeGreaterThanOrEqual(6);
    expect(plain("sockets")).toBe(0);
    expect(value("container_ulimits_soft{ulimit=max_open_files}")).toBeGreaterThan(0);
    expect(plain("spec_cpu_quota")).toBe(20_000);
    expect(plain("spec_cpu_shares")).toBe(512);
    expect(plain("spec_memory_limit_bytes")).toBe(32 << 20);
    expect([...own.keys()].filter((name) => name.startsWith("container_fs_limit_bytes{device=/dev/"))).toHaveLength(1);
    const now = Date.now() / 1000;
    expect(plain("start_time_seconds")).toBeGreaterThan(now - 120);
    expect(plain("last_seen")).toBeGreaterThanOrEqual(plain("start_time_seconds"));
    for (const name of ["cpu", "memory", "io"]) {
      expect(plain(`pressure_${name}_waiting_seconds_total`)).toBeGreaterThanOrEqual(
        plain(`pressure_${name}_stalled_seconds_total`),
      );
    }
    expect(whole.get("container_memory_usage_bytes{}")).toBeGreaterThanOrEqual(plain("memory_usage_bytes"));
    expect([...whole.keys()].filter((name) => name.startsWith("container_network_"))).toEqual([]);
    await node.removePod(podId);
  });

  it("count sockets and descriptors of what runs", async () => {
    const pod = node.podConfig("sockets");
    const podId = await node.runPod(pod);
    // On the node's network: it connects to a server of the test.
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as { port: number };
    const config = node.containerConfig("main", ["/bin/sh", "-c", `sleep 1000 | nc 127.0.0.1 ${port}`]);
    await node.run(podId, pod, config);
    const socketsOf = async (): Promise<number> => {
      const { pod_metrics } = await node.client.runtime("ListPodSandboxMetrics", {});
      const own = pod_metrics.find((item: Message) => item.pod_sandbox_id === podId);
      const found = own.container_metrics[0].metrics.find((metric: Message) => metric.name === "container_sockets");
      return Number(found.value.value);
    };
    for (let tries = 0; (await socketsOf()) !== 1; tries++) {
      if (tries > 100) throw new Error("the socket was never seen");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await node.removePod(podId);
    await new Promise((resolve) => server.close(resolve));
  });

  it("come as a stream too, which ends at once when there is no pod", async () => {
    const stream = node.client.stream("StreamPodSandboxMetrics", {});
    const messages: Message[] = [];
    stream.on("data", (message) => messages.push(message));
    const end = await new Promise((resolve) => {
      stream.on("end", () => resolve(grpcStatus.OK));
      stream.on("error", ({ code }: Message) => resolve(code));
    });
    expect([end, messages]).toEqual([grpcStatus.OK, []]);
  });
});
