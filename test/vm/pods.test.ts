/** What pure cgroup v2, or a machine with every capability and AppArmor, alone can show of pods. Run inside the virtual machine. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { it } from "vitest";
import { CriNode } from "../helpers/cri-node.ts";
import { until } from "../helpers/library-place.ts";
import { apparmorCases } from "./apparmor.ts";

const forever = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.2; done"];
const node = await CriNode.start();
const cgroupOf = (podName: string, id: string): string => `/sys/fs/cgroup${node.cgroupParent}/pod-${podName}/${id}`;
/** The emulated processor is slow, and others may use the host. */
const patienceMs = 120_000;
const fileIn = (directory: string, file: string): string => readFileSync(join(directory, file), "utf8").trim();

it("a container has the limits that were asked for, in a cgroup namespace of its own #memory #cpu #pids #cgroup-mount", async () => {
  const pod = node.podConfig("limits");
  const podId = await node.runPod(pod);
  const resources = {
    memory_limit_in_bytes: 64 << 20,
    cpu_period: 100000,
    cpu_quota: 50000,
    cpu_shares: 512,
    unified: { "pids.max": "64" },
  };
  const id = await node.run(podId, pod, node.containerConfig("main", forever, { linux: { resources } }));
  const directory = cgroupOf("limits", id);
  assert.equal(fileIn(directory, "memory.max"), String(64 << 20));
  assert.equal(fileIn(directory, "memory.swap.max"), "0");
  assert.equal(fileIn(directory, "cpu.max"), "50000 100000");
  assert.equal(fileIn(directory, "cpu.weight"), "59");
  assert.equal(fileIn(directory, "pids.max"), "64");
  assert.equal((await node.exec(id, ["/bin/cat", "/proc/self/cgroup"], 30)).stdout, "0::/\n");
  assert.match((await node.exec(id, ["/bin/cat", "/sys/fs/cgroup/cgroup.controllers"], 30)).stdout, /memory/);
  assert.notEqual((await node.exec(id, ["/bin/mkdir", "/sys/fs/cgroup/x"], 30)).exitCode, 0);
  const { stats } = await node.client.runtime("ContainerStats", { container_id: id });
  assert.ok(BigInt(stats.memory.working_set_bytes.value) > 0n);
  await node.removePod(podId);
});

it("statistics have pressure, I/O and the pod's own numbers #stats-pressure #stats-cpu #stats-memory #stats-pids #stats-oom", async () => {
  const pod = node.podConfig("numbers");
  const podId = await node.runPod(pod);
  const resources = { memory_limit_in_bytes: 64 << 20, cpu_period: 100_000, cpu_quota: 20_000, cpu_shares: 512 };
  const busy = ["/bin/sh", "-c", "while :; do :; done"];
  const id = await node.run(podId, pod, node.containerConfig("main", busy, { linux: { resources } }));
  const throttled = (): boolean => / nr_throttled [1-9]/.test(fileIn(cgroupOf("numbers", id), "cpu.stat").replaceAll("\n", " "));
  const waited = (): boolean => !/^some .* total=0$/m.test(fileIn(cgroupOf("numbers", id), "cpu.pressure"));
  await until(() => throttled() && waited(), patienceMs);
  const { stats } = await node.client.runtime("PodSandboxStats", { pod_sandbox_id: podId });
  const [own] = stats.linux.containers;
  assert.equal(own.attributes.id, id);
  assert.ok(BigInt(own.cpu.usage_core_nano_seconds.value) > 0n);
  // The pod's numbers and the container's are read one after the other, in no order that is promised.
  assert.ok(BigInt(stats.linux.cpu.usage_core_nano_seconds.value) > 0n);
  assert.ok(BigInt(own.cpu.psi.Some.Total) > 0n);
  assert.ok(own.memory.psi.Full !== null && own.io.psi.Some !== null && stats.linux.io.psi.Full !== null);
  assert.equal(BigInt(own.memory.working_set_bytes.value) + BigInt(own.memory.available_bytes.value), 64n << 20n);
  assert.equal(own.swap.swap_usage_bytes.value, "0");
  assert.equal(stats.linux.process.process_count.value, "1");
  const { pod_metrics } = await node.client.runtime("ListPodSandboxMetrics", {});
  const metrics = pod_metrics[0].container_metrics[0].metrics as { name: string; value: { value: string } }[];
  const value = (name: string): number => Number(metrics.find((metric) => metric.name === `container_${name}`)?.value.value);
  assert.ok(value("cpu_cfs_throttled_periods_total") > 0);
  assert.ok(value("memory_working_set_bytes") > 0);
  assert.equal(value("oom_events_total"), 0);
  assert.equal(value("processes"), 1);
  await node.removePod(podId);
});

it("a memory limit below what is in use is refused, and kills nothing #set #memory", async () => {
  const pod = node.podConfig("resize");
  const podId = await node.runPod(pod);
  const resources = { memory_limit_in_bytes: 96 << 20, cpu_period: 100_000, cpu_quota: 50_000 };
  const script = "head -c 16777216 /dev/zero | tr '\\0' x > /dev/shm/big; echo filled; exec sleep 1000";
  const config = node.containerConfig("main", ["/bin/sh", "-c", script], { linux: { resources } });
  const id = await node.run(podId, pod, config);
  await until(() => node.log("resize", "main").includes("filled"), patienceMs);
  const directory = cgroupOf("resize", id);
  const update = (linux: object): Promise<unknown> =>
    node.client.runtime("UpdateContainerResources", { container_id: id, linux });
  await assert.rejects(
    update({ cpu_quota: 70_000, memory_limit_in_bytes: 8 << 20 }),
    /unable to set the memory limit to 8388608/,
  );
  assert.equal(fileIn(directory, "memory.max"), String(96 << 20));
  assert.equal(fileIn(directory, "memory.high"), "max");
  assert.equal(fileIn(directory, "cpu.max"), "50000 100000");
  await update({ memory_limit_in_bytes: 64 << 20, cpu_quota: 70_000, unified: { "memory.low": "4096" } });
  assert.equal(fileIn(directory, "memory.max"), String(64 << 20));
  assert.equal(fileIn(directory, "memory.swap.max"), "0");
  assert.equal(fileIn(directory, "cpu.max"), "70000 100000");
  assert.equal(fileIn(directory, "memory.low"), "4096");
  assert.match(fileIn(directory, "memory.events"), /oom_kill 0/);
  const { state, resources: shown } = await node.status(id);
  assert.equal(state, "CONTAINER_RUNNING");
  assert.equal(shown.linux.memory_limit_in_bytes, String(64 << 20));
  assert.equal(shown.linux.cpu_quota, "70000");
  await node.removePod(podId);
});

it("devices are allowed and denied by the program of the cgroup #device-rules", async () => {
  const pod = node.podConfig("devices");
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", forever));
  assert.equal((await node.exec(id, ["/bin/sh", "-c", "head -c 4 /dev/zero | wc -c"], 30)).stdout.trim(), "4");
  const made = await node.exec(id, ["/bin/sh", "-c", "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg"], 30);
  assert.notEqual(made.exitCode, 0);
  assert.match(made.stderr, /not permitted/);
  await node.removePod(podId);
});

it("OOM is seen through memory.events #stats-oom", async () => {
  const pod = node.podConfig("oom");
  const podId = await node.runPod(pod);
  const config = node.containerConfig("hog", ["/bin/sh", "-c", "exec tail /dev/zero"], {
    linux: { resources: { memory_limit_in_bytes: 16 << 20 } },
  });
  const id = await node.run(podId, pod, config);
  const status = await node.exited(id, 60_000);
  assert.equal(status.reason, "OOMKilled");
  assert.equal(status.exit_code, 137);
  await node.removePod(podId);
});

it("exec works in a container that moved its processes into cgroups of its own #delegation #exec", async () => {
  const pod = node.podConfig("nested", { linux: { security_context: { privileged: true } } });
  const podId = await node.runPod(pod);
  const script =
    "C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/inner && echo 1 > $C/inner/cgroup.procs && echo +memory > $C/cgroup.subtree_control && echo done; sleep 1000";
  const config = node.containerConfig("main", ["/bin/sh", "-c", script], { linux: { security_context: { privileged: true } } });
  const id = await node.run(podId, pod, config);
  await until(() => node.log("nested", "main") !== "", patienceMs);
  assert.equal(node.log("nested", "main"), "stdout F done\n");
  assert.equal((await node.exec(id, ["/bin/echo", "here"], 30)).stdout, "here\n");
  await node.removePod(podId);
});

it("a privileged container that left its cgroup is ended by stop all the same", async () => {
  const pod = node.podConfig("escaped", { linux: { security_context: { privileged: true } } });
  const podId = await node.runPod(pod);
  const outside = `/sys/fs/cgroup${node.cgroupParent}/outside`;
  const script = `mkdir ${outside} && echo 1 > ${outside}/cgroup.procs && echo done; sleep 1000`;
  const config = node.containerConfig("main", ["/bin/sh", "-c", script], { linux: { security_context: { privileged: true } } });
  const id = await node.run(podId, pod, config);
  await until(() => node.log("escaped", "main") !== "", patienceMs);
  assert.equal(node.log("escaped", "main"), "stdout F done\n");
  await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
  assert.equal((await node.status(id)).exit_code, 137);
  await node.removePod(podId);
});

it("a fork storm is ended by stop", async () => {
  const pod = node.podConfig("storm");
  const podId = await node.runPod(pod);
  const config = node.containerConfig("main", ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000 & sleep 0.05; done"]);
  const id = await node.run(podId, pod, config);
  await until(() => Number(fileIn(cgroupOf("storm", id), "pids.current")) > 8, patienceMs);
  await node.client.runtime("StopContainer", { container_id: id, timeout: 1 });
  assert.equal((await node.status(id)).exit_code, 137);
  await node.removePod(podId);
});

it("containers outlive a killed daemon, and nothing is lost", async () => {
  const pod = node.podConfig("restart");
  const podId = await node.runPod(pod);
  const stays = await node.run(podId, pod, node.containerConfig("stays", forever));
  const ends = await node.run(podId, pod, node.containerConfig("ends", ["/bin/sh", "-c", "sleep 2; exit 5"]));
  const { pid } = await node.info(stays);
  await node.daemon.kill("SIGKILL");
  await until(() => fileIn(cgroupOf("restart", ends), "cgroup.procs") === "", patienceMs);
  await node.daemon.launch();
  assert.equal((await node.info(stays)).pid, pid);
  assert.equal((await node.status(ends)).exit_code, 5);
  await node.client.runtime("StopContainer", { container_id: stays, timeout: 20 });
  assert.equal((await node.status(stays)).exit_code, 7);
  await node.removePod(podId);
});

it("oom scores below zero and raised limits are given, as the machine has the capability #oom-score", async () => {
  const { status } = await node.client.runtime("Status", {});
  assert.ok(status.conditions.some((c: { type: string; status: boolean }) => c.type === "RuntimeReady" && c.status));
  const pod = node.podConfig("scores");
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", forever, { linux: { resources: { oom_score_adj: -997 } } }));
  const { pid } = await node.info(id);
  assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8").trim(), "-997");
  // The helper is its parent: safe from the OOM killer, outside of every pod and of the daemon's own cgroup.
  const helper = /\) \S (\d+) /.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1];
  assert.equal(readFileSync(`/proc/${helper}/oom_score_adj`, "utf8").trim(), "-999");
  assert.match(readFileSync(`/proc/${helper}/cgroup`, "utf8"), /^0::\/caisson-[0-9a-f-]{36}\/shims$/m);
  assert.notEqual(readFileSync(`/proc/${helper}/cgroup`, "utf8"), readFileSync(`/proc/${node.daemon.pid}/cgroup`, "utf8"));
  await node.removePod(podId);
});

apparmorCases(node);

const parent = `/sys/fs/cgroup${node.cgroupParent}`;
it("nothing is left in the cgroup tree", async () => {
  await node[Symbol.asyncDispose]();
  assert.throws(() => readFileSync(join(parent, "cgroup.procs")));
});
