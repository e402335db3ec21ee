/** Metrics of sandboxes by the names and labels of cAdvisor: what dashboards and alerts of clusters ask for. One case for each. */
import { beforeAll, describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { type PodHandle, useCri } from "./cri.ts";

const cri = useCri();
const namespace_options = { network: "POD", pid: "CONTAINER", ipc: "POD" };
const linux = { security_context: { namespace_options } };

let descriptors: readonly Message[] = [];
/** Of the sandbox and of its container, taken once for the file. */
let ofPod: readonly Message[] = [];
let ofContainer: readonly Message[] = [];
beforeAll(async () => {
  if (cri.endpoint.release < 26 || !cri.endpoint.abilities.includes("pod network")) return;
  const pod: PodHandle = await cri.lastingPod({ hostname: "measured", linux });
  const resources = { memory_limit_in_bytes: 64 << 20, cpu_period: 100_000, cpu_quota: 150_000, cpu_shares: 512 };
  // Values are whole seconds: it begins with two of CPU time, at the end of which the kernel kills who uses them.
  const burn = "burn() { (ulimit -t 1; while :; do :; done) }; burn & burn; wait";
  const script = `${burn}; head -c 2000000 /dev/zero > /written; echo ready; while :; do sleep 0.05; done`;
  const id = await cri.run(pod, cri.containerConfig(["/bin/sh", "-c", script], { linux: { ...linux, resources } }));
  await cri.logged(id, "ready");
  ({ descriptors } = await cri.runtime("ListMetricDescriptors"));
  await cri.until(async () => {
    const { pod_metrics } = await cri.runtime("ListPodSandboxMetrics");
    const own = pod_metrics.find((one: Message) => one.pod_sandbox_id === pod.id);
    ofPod = own?.metrics ?? [];
    ofContainer = own?.container_metrics.find((one: Message) => one.container_id === id)?.metrics ?? [];
    return ofContainer.some(({ name }) => name === "container_memory_usage_bytes");
  }, "metrics of the container");
});

interface Expected {
  readonly name: string;
  /** After pod, namespace, container, id and image. */
  readonly labels?: readonly string[];
  readonly type: "COUNTER" | "GAUGE";
  /** What the sample of a container with 64 MiB, one and a half processors, two seconds of them used, and two written megabytes must be. */
  readonly holds?: (value: number) => boolean;
}
const counter = (name: string, more: Partial<Expected> = {}): Expected => ({ name, type: "COUNTER", ...more });
const gauge = (name: string, more: Partial<Expected> = {}): Expected => ({ name, type: "GAUGE", ...more });
const recent = (value: number): boolean => Math.abs(value - Date.now() / 1000) < 600;
const some = (value: number): boolean => value > 0;
const is =
  (wanted: number) =>
  (value: number): boolean =>
    value === wanted;

const everywhere: readonly Expected[] = [
  gauge("last_seen", { holds: recent }),
  gauge("start_time_seconds", { holds: recent }),
  counter("cpu_user_seconds_total"),
  counter("cpu_system_seconds_total"),
  counter("cpu_usage_seconds_total", { labels: ["cpu"], holds: (value) => value >= 1 && value < 60 }),
  counter("cpu_cfs_periods_total"),
  counter("cpu_cfs_throttled_periods_total"),
  counter("cpu_cfs_throttled_seconds_total"),
  gauge("memory_usage_bytes", { holds: (value) => value > 0 && value <= 64 << 20 }),
  gauge("memory_working_set_bytes", { holds: (value) => value > 0 && value <= 64 << 20 }),
  gauge("memory_rss"),
  gauge("memory_cache"),
  gauge("memory_mapped_file"),
  gauge("memory_total_active_file_bytes"),
  gauge("memory_total_inactive_file_bytes"),
  counter("memory_failcnt"),
  counter("memory_failures_total", { labels: ["failure_type", "scope"] }),
  counter("oom_events_total", { holds: is(0) }),
  gauge("fs_limit_bytes", { labels: ["device"], holds: some }),
  gauge("fs_inodes_total", { labels: ["device"] }),
  gauge("fs_inodes_free", { labels: ["device"] }),
  gauge("processes", { holds: some }),
  gauge("threads", { holds: some }),
  gauge("threads_max"),
  gauge("file_descriptors", { holds: some }),
  gauge("sockets", { holds: is(0) }),
  gauge("ulimits_soft", { labels: ["ulimit"], holds: some }),
  gauge("spec_cpu_period", { holds: is(100_000) }),
  gauge("spec_cpu_quota", { holds: is(150_000) }),
  gauge("spec_cpu_shares", { holds: is(512) }),
  gauge("spec_memory_limit_bytes", { holds: is(64 << 20) }),
  gauge("spec_memory_reservation_limit_bytes", { holds: is(0) }),
];
/** Of the sandbox: its containers share one network. */
const ofNetwork = ["receive", "transmit"].flatMap((way) =>
  ["bytes", "packets", "packets_dropped", "errors"].map((what) =>
    counter(`network_${way}_${what}_total`, { labels: ["interface"] }),
  ),
);
/** Where the kernel counts them. */
const described: readonly Expected[] = [
  gauge("memory_swap"),
  gauge("spec_memory_swap_limit_bytes"),
  gauge("memory_kernel_usage"),
  gauge("memory_max_usage_bytes"),
  gauge("fs_usage_bytes", { labels: ["device"] }),
  ...["fs_reads_total", "fs_writes_total", "fs_reads_bytes_total", "fs_writes_bytes_total"].map((name) =>
    counter(name, { labels: ["device"] }),
  ),
  counter("blkio_device_usage_total", { labels: ["device", "major", "minor", "operation"] }),
  ...["cpu", "memory", "io"].flatMap((resource) =>
    ["waiting", "stalled"].map((kind) => counter(`pressure_${resource}_${kind}_seconds_total`)),
  ),
  gauge("hugetlb_usage_bytes", { labels: ["pagesize"] }),
  gauge("hugetlb_max_usage_bytes", { labels: ["pagesize"] }),
];
const conditions = { since: "1.26", needs: "pod network", ours: true } as const;

function expectDescribed({ name, labels = [] }: Expected): void {
  const found = descriptors.filter((one) => one.name === `container_${name}`);
  expect(found).toHaveLength(1);
  expect(found[0]?.help).not.toBe("");
  expect(found[0]?.label_keys).toEqual(["pod", "namespace", "container", "id", "image", ...labels]);
}

function expectSamples({ name, type, labels = [], holds }: Expected, metrics: readonly Message[]): void {
  const samples = metrics.filter((one) => one.name === `container_${name}`);
  for (const { metric_type, label_values, value, timestamp } of samples) {
    expect(metric_type).toBe(type);
    expect(label_values).toHaveLength(5 + labels.length);
    expect(Number(value.value)).toBeGreaterThanOrEqual(0);
    if (holds !== undefined) expect(Number(value.value)).toSatisfy(holds);
    expect(recent(Number(timestamp) / 1e9)).toBe(true);
  }
  expect(new Set(samples.map((one) => one.label_values.join("\n"))).size).toBe(samples.length);
}
const named = ({ name }: Expected, metrics: readonly Message[]): Message[] =>
  metrics.filter((one) => one.name === `container_${name}`);

describe("metrics of every container", () => {
  for (const metric of everywhere) {
    clause(`container_${metric.name}`, conditions, async () => {
      expectDescribed(metric);
      expect(named(metric, ofContainer)).not.toEqual([]);
      expectSamples(metric, ofContainer);
    });
  }
});

describe("metrics of every sandbox with a network", () => {
  for (const metric of ofNetwork) {
    clause(`container_${metric.name}`, conditions, async () => {
      expectDescribed(metric);
      expect(named(metric, ofPod).map((one) => one.label_values.at(-1))).toContain("eth0");
      expectSamples(metric, ofPod);
    });
  }
});

describe("metrics of what the kernel counts", () => {
  for (const metric of described) {
    clause(`container_${metric.name}`, conditions, async () => {
      expectDescribed(metric);
      for (const metrics of [ofPod, ofContainer]) expectSamples(metric, metrics);
    });
  }

  clause("no other metric is described", conditions, async () => {
    const known = [...everywhere, ...ofNetwork, ...described].map(({ name }) => `container_${name}`);
    expect(descriptors.map(({ name }) => name).filter((name) => !known.includes(name))).toEqual([]);
  });
});
