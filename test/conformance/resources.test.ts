/** Resources: what reaches the kernel, and what is reported. Then stats. */
import { existsSync } from "node:fs";
import { beforeAll, describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { cgroupValue, cgroupVersion } from "./cgroup.ts";
import { clause } from "./clause.ts";
import { codes, forever, now, refused, unique, unknownId, useCri } from "./cri.ts";

const cri = useCri();
const v2 = cgroupVersion === 2;
const limited = async (resources: Message): Promise<{ id: string; value: (v1: string, second: string) => string }> => {
  const pod = await cri.sharedPod();
  const id = await cri.run(pod, cri.containerConfig(forever, { linux: { resources } }));
  const value = (v1: string, second: string): string =>
    cgroupValue(pod.config.linux.cgroup_parent, id, v1.slice(0, v1.indexOf(".")), v2 ? second : v1);
  return { id, value };
};

/** Started first: runtimes measure writable layers some seconds apart. */
let grown: string;
beforeAll(async () => {
  const script = "head -c 3000000 /dev/zero > /grown; sleep 1000";
  grown = await cri.run(await cri.sharedPod(), cri.containerConfig(["/bin/sh", "-c", script]));
});

describe("resources", () => {
  clause("memory_limit_in_bytes is the memory limit of the cgroup", async () => {
    const { value } = await limited({ memory_limit_in_bytes: 64 << 20 });
    expect(value("memory.limit_in_bytes", "memory.max")).toBe(String(64 << 20));
  });

  clause("cpu_period and cpu_quota are the bandwidth limit of the cgroup, and a quota of -1 is none", async () => {
    const { value } = await limited({ cpu_period: 50_000, cpu_quota: 20_000 });
    if (v2) expect(value("cpu.max", "cpu.max")).toBe("20000 50000");
    else expect([value("cpu.cfs_quota_us", ""), value("cpu.cfs_period_us", "")]).toEqual(["20000", "50000"]);
    const { value: free } = await limited({ cpu_period: 100_000, cpu_quota: -1 });
    expect(free("cpu.cfs_quota_us", "cpu.max")).toBe(v2 ? "max 100000" : "-1");
  });

  clause("cpu_shares is the weight of the cgroup", async () => {
    const { value } = await limited({ cpu_shares: 512 });
    // Two mappings to v2 are in use: the linear one gives 20, the newer one 59.
    if (v2) expect(["20", "59"]).toContain(value("cpu.shares", "cpu.weight"));
    else expect(value("cpu.shares", "")).toBe("512");
  });

  clause("cpuset_cpus and cpuset_mems bind the container", async () => {
    const { id } = await limited({ cpuset_cpus: "0", cpuset_mems: "0" });
    const { out } = await cri.exec(id, "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | tr -d '\\t'");
    expect(out).toBe("Cpus_allowed_list:0\nMems_allowed_list:0");
  });

  clause("oom_score_adj is that of the process", async () => {
    const { id } = await limited({ oom_score_adj: 777 });
    expect((await cri.exec(id, "cat /proc/1/oom_score_adj")).out).toBe("777");
  });

  clause("a memory limit without a swap limit allows no swap, where swap is counted", async () => {
    const { value } = await limited({ memory_limit_in_bytes: 64 << 20 });
    const read = (): string => value("memory.memsw.limit_in_bytes", "memory.swap.max");
    const counted = existsSync(v2 ? "/sys/fs/cgroup/memory.swap.max" : "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes");
    if (counted) expect(read()).toBe(v2 ? "0" : String(64 << 20));
  });

  clause("huge page limits of 0, which the kubelet always sends, are no error", async () => {
    const { id } = await limited({
      hugepage_limits: [
        { page_size: "2MB", limit: 0 },
        { page_size: "1GB", limit: 0 },
      ],
    });
    expect((await cri.status(id)).state).toBe("CONTAINER_RUNNING");
  });

  clause("unified values are written as they are on cgroup v2", async () => {
    if (v2) {
      const { value } = await limited({ unified: { "memory.high": "33554432" } });
      expect(value("memory.high", "memory.high")).toBe("33554432");
      return;
    }
    const pod = await cri.sharedPod();
    const config = cri.containerConfig(forever, { linux: { resources: { unified: { "memory.high": "33554432" } } } });
    await refused(
      cri.create(pod, config).then((id) => cri.start(id)),
      codes.any,
    );
  });

  clause("status.resources.linux has the values in force", { since: "1.25" }, async () => {
    const resources = { cpu_period: 50_000, cpu_quota: 20_000, cpu_shares: 512, memory_limit_in_bytes: 64 << 20 };
    const { id } = await limited(resources);
    const { linux } = (await cri.status(id)).resources;
    for (const [field, value] of Object.entries(resources)) expect(linux[field], field).toBe(String(value));
  });

  clause("resources that cannot be are an error", async () => {
    const pod = await cri.sharedPod();
    for (const resources of [{ cpuset_cpus: "no-cpu" }, { cpuset_cpus: "4000" }, { memory_limit_in_bytes: 1 }]) {
      const config = cri.containerConfig(forever, { linux: { resources } });
      await refused(
        cri.create(pod, config).then((id) => cri.start(id)),
        codes.any,
      );
    }
  });
});

describe("ContainerStats", () => {
  const stats = async (id: string): Promise<Message> => (await cri.runtime("ContainerStats", { container_id: id })).stats;
  const listed = async (filter: Message): Promise<string[]> => {
    const { stats: all } = await cri.runtime("ListContainerStats", { filter });
    return all.map((one: Message) => one.attributes.id).sort();
  };

  clause("attributes are id, metadata, labels and annotations of the container", async () => {
    const config = cri.containerConfig(forever);
    const id = await cri.run(await cri.sharedPod(), config);
    const { metadata, labels, annotations } = config;
    expect((await stats(id)).attributes).toEqual({ id, metadata, labels, annotations });
  });

  clause("a running container has CPU time and memory, each with a time stamp in nanoseconds", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    const { cpu, memory } = await stats(id);
    expect(BigInt(cpu.usage_core_nano_seconds.value)).toBeGreaterThan(0n);
    expect(BigInt(memory.working_set_bytes.value)).toBeGreaterThan(0n);
    for (const { timestamp } of [cpu, memory]) {
      const age = now() - BigInt(timestamp);
      expect(age > -1_000_000_000n && age < 60_000_000_000n).toBe(true);
    }
  });

  clause("memory: working set is not above usage, and available is what the limit leaves", { since: "1.23" }, async () => {
    const limit = 64 << 20;
    const id = await cri.run(
      await cri.sharedPod(),
      cri.containerConfig(forever, { linux: { resources: { memory_limit_in_bytes: limit } } }),
    );
    const { memory } = await stats(id);
    const [used, working, available] = [memory.usage_bytes, memory.working_set_bytes, memory.available_bytes].map((one) =>
      BigInt(one.value),
    );
    expect((working ?? 0n) <= (used ?? 0n)).toBe(true);
    expect((available ?? 0n) + (working ?? 0n)).toBe(BigInt(limit));
  });

  clause("a counter does not go backwards, and CPU time grows with work", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(["/bin/sh", "-c", "while :; do :; done"]));
    const usage = async (): Promise<bigint> => BigInt((await stats(id)).cpu?.usage_core_nano_seconds?.value ?? 0);
    const first = await usage();
    await cri.until(async () => (await usage()) > first + 20_000_000n, "20 ms of CPU time");
    await cri.stop(id);
  });

  clause("writable_layer names a directory of the host and what is used there", async () => {
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever));
    const layer = await cri.until(
      async () => {
        const { writable_layer } = await stats(id);
        return writable_layer !== null && BigInt(writable_layer.timestamp) > 0n ? writable_layer : undefined;
      },
      "a measurement",
      15_000,
    );
    expect(existsSync(layer.fs_id.mountpoint)).toBe(true);
    expect(layer.used_bytes).not.toBeNull();
    expect(layer.inodes_used).not.toBeNull();
  });

  clause("a container that does not exist is NotFound", async () => {
    await refused(stats(unknownId), codes.missing);
  });

  clause("ListContainerStats takes id, pod_sandbox_id and label_selector, all of which must hold", async () => {
    const mark = unique("stats");
    const pod = await cri.pod();
    const [one, two] = [
      await cri.run(pod, cri.containerConfig(forever, { labels: { mark, n: "1" } })),
      await cri.run(pod, cri.containerConfig(forever, { labels: { mark, n: "2" } })),
    ];
    expect(await listed({ pod_sandbox_id: pod.id })).toEqual([one, two].sort());
    expect(await listed({ label_selector: { mark, n: "2" } })).toEqual([two]);
    expect(await listed({ id: one })).toEqual([one]);
    expect(await listed({ id: one.slice(0, 16), label_selector: { mark } })).toEqual([one]);
    expect(await listed({ id: one, label_selector: { n: "2" } })).toEqual([]);
    expect(await listed({ id: unknownId })).toEqual([]);
    expect(await listed({})).toEqual(expect.arrayContaining([one, two]));
  });

  clause("a container that has exited is left out of the list or has no usage", async () => {
    const pod = await cri.pod();
    const over = await cri.run(pod, cri.containerConfig(["/bin/true"]));
    await cri.exited(over);
    const { stats: all } = await cri.runtime("ListContainerStats", { filter: { pod_sandbox_id: pod.id } });
    for (const one of all) expect([one.attributes.id, one.cpu?.usage_nano_cores ?? null]).toEqual([over, null]);
  });

  clause("the host's own view agrees with the reported memory", async () => {
    const pod = await cri.sharedPod();
    const id = await cri.run(
      pod,
      cri.containerConfig(["/bin/sh", "-c", "head -c 8000000 /dev/zero > /dev/shm/fill; sleep 1000"]),
    );
    await cri.until(async () => {
      const reported = Number((await stats(id)).memory?.working_set_bytes?.value ?? 0);
      const file = v2 ? "memory.current" : "memory.usage_in_bytes";
      const kernel = Number(cgroupValue(pod.config.linux.cgroup_parent, id, "memory", file));
      return kernel > 8_000_000 && reported > 7_000_000 && reported <= kernel + 1_000_000;
    }, "both to be above 8 MB");
    await cri.exec(id, "rm /dev/shm/fill");
  });

  clause("writable_layer counts what the container writes", async () => {
    const used = async (): Promise<number> => Number((await stats(grown)).writable_layer?.used_bytes?.value ?? 0);
    await cri.until(async () => (await used()) >= 3_000_000, "the file to be counted", 25_000);
    expect(await used()).toBeLessThan(6_000_000);
  });
});
