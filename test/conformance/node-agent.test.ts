/** What agents of the node ask for beside the kubelet's pods: changes of limits, statistics of sandboxes, metrics, events, lists as streams. */
import { once } from "node:events";
import { describe, expect } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { cgroupValue, cgroupVersion } from "./cgroup.ts";
import { clause } from "./clause.ts";
import { forever, type PodHandle, unknownId, useCri } from "./cri.ts";

const cri = useCri();
const v2 = cgroupVersion === 2;

/** All messages of a stream that ends by itself. */
async function collect(method: string): Promise<Message[]> {
  const stream = cri.client.stream(method, {});
  const messages: Message[] = [];
  stream.on("data", (message: Message) => messages.push(message));
  await once(stream, "end");
  return messages;
}
const memoryLimit = (pod: PodHandle, id: string): string =>
  cgroupValue(pod.config.linux.cgroup_parent, id, "memory", v2 ? "memory.max" : "memory.limit_in_bytes");

describe("UpdateContainerResources", () => {
  clause("limits change while the container runs, and the status says so", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever, { linux: { resources: { memory_limit_in_bytes: 64 << 20 } } }));
    const startedAt = async () => (await cri.runtime("ContainerStatus", { container_id: id })).status.started_at;
    const before = await startedAt();
    await cri.runtime("UpdateContainerResources", { container_id: id, linux: { memory_limit_in_bytes: 96 << 20 } });
    expect(memoryLimit(pod, id)).toBe(String(96 << 20));
    expect(await startedAt()).toBe(before);
  });

  clause("a container that does not exist is an error", async () => {
    const request = { container_id: unknownId, linux: { memory_limit_in_bytes: 96 << 20 } };
    expect((await failure(cri.runtime("UpdateContainerResources", request))).code).toBe(grpcStatus.NOT_FOUND);
  });
});

describe("PodSandboxStats, ListPodSandboxStats", () => {
  clause("attributes are those of the sandbox, and its containers' usage is inside", { since: "1.23" }, async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    const { stats } = await cri.runtime("PodSandboxStats", { pod_sandbox_id: pod.id });
    expect(stats.attributes).toMatchObject({ id: pod.id, metadata: pod.config.metadata, labels: pod.config.labels });
    expect(stats.linux.containers.map((container: Message) => container.attributes.id)).toContain(id);
    expect(Number(stats.linux.cpu.timestamp)).toBeGreaterThan(0);
    const listed = await cri.runtime("ListPodSandboxStats", { filter: { id: pod.id } });
    expect(listed.stats.map((one: Message) => one.attributes.id)).toEqual([pod.id]);
  });

  clause("a sandbox that does not exist is NotFound", { since: "1.23" }, async () => {
    expect((await failure(cri.runtime("PodSandboxStats", { pod_sandbox_id: unknownId }))).code).toBe(grpcStatus.NOT_FOUND);
  });
});

describe("ListMetricDescriptors, ListPodSandboxMetrics", () => {
  clause("every metric of a sandbox has a descriptor with as many labels", { since: "1.26" }, async () => {
    const pod = await cri.sharedPod();
    await cri.run(pod, cri.containerConfig(forever));
    const { descriptors } = await cri.runtime("ListMetricDescriptors");
    const labels = new Map<string, number>(descriptors.map((one: Message) => [one.name, one.label_keys.length]));
    const { pod_metrics } = await cri.runtime("ListPodSandboxMetrics");
    const own = pod_metrics.find((one: Message) => one.pod_sandbox_id === pod.id);
    const metrics: Message[] = [...own.metrics, ...own.container_metrics.flatMap((one: Message) => one.metrics)];
    expect(metrics.length).toBeGreaterThan(0);
    for (const { name, label_values } of metrics) expect(label_values, name).toHaveLength(labels.get(name) ?? -1);
  });
});

describe("GetContainerEvents", () => {
  clause("a container's life is told in order, with the sandbox's and the containers' statuses", { since: "1.26" }, async () => {
    const stream = cri.client.stream("GetContainerEvents", {});
    const events: Message[] = [];
    stream.on("data", (event: Message) => events.push(event)).on("error", () => {});
    try {
      // Nothing says when the stream is there: a pod of which it did not tell was too early.
      let pod = await cri.pod();
      const told = () => events.some(({ container_id }) => container_id === pod.id);
      for (let tries = 1; !told() && tries < 100; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        if (tries % 20 === 0) pod = await cri.pod();
      }
      const id = await cri.run(pod, cri.containerConfig(["/bin/true"]));
      await cri.exited(id);
      await cri.runtime("RemoveContainer", { container_id: id });
      const kinds = () => events.filter((event) => event.container_id === id).map((event) => event.container_event_type);
      const life = ["CREATED", "STARTED", "STOPPED", "DELETED"].map((name) => `CONTAINER_${name}_EVENT`);
      await expect.poll(kinds, { timeout: 20_000 }).toEqual(life);
      const stopped = events.find((one) => one.container_id === id && one.container_event_type === "CONTAINER_STOPPED_EVENT");
      expect(stopped?.pod_sandbox_status.id).toBe(pod.id);
      expect(stopped?.containers_statuses.map((one: Message) => one.id)).toContain(id);
    } finally {
      stream.cancel();
    }
  });
});

describe("lists as streams", () => {
  clause("each has what its list has", { since: "1.36" }, async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    const ids = (messages: readonly Message[]): string => JSON.stringify(messages);
    expect(ids(await collect("StreamPodSandboxes"))).toContain(pod.id);
    expect(ids(await collect("StreamContainers"))).toContain(id);
    expect(ids(await collect("StreamContainerStats"))).toContain(id);
    expect(ids(await collect("StreamPodSandboxStats"))).toContain(pod.id);
    expect(ids(await collect("StreamPodSandboxMetrics"))).toContain(pod.id);
  });
});

describe("selinux_relabel", () => {
  clause("where the node has no SELinux it is a no-op", async () => {
    const mounts = [{ host_path: cri.logs, container_path: "/v", selinux_relabel: true }];
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever, { mounts }));
    expect((await cri.exec(id, "test -d /v && echo there")).out).toBe("there");
  });
});
