/** Stopping always ends: with processes that no signal reaches, with mounts that others use, with plugins that hang. */
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { FrozenDisk } from "../helpers/frozen-disk.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

const top = join(import.meta.dirname, "../..");
const writer = ["/bin/sh", "-c", "while :; do echo x > /data/file; sleep 0.02; done"];
const forever = ["/bin/sleep", "1000"];
const plugins = mkdtempSync(join(tmpdir(), "caisson-plugins-"));
const hang = join(plugins, "hang");

let node: CriNode;
let before: Inventory;
let disk: FrozenDisk;
beforeAll(async () => {
  before = takeInventory();
  disk = new FrozenDisk();
  node = await CriNode.start({ config: "[runtime]\nkill_patience_s = 1\n", plugins, cni: "plugin_timeout_s = 2" });
});
afterEach(() => disk.thaw());
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  disk[Symbol.dispose]();
  rmSync(plugins, { recursive: true });
  await expectNoLeaks(before);
});

async function until<T>(what: string, look: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> {
  const end = Date.now() + 20_000;
  for (;;) {
    const seen = await look();
    if (seen !== undefined && seen !== false) return seen;
    if (Date.now() > end) throw new Error(`${what} never came`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
const stateOf = (pid: number): string =>
  readFileSync(`/proc/${pid}/stat`, "latin1")
    .replace(/^.*\) /, "")
    .charAt(0);
/** Whether a process of that name in the PID namespace of the container's first one waits in the kernel. */
function isAsleep(pid: number, command: string): boolean {
  const namespace = readlinkSync(`/proc/${pid}/ns/pid`);
  return readdirSync("/proc").some((name) => {
    try {
      return (
        readlinkSync(`/proc/${name}/ns/pid`) === namespace &&
        readFileSync(`/proc/${name}/stat`, "utf8").includes(`(${command}) D`)
      );
    } catch {
      return false;
    }
  });
}
const mounts = () => [{ container_path: "/data", host_path: disk.path }];
const stop = (podId: string): Promise<Message> => node.client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
const remove = (podId: string): Promise<Message> => node.client.runtime("RemovePodSandbox", { pod_sandbox_id: podId });
const podInfo = async (podId: string): Promise<Message> =>
  JSON.parse((await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId, verbose: true })).info.info);
const ledger = async (): Promise<Message[]> =>
  JSON.parse((await node.client.runtime("Status", { verbose: true })).info.leftovers);
const doctor = (): string => {
  try {
    return execFileSync(join(top, "scripts/caisson"), ["--socket", node.daemon.socket, "doctor"], { encoding: "utf8" });
  } catch (error) {
    return String((error as { stdout?: string }).stdout);
  }
};

/** A pod whose container sleeps in the kernel. */
async function stuckPod(name: string): Promise<{ podId: string; id: string; pid: number }> {
  const pod = node.podConfig(name);
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", writer, { mounts: mounts() }));
  const { pid } = await node.info(id);
  await until("the first write", () => existsSync(join(disk.path, "file")));
  disk.freeze();
  await until("the wait in the kernel", () => stateOf(pid) === "D");
  return { podId, id, pid };
}

async function livesAndGoes(name: string): Promise<void> {
  const pod = node.podConfig(name);
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", forever));
  expect((await node.exec(id, ["/bin/true"])).exitCode).toBe(0);
  await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
  await node.removePod(podId);
}

describe("a process that no signal reaches", () => {
  it("is named by every stop, holds up its own pod only, and the pod goes once it wakes", async () => {
    const { podId, id, pid } = await stuckPod("asleep");
    const stopped = failure(node.client.runtime("StopContainer", { container_id: id, timeout: 0 }));
    await livesAndGoes("beside");
    const sentence = new RegExp(
      `container main .* has not ended 1 s after SIGKILL: .*process ${pid} \\(sh, asleep in the kernel`,
    );
    expect(await stopped).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED, details: expect.stringMatching(sentence) });
    expect((await node.status(id)).state).toBe("CONTAINER_RUNNING");
    for (const call of [stop, remove, stop]) {
      expect(await failure(call(podId))).toMatchObject({
        code: grpcStatus.DEADLINE_EXCEEDED,
        details: expect.stringMatching(sentence),
      });
    }
    const { reason, leftovers, phase } = await podInfo(podId);
    expect({ reason, phase }).toEqual({ reason: "TeardownBlocked", phase: "stopping" });
    expect(leftovers).toMatchObject([{ kind: "processes", what: id, holders: [{ pid, command: "sh", state: "D" }] }]);
    expect(doctor()).toMatch(new RegExp(`leftover: pod default/asleep .*process ${pid} `));

    await node.daemon.kill();
    await node.daemon.launch();
    expect(await ledger()).toMatchObject([{ podId, pod: "default/asleep", items: [{ kind: "processes", holders: [{ pid }] }] }]);
    disk.thaw();
    await remove(podId);
    await remove(podId);
    expect(await ledger()).toEqual([]);
  });

  it("outlives its helper, and a daemon starts all the same", async () => {
    const { podId, id, pid } = await stuckPod("orphan");
    process.kill((await podInfo(podId)).helperPid, "SIGKILL");
    await until("the ledger", async () => (await ledger()).length > 0);
    expect(await failure(stop(podId))).toMatchObject({ details: expect.stringContaining(`process ${pid} (sh`) });
    await node.daemon.kill();
    await node.daemon.launch();
    await livesAndGoes("beside-orphan");
    disk.thaw();
    expect((await node.exited(id)).exit_code).toBe(255);
    await remove(podId);
    expect(await ledger()).toEqual([]);
  });

  it("that only an exec started is named as well", async () => {
    const pod = node.podConfig("exec-asleep");
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", forever, { mounts: mounts() }));
    const { pid } = await node.info(id);
    disk.freeze();
    const exec = node.exec(id, ["/bin/touch", "/data/new"], 20);
    await until("the wait in the kernel", () => isAsleep(pid, "touch"));
    expect(await failure(stop(podId))).toMatchObject({
      details: expect.stringMatching(/process \d+ \(touch, asleep in the kernel/),
    });
    disk.thaw();
    expect((await exec).exitCode).toBe(137);
    await until("the pod's end by itself", async () => (await podInfo(podId)).phase === "stopped");
    await node.removePod(podId);
  });
});

it("host paths that do not answer hold up only those who ask for them", async () => {
  const pod = node.podConfig("hung-paths");
  const podId = await node.runPod(pod);
  const on = (name: string, path: string) =>
    node.containerConfig(name, forever, { mounts: [{ container_path: "/data", host_path: join(disk.path, path) }] });
  disk.freeze();
  const names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
  const asked = names.map((name) => failure(node.create(podId, pod, on(name, `absent-${name}`))));
  await livesAndGoes("beside-hung-paths");
  for (const { code, details } of await Promise.all(asked)) {
    expect(code).toBe(grpcStatus.UNAVAILABLE);
    expect(details).toMatch(/host path .*absent-[a-j].* not answer/);
  }
  await livesAndGoes("behind-hung-paths");
  disk.thaw();
  await until("an answer", () => node.create(podId, pod, on("late", "absent-a")).catch(() => undefined));
  await node.removePod(podId);
});

it("a mount that a process of the node uses is let go of and written down until that process ends", async () => {
  const podId = await node.runPod(node.podConfig("used"));
  const shm = join(node.daemon.state, "pods", podId, "shm");
  const user = spawn("sleep", ["1000"], { cwd: shm, stdio: "ignore" });
  await new Promise((resolve) => user.once("spawn", resolve));
  await node.removePod(podId);
  expect(existsSync(shm)).toBe(false);
  expect(await ledger()).toMatchObject([
    { pod: "default/used", items: [{ kind: "mount", what: shm, holders: [{ pid: user.pid, command: "sleep" }] }] },
  ]);
  expect(doctor()).toContain(`mount ${shm}`);
  await node.daemon.kill();
  await node.daemon.launch();
  expect(await ledger()).toHaveLength(1);
  user.kill("SIGKILL");
  await until("the end of the entry", async () => (await ledger()).length === 0);
});

it("a CNI plugin that hangs holds up its own pod only, is named, and the pod goes once it does not", async () => {
  const bridge = "caisson-s0";
  const addresses = () => readdirSync(`/tmp/${bridge}-ipam/${bridge}`).filter((name) => name.startsWith("10."));
  const stuck = join(plugins, "stuck");
  writeFileSync(
    hang,
    `#!/usr/bin/python3\nimport json, os, sys, time\nasked = json.load(sys.stdin)\n` +
      `if os.environ["CNI_COMMAND"] == "ADD": print(json.dumps(asked["prevResult"]))\n` +
      `elif "K8S_POD_NAME=hung;" in os.environ["CNI_ARGS"] and os.path.exists("${stuck}"): time.sleep(1000)\n`,
  );
  chmodSync(hang, 0o755);
  node.enableNetwork(bridge, "10.94.7.0/24");
  const file = join(node.daemon.cniConf, "10-test.conflist");
  const list = JSON.parse(readFileSync(file, "utf8"));
  writeFileSync(file, JSON.stringify({ ...list, plugins: [...list.plugins, { type: "hang" }] }));
  await until("the network", async () => {
    const { status } = await node.client.runtime("Status", {});
    return status.conditions.find(({ type }: Message) => type === "NetworkReady").status;
  });
  const onNetwork = { linux: { security_context: { namespace_options: network.pod } } };
  const [hung, other] = [node.podConfig("hung", onNetwork), node.podConfig("other", onNetwork)];
  const podId = await node.runPod(hung);
  writeFileSync(stuck, "");
  const stopping = failure(stop(podId));
  await node.removePod(await node.runPod(other));
  expect(await stopping).toMatchObject({
    code: grpcStatus.DEADLINE_EXCEEDED,
    details: expect.stringMatching(/pod default\/hung from network caisson-s0: CNI plugin hang was killed during DEL/),
  });
  expect(await failure(remove(podId))).toMatchObject({ details: expect.stringContaining("CNI plugin hang") });
  expect(addresses()).toEqual([]); // the plugins behind the one that hangs have had their turn
  expect((await podInfo(podId)).leftovers).toMatchObject([{ kind: "network", why: expect.stringContaining("CNI plugin hang") }]);
  rmSync(stuck);
  // An attempt of the daemon's own may still be waiting for the plugin: whoever asks meanwhile joins it.
  await until("the pod's removal", () =>
    remove(podId).then(
      () => true,
      () => false,
    ),
  );
  expect(await ledger()).toEqual([]);
});
