/** The main job of a node, through the CRI socket like any client: pod, container, log, exec, stats, stop, remove. */
import { existsSync, readFileSync, readlinkSync } from "node:fs";
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

const forever = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"];

describe("a pod on the node's network", () => {
  it("runs a container through its whole life", async () => {
    const pod = node.podConfig("life");
    const podId = await node.runPod(pod);
    expect(podId).toMatch(/^[0-9a-f]{64}$/);
    const id = await node.create(podId, pod, node.containerConfig("main", forever));
    expect((await node.status(id)).state).toBe("CONTAINER_CREATED");
    await node.start(id);
    const running = await node.status(id);
    expect(running.state).toBe("CONTAINER_RUNNING");
    expect(BigInt(running.started_at)).toBeGreaterThan(BigInt(running.created_at));

    const said = await node.exec(id, ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
    expect(said).toEqual({ stdout: "out\n", stderr: "err\n", exitCode: 3 });

    const { stats } = await node.client.runtime("ContainerStats", { container_id: id });
    expect(BigInt(stats.cpu.usage_core_nano_seconds.value)).toBeGreaterThan(0n);
    expect(BigInt(stats.memory.working_set_bytes.value)).toBeGreaterThan(0n);

    await node.client.runtime("StopContainer", { container_id: id, timeout: 10 });
    const exited = await node.status(id);
    expect(exited).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 7, reason: "Error" });
    expect(node.log("life", "main")).toBe("stdout F ready\n");
    expect(readFileSync(exited.log_path, "utf8")).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout F ready\n$/);

    await node.client.runtime("RemoveContainer", { container_id: id });
    expect(await failure(node.status(id))).toMatchObject({ code: grpcStatus.NOT_FOUND });
    await node.removePod(podId);
    expect(existsSync(exited.log_path)).toBe(true);
  });

  it("reports the exit code, the signal and the reason", async () => {
    const pod = node.podConfig("exits");
    const podId = await node.runPod(pod);
    const cases: [string, string, Message][] = [
      ["zero", "exit 0", { exit_code: 0, reason: "Completed" }],
      ["nine", "exit 9", { exit_code: 9, reason: "Error" }],
      ["killed", "kill -KILL $$", { exit_code: 137, reason: "Error" }],
    ];
    for (const [name, script, expected] of cases) {
      const id = await node.run(podId, pod, node.containerConfig(name, ["/bin/sh", "-c", script]));
      // Process 1 of a namespace does not get a fatal signal from inside: the outer shell's child does.
      const status = await node.exited(id);
      if (name !== "killed") expect(status).toMatchObject(expected);
    }
    const victim = await node.run(podId, pod, node.containerConfig("victim", forever));
    process.kill((await node.info(victim)).pid, "SIGKILL");
    expect(await node.exited(victim)).toMatchObject({ exit_code: 137, reason: "Error" });
    await node.removePod(podId);
  });

  it("says OOMKilled when the memory limit ends a container", async () => {
    const pod = node.podConfig("oom");
    const podId = await node.runPod(pod);
    const hog = ["/bin/sh", "-c", "tail /dev/zero"];
    const config = node.containerConfig("hog", ["/bin/sh", "-c", "exec tail /dev/zero"], {
      linux: { resources: { memory_limit_in_bytes: 16 << 20 } },
    });
    expect(hog.length).toBe(3);
    const id = await node.run(podId, pod, config);
    expect(await node.exited(id)).toMatchObject({ exit_code: 137, reason: "OOMKilled" });
    await node.removePod(podId);
  });

  it("gives a command that cannot run as a clear error, and leaves the container exited", async () => {
    const pod = node.podConfig("broken");
    const podId = await node.runPod(pod);
    const id = await node.create(podId, pod, node.containerConfig("missing", ["/no/such/program"]));
    const { details } = await failure(node.start(id));
    expect(details).toContain("/no/such/program");
    expect(details).toContain("no such file");
    expect(await node.status(id)).toMatchObject({
      state: "CONTAINER_EXITED",
      exit_code: 128,
      reason: "StartError",
      started_at: "0",
    });
    await node.removePod(podId);
  });

  it("keeps a container to what a Kubernetes runtime gives", async () => {
    const pod = node.podConfig("inside");
    const podId = await node.runPod(pod);
    const id = await node.run(
      podId,
      pod,
      node.containerConfig("main", forever, { envs: [{ key: "COLOUR", value: Buffer.from("blue") }] }),
    );
    const sh = async (script: string): Promise<string> => (await node.exec(id, ["/bin/sh", "-c", script])).stdout.trim();
    expect(await sh("echo $COLOUR; pwd; id -u")).toBe("blue\n/\n0");
    expect(await sh("cat /proc/1/comm")).toBe("sh");
    expect(await sh("ls -l /dev/null /dev/ptmx | cut -c1 | tr -d '\\n'")).toBe("cl");
    expect(await sh("stat -c %t:%T /dev/zero")).toBe("1:5");
    expect(await sh("cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l")).toBe("0\n0");
    expect(await sh("echo x > /proc/sys/kernel/domainname && echo written || echo refused")).toBe("refused");
    expect(await sh("grep -E '^(NoNewPrivs|Seccomp|CapInh|CapAmb)' /proc/self/status")).toMatch(
      /CapInh:\t0+\nCapAmb:\t0+\nNoNewPrivs:\t0\nSeccomp:\t2/,
    );
    expect(await sh("unshare -U true 2>&1 || echo denied")).toContain("denied");
    expect(await sh("ls /proc/self/fd | tr '\\n' ' '")).toBe("0 1 2 3");
    const { pid } = await node.info(id);
    expect(readlinkSync(`/proc/${pid}/ns/net`)).toBe(readlinkSync("/proc/self/ns/net"));
    for (const kind of ["mnt", "pid", "ipc"])
      expect(readlinkSync(`/proc/${pid}/ns/${kind}`)).not.toBe(readlinkSync(`/proc/self/ns/${kind}`));
    await node.removePod(podId);
  });

  it("is idempotent in stop and remove, and refuses unknown objects", async () => {
    await node.client.runtime("StopPodSandbox", { pod_sandbox_id: "0".repeat(64) });
    await node.client.runtime("RemovePodSandbox", { pod_sandbox_id: "0".repeat(64) });
    await node.client.runtime("StopContainer", { container_id: "0".repeat(64) });
    await node.client.runtime("RemoveContainer", { container_id: "0".repeat(64) });
    expect(await failure(node.start("0".repeat(64)))).toMatchObject({ code: grpcStatus.NOT_FOUND });
    const pod = node.podConfig("twice");
    const podId = await node.runPod(pod);
    expect(await node.runPod(pod)).toBe(podId);
    expect(await failure(node.runPod({ ...pod, hostname: "other" }))).toMatchObject({ code: grpcStatus.ALREADY_EXISTS });
    await node.removePod(podId);
    await node.removePod(podId);
  });
});

describe("a daemon restart", () => {
  it.each(["SIGKILL", "SIGTERM"] as const)("with %s leaves containers running and loses nothing", async (signal) => {
    const name = `restart-${signal.toLowerCase()}`;
    const pod = node.podConfig(name);
    const podId = await node.runPod(pod);
    const count = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done"];
    const stays = await node.run(podId, pod, node.containerConfig("stays", count));
    const ends = await node.run(podId, pod, node.containerConfig("ends", ["/bin/sh", "-c", "sleep 0.7; exit 5"]));
    const parked = await node.create(podId, pod, node.containerConfig("parked", ["/bin/echo", "late"]));
    const { pid } = await node.info(stays);
    await node.daemon.kill(signal);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await node.daemon.launch();
    expect((await node.info(stays)).pid).toBe(pid);
    expect(await node.status(stays)).toMatchObject({ state: "CONTAINER_RUNNING" });
    const ended = await node.status(ends);
    expect(ended).toMatchObject({ state: "CONTAINER_EXITED", exit_code: 5 });
    expect(BigInt(ended.finished_at) - BigInt(ended.started_at)).toBeLessThan(3_000_000_000n);
    expect(await node.status(parked)).toMatchObject({ state: "CONTAINER_CREATED" });
    await node.start(parked);
    await node.exited(parked);
    expect(node.log(name, "parked")).toBe("stdout F late\n");
    expect((await node.exec(stays, ["/bin/echo", "hello"])).stdout).toBe("hello\n");
    await node.client.runtime("StopContainer", { container_id: stays, timeout: 0 });
    const lines = node.log(name, "stays").trim().split("\n");
    expect(lines.map((line) => line.replace("stdout F line ", ""))).toEqual(lines.map((_, i) => String(i + 1)));
    await node.removePod(podId);
  });
});

describe("a pod with a network of its own", () => {
  it("gets an address, keeps its namespace, and gives everything back", async () => {
    node.enableNetwork("caissont0", "10.211.7.0/24");
    const until = Date.now() + 5000;
    for (;;) {
      const { status } = await node.client.runtime("Status", {});
      if (status.conditions.find((c: Message) => c.type === "NetworkReady").status) break;
      if (Date.now() > until) throw new Error("the network never became ready");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const pod = node.podConfig("net", {
      linux: { security_context: { namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } } },
    });
    const podId = await node.runPod(pod);
    const { status } = await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId });
    expect(status.network.ip).toMatch(/^10\.211\.7\./);
    const id = await node.run(podId, pod, node.containerConfig("main", forever));
    expect((await node.exec(id, ["/bin/ip", "-o", "addr", "show", "eth0"])).stdout).toContain(status.network.ip);
    expect((await node.exec(id, ["/bin/hostname"])).stdout).toBe("net\n");
    expect((await node.exec(id, ["/bin/ping", "-c", "1", "10.211.7.1"])).exitCode).toBe(0);
    expect(existsSync(join("/run/netns", `caisson-${podId}`))).toBe(true);
    await node.removePod(podId);
    expect(existsSync(join("/run/netns", `caisson-${podId}`))).toBe(false);
  });
});
