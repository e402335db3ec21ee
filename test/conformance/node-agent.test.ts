/** What agents of the node ask for beside the kubelet's pods: changes of limits, statistics of sandboxes, metrics, events, lists as streams. */

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { cgroupValue, cgroupVersion } from "./cgroup.ts";
import { clause } from "./clause.ts";
import { codes, forever, type PodHandle, refused, unknownId, useCri } from "./cri.ts";

const cri = useCri();
const v2 = cgroupVersion === 2;

/** All messages of a stream that ends by itself. */
async function collect(method: string, request: Message = {}): Promise<Message[]> {
  const stream = cri.client.stream(method, request);
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

  clause("what the request leaves empty stays as it is", async () => {
    const pod = await cri.sharedPod();
    const given = { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, cpu_period: 50_000, cpu_quota: 20_000 };
    const id = await cri.run(pod, cri.containerConfig(forever, { linux: { resources: given } }));
    await cri.runtime("UpdateContainerResources", { container_id: id, linux: { cpu_quota: 30_000 } });
    const cpu = (file: string): string => cgroupValue(pod.config.linux.cgroup_parent, id, "cpu", file);
    expect(memoryLimit(pod, id)).toBe(String(64 << 20));
    expect(v2 ? cpu("cpu.max") : `${cpu("cpu.cfs_quota_us")} ${cpu("cpu.cfs_period_us")}`).toBe("30000 50000");
    expect(v2 ? ["20", "59"] : ["512"]).toContain(cpu(v2 ? "cpu.weight" : "cpu.shares"));
  });

  clause("cpuset_cpus alone, as the CPU manager sends it, binds the container, as often as it is sent", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    for (const cpuset_cpus of ["0", "0"]) {
      await cri.runtime("UpdateContainerResources", { container_id: id, linux: { cpuset_cpus } });
      expect((await cri.exec(id, "grep Cpus_allowed_list /proc/1/status | tr -d '\\t'")).out).toBe("Cpus_allowed_list:0");
    }
  });

  clause("a container that has not started yet starts with what it was told", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.create(pod, cri.containerConfig(forever));
    await cri.runtime("UpdateContainerResources", { container_id: id, linux: { memory_limit_in_bytes: 96 << 20 } });
    await cri.start(id);
    expect(memoryLimit(pod, id)).toBe(String(96 << 20));
  });

  clause("status.resources has the new values: a resize is in progress until it does", { since: "1.25" }, async () => {
    const config = cri.containerConfig(forever, { linux: { resources: { memory_limit_in_bytes: 64 << 20, cpu_shares: 512 } } });
    const id = await cri.run(await cri.sharedPod(), config);
    const linux = { memory_limit_in_bytes: 96 << 20, cpu_shares: 256 };
    await cri.runtime("UpdateContainerResources", { container_id: id, linux });
    expect((await cri.status(id)).resources.linux).toMatchObject({ memory_limit_in_bytes: String(96 << 20), cpu_shares: "256" });
  });

  clause("an error means that nothing has changed", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(pod, cri.containerConfig(forever, { linux: { resources: { memory_limit_in_bytes: 64 << 20 } } }));
    const linux = { memory_limit_in_bytes: 96 << 20, cpuset_cpus: "4000" };
    await refused(cri.runtime("UpdateContainerResources", { container_id: id, linux }), codes.any);
    expect(memoryLimit(pod, id)).toBe(String(64 << 20));
  });

  clause("a container that does not exist is an error", async () => {
    const request = { container_id: unknownId, linux: { memory_limit_in_bytes: 96 << 20 } };
    expect((await failure(cri.runtime("UpdateContainerResources", request))).code).toBe(grpcStatus.NOT_FOUND);
  });
});

describe("UpdatePodSandboxResources", () => {
  clause("it takes what the kubelet tells and leaves the pod's cgroup, the kubelet's own, alone", { since: "1.33" }, async () => {
    const { id } = await cri.sharedPod();
    const resources = { memory_limit_in_bytes: 1 << 20, cpu_shares: 512 };
    await cri.runtime("UpdatePodSandboxResources", { pod_sandbox_id: id, overhead: { cpu_shares: 2 }, resources });
    await cri.runtime("UpdatePodSandboxResources", { pod_sandbox_id: id });
    expect((await cri.podStatus(id)).state).toBe("SANDBOX_READY");
    expect(await cri.says("echo runs")).toMatchObject({ out: "runs", code: 0 });
  });

  clause("a sandbox that does not exist is NotFound", { since: "1.33" }, async () => {
    await refused(cri.runtime("UpdatePodSandboxResources", { pod_sandbox_id: unknownId }), codes.missing);
  });
});

describe("PodSandboxStats, ListPodSandboxStats", () => {
  clause(
    "the list takes id and label_selector, both must hold, and leaves out what is not ready",
    { since: "1.23" },
    async () => {
      const pod = await cri.pod();
      const ids = async (filter: Message): Promise<string[]> =>
        (await cri.runtime("ListPodSandboxStats", { filter })).stats.map((one: Message) => one.attributes.id);
      const label_selector = { pod: pod.config.labels.pod };
      expect(await ids({ label_selector })).toEqual([pod.id]);
      expect(await ids({ id: pod.id, label_selector: { pod: "another" } })).toEqual([]);
      expect(await ids({ id: unknownId })).toEqual([]);
      await cri.runtime("StopPodSandbox", { pod_sandbox_id: pod.id });
      expect(await ids({ label_selector })).toEqual([]);
    },
  );

  clause("every part of the numbers has its own time stamp", { since: "1.23" }, async () => {
    const pod = await cri.sharedPod();
    await cri.run(pod, cri.containerConfig(forever));
    const { stats } = await cri.runtime("PodSandboxStats", { pod_sandbox_id: pod.id });
    const { containers, ...whole } = stats.linux;
    for (const numbers of [whole, ...containers]) {
      for (const part of ["cpu", "memory", "network", "process", "io", "swap"]) {
        if (numbers[part] != null) expect(Number(numbers[part].timestamp), part).toBeGreaterThan(0);
      }
    }
  });

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

describe("CheckpointContainer", () => {
  clause("a container that does not exist is an error, and no file is made", { since: "1.25" }, async () => {
    const location = join(cri.endpoint.scratch, "never.tar");
    const answer = await failure(cri.runtime("CheckpointContainer", { container_id: unknownId, location }));
    // Where checkpoints are switched off that is what the answer says.
    expect([...codes.any, grpcStatus.UNIMPLEMENTED]).toContain(answer.code);
    expect(existsSync(location)).toBe(false);
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
    expect(ids(await collect("StreamImages"))).toContain(cri.endpoint.imageId);
  });
});

describe("lists as streams that are filtered", () => {
  const items = async (method: string, request: Message): Promise<Message[]> =>
    (await collect(method, request)).flatMap((message) => Object.values<Message[]>(message).flat());

  clause("each item comes once, an empty result ends without a message", { since: "1.36" }, async () => {
    const pod = await cri.pod();
    const id = await cri.run(pod, cri.containerConfig(forever));
    const image = (name: string): Message => ({ filter: { image: { image: name } } });
    const cases: [string, Message, Message][] = [
      ["StreamPodSandboxes", { filter: { id: pod.id } }, { filter: { id: unknownId } }],
      ["StreamContainers", { filter: { id } }, { filter: { id: unknownId } }],
      ["StreamContainerStats", { filter: { id } }, { filter: { id: unknownId } }],
      ["StreamPodSandboxStats", { filter: { id: pod.id } }, { filter: { id: unknownId } }],
      ["StreamImages", image(cri.endpoint.imageId), image("registry.test/conformance/never:1")],
    ];
    for (const [method, one, none] of cases) {
      expect(await items(method, one), method).toHaveLength(1);
      expect(await collect(method, none), method).toEqual([]);
    }
  });
});

describe("selinux_relabel", () => {
  clause("where the node has no SELinux it is a no-op", async () => {
    const mounts = [{ host_path: cri.logs, container_path: "/v", selinux_relabel: true }];
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever, { mounts }));
    expect((await cri.exec(id, "test -d /v && echo there")).out).toBe("there");
  });
});

describe("what agents of the node look for", () => {
  const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
  const linux = { security_context: { namespace_options } };
  const conditions = { needs: "pod network" } as const;
  const verbose = async (method: string, request: Message): Promise<Message> =>
    JSON.parse((await cri.runtime(method, { ...request, verbose: true })).info.info);
  const started = async (): Promise<{ pod: PodHandle; id: string; uid: string }> => {
    const uid = randomUUID();
    const cgroup_parent = `${cri.endpoint.cgroupParent}/pod${uid}`;
    const pod = await cri.pod({ hostname: "seen", metadata: { uid }, linux: { ...linux, cgroup_parent } });
    const envs = [{ key: "COLOUR", value: Buffer.from("blue") }];
    const resources = { memory_limit_in_bytes: 64 << 20 };
    const id = await cri.run(pod, cri.containerConfig(forever, { envs, linux: { ...linux, resources } }));
    return { pod, id, uid };
  };

  clause("a sandbox's info has its network namespace by pid and by path", conditions, async () => {
    const { pod } = await started();
    const { pid, runtimeSpec } = await verbose("PodSandboxStatus", { pod_sandbox_id: pod.id });
    const { path } = runtimeSpec.linux.namespaces.find(({ type }: Message) => type === "network");
    expect(statSync(path).ino).toBe(statSync(`/proc/${pid}/ns/net`).ino);
  });

  clause("a container's info has its sandbox, process, variables, limits, mounts, cgroup and root", conditions, async () => {
    const { pod, id } = await started();
    const { sandboxID, pid, config, runtimeSpec } = await verbose("ContainerStatus", { container_id: id });
    expect(sandboxID).toBe(pod.id);
    expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(id);
    expect(config.envs.map(({ key }: Message) => key)).toContain("COLOUR");
    expect(runtimeSpec.linux.resources.memory.limit).toBe(64 << 20);
    expect(runtimeSpec.linux.cgroupsPath).toContain(id);
    expect(runtimeSpec.mounts.map(({ destination }: Message) => destination)).toContain("/proc");
    expect(runtimeSpec.process.user.uid).toBe(0);
    expect(runtimeSpec.root.path).not.toBe("");
  });

  clause("a pod is found in /proc by its uid in cgroup paths, in one network namespace of its own", conditions, async () => {
    const { uid } = await started();
    const found = new Set<string>();
    for (const pid of readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name))) {
      try {
        if (readFileSync(`/proc/${pid}/cgroup`, "utf8").includes(`pod${uid}`)) found.add(readlinkSync(`/proc/${pid}/ns/net`));
      } catch {
        // It has ended meanwhile.
      }
    }
    expect(found.size).toBe(1);
    expect(found).not.toContain(readlinkSync("/proc/self/ns/net"));
  });
});
