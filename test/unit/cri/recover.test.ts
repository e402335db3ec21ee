import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createContainer } from "../../../src/cri/container-create.ts";
import { removeContainer } from "../../../src/cri/container-remove.ts";
import { startContainer } from "../../../src/cri/container-start.ts";
import { containerStatus } from "../../../src/cri/container-status.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { updateContainerResources } from "../../../src/cri/container-update.ts";
import { execSync } from "../../../src/cri/exec-sync.ts";
import { podDir } from "../../../src/cri/paths.ts";
import { removePodSandbox } from "../../../src/cri/sandbox-remove.ts";
import { runPodSandbox } from "../../../src/cri/sandbox-run.ts";
import { podSandboxStatus } from "../../../src/cri/sandbox-status.ts";
import { stopPodSandbox } from "../../../src/cri/sandbox-stop.ts";
import { updatePodSandboxResources } from "../../../src/cri/sandbox-update.ts";
import { ContainerState, LinuxContainerResources, PodSandboxState } from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { allSteps, armFault, type StepName } from "../../../src/lib/step.ts";
import { createRequest, ctx, FakeNode, failure, podConfig, runRequest, until } from "./fake/fake-node.ts";
import { busybox } from "./fake/fake-services.ts";

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
});
afterEach(async () => {
  await armFault(undefined);
  node[Symbol.dispose]();
});

const containerOf = async (containerId: string) =>
  (await containerStatus(node.app, ctx(), { containerId, verbose: false })).status;
const podOf = async (podSandboxId: string) => (await podSandboxStatus(node.app, ctx(), { podSandboxId, verbose: false })).status;
const remove = (podSandboxId: string) => removePodSandbox(node.app, ctx(), { podSandboxId });

describe("a restart of the daemon", () => {
  it("finds everything as it was", async () => {
    const pod = await node.pod();
    const running = await node.running(pod);
    const created = await node.container(pod, { metadata: { name: "second", attempt: 0 } });
    const before = [await podOf(pod), await containerOf(running), await containerOf(created)];
    await node.restart();
    expect([await podOf(pod), await containerOf(running), await containerOf(created)]).toEqual(before);
    expect(node.images.holds.get(running)).toEqual([busybox.id]);
    expect(await execSync(node.app, ctx(), { containerId: running, cmd: ["id"], timeout: 0n })).toMatchObject({ exitCode: 0 });
    await startContainer(node.app, ctx(), { containerId: created });
    await remove(pod);
    expect(node.leftovers()).toEqual([]);
  });

  it("is not ready before recovery is done", async () => {
    node.crash();
    const go = node.runtime.hold("reconnectPod");
    const pod = node.open();
    await until(() => node.cri !== undefined, "opened");
    expect(node.app.ready).toBe(false);
    go();
    expect((await pod).ready).toBe(true);
  });

  it("takes exits that happened meanwhile, with their code, time and OOM verdict, and acknowledges them", async () => {
    const pod = await node.pod();
    const id = await node.running(pod);
    node.crash();
    node.shim(pod).exit(id, { exitCode: 137, signal: 9, oomKilled: true, finishedAtNs: 4_500n });
    await node.open();
    expect(await containerOf(id)).toMatchObject({
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 137,
      reason: "OOMKilled",
      finishedAt: 4_500n,
      startedAt: 4_000n,
    });
    expect(node.shim(pod).containers.get(id)?.acknowledged).toBe(true);
  });

  it("keeps to a stop that was under way", async () => {
    node.runtime.dieOnSignal = false;
    const pod = await node.pod();
    const id = await node.running(pod);
    stopContainer(node.app, ctx(), { containerId: id, timeout: 60n }).catch(() => {});
    await until(() => node.runtime.signals.length === 1, "signalled");
    node.crash();
    node.nowNs += 59_900_000_000n;
    await node.open();
    expect(node.app.stops.underWay(id)).toBe(true);
    await stopContainer(node.app, ctx(), { containerId: id, timeout: 60n });
    expect(node.runtime.signals.map((sent) => sent.signal)).toEqual([15, 9]);
  });

  it("keeps exited containers and stopped pods", async () => {
    const pod = await node.pod();
    const id = await node.running(pod);
    await stopPodSandbox(node.app, ctx(), { podSandboxId: pod });
    const before = [await podOf(pod), await containerOf(id)];
    await node.restart();
    expect([await podOf(pod), await containerOf(id)]).toEqual(before);
    await remove(pod);
    expect(node.leftovers()).toEqual([]);
  });
});

describe("a helper that died while the daemon was away", () => {
  it("ends its pod, and the exit that it wrote down counts", async () => {
    const pod = await node.pod();
    const lost = await node.running(pod);
    const known = await node.running(pod, { metadata: { name: "known", attempt: 0 } });
    node.crash();
    node.shim(pod).alive = false;
    node.runtime.exitRecords.set(known, {
      containerId: known,
      exitCode: 0,
      signal: 0,
      known: true,
      oomKilled: false,
      finishedAtNs: 4_700n,
      startedAtNs: 4_000n,
      logDroppedBytes: 0n,
    });
    await node.open();
    expect((await podOf(pod))?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect(await containerOf(lost)).toMatchObject({ exitCode: 255, reason: "Unknown" });
    expect(await containerOf(known)).toMatchObject({ exitCode: 0, reason: "Completed", finishedAt: 4_700n });
    expect(node.runtime.killed).toContain(`/kubepods/pod-u1/${lost}`);
    await until(() => node.app.sandboxes.get(pod)?.phase === "stopped", "torn down in the background");
    expect(node.network.attached.size).toBe(0);
  });

  it("is opened all the same when CNI DEL fails, and DEL is tried again", async () => {
    const pod = await node.pod();
    node.crash();
    node.shim(pod).alive = false;
    node.network.detachError = new RuntimeError("internal", "DEL failed");
    await node.open();
    await until(() => node.app.teardowns.pending().includes(pod), "failed once");
    expect(node.app.sandboxes.get(pod)?.phase).toBe("stopping");
    node.network.detachError = undefined;
    await until(() => node.app.sandboxes.get(pod)?.phase === "stopped", "tried again");
  });
});

describe("a helper that does not answer", () => {
  it("makes its containers UNKNOWN and its pod NOTREADY, and kills nothing until it is asked", async () => {
    const pod = await node.pod();
    const id = await node.running(pod);
    node.crash();
    node.runtime.unreachable = true;
    await node.open();
    expect((await podOf(pod))?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect((await containerOf(id))?.state).toBe(ContainerState.CONTAINER_UNKNOWN);
    expect(node.runtime.killed).toEqual([]);
    await stopPodSandbox(node.app, ctx(), { podSandboxId: pod });
    expect(node.runtime.killed).toContain(`/kubepods/pod-u1/${id}`);
    expect(await containerOf(id)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 255 });
  });
});

describe("a reboot", () => {
  it("makes pods NOTREADY and containers EXITED 255 Unknown, and calls DEL without a namespace", async () => {
    const pod = await node.pod({ logDirectory: join(node.dir, "logs") });
    const id = await node.running(pod, { logPath: "0.log" });
    const finished = await node.running(pod, { metadata: { name: "done", attempt: 0 } });
    node.shim(pod).exit(finished, { exitCode: 4 });
    await until(() => node.app.containers.get(finished)?.phase === "exited", "exited");
    writeFileSync(join(node.dir, "logs/0.log"), "kept");
    node.crash();
    node.runtime.reboot();
    inAnotherBoot(node);
    await node.open();
    expect((await podOf(pod))?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect(await containerOf(id)).toMatchObject({ exitCode: 255, reason: "Unknown", startedAt: 4_000n });
    expect(await containerOf(finished)).toMatchObject({ exitCode: 4, reason: "Error" });
    expect((await containerOf(id))?.logPath).toBe(join(node.dir, "logs/0.log"));
    await until(() => node.app.sandboxes.get(pod)?.phase === "stopped", "torn down");
    expect(node.network.detaches.at(-1)?.netnsPath).toBe("");
    expect(node.runtime.killed).toEqual([]); // numbers of processes of another boot mean nothing
    await remove(pod);
    expect(node.leftovers()).toEqual([]);
  });
});

/** The records were made in a boot that is over. */
function inAnotherBoot(on: FakeNode): void {
  for (const name of ["pods", "containers"]) {
    const texts = on.store.documents.get(name) ?? new Map<string, string>();
    for (const [key, text] of texts) texts.set(key, text.replaceAll(/"bootId":"[^"]*"/g, '"bootId":"before"'));
  }
  writeFileSync(join(on.dir, "state/instance.json"), "{}");
}

describe("a database that was lost", () => {
  it("is rebuilt from live helpers, and nothing is killed", async () => {
    const pod = await node.pod();
    const running = await node.running(pod);
    const created = await node.container(pod, { metadata: { name: "second", attempt: 0 } });
    const exited = await node.running(pod, { metadata: { name: "third", attempt: 0 } });
    node.shim(pod).exit(exited, { exitCode: 6 });
    await until(() => node.app.containers.get(exited)?.phase === "exited", "exited");
    const before = [await podOf(pod), await containerOf(running), await containerOf(created), await containerOf(exited)];
    node.crash();
    node.store.lose();
    await node.open();
    const after = [await podOf(pod), await containerOf(running), await containerOf(created), await containerOf(exited)];
    expect(after).toEqual(before);
    expect(node.runtime.signals).toEqual([]);
    await remove(pod);
    expect(node.leftovers()).toEqual([]);
  });

  it("is complemented when it was replaced by an older copy", async () => {
    const pod = await node.pod();
    const id = await node.container(pod);
    const copy = node.store.copy();
    await startContainer(node.app, ctx(), { containerId: id });
    const second = await node.pod({ metadata: { name: "second", namespace: "n", uid: "u" } });
    node.crash();
    node.store.restore(copy);
    await node.open();
    expect(await containerOf(id)).toMatchObject({ state: ContainerState.CONTAINER_RUNNING, startedAt: 4_000n });
    expect((await podOf(second))?.state).toBe(PodSandboxState.SANDBOX_READY);
  });

  it("does not bring back what had been removed since the older copy was made", async () => {
    const pod = await node.pod();
    const copy = node.store.copy();
    await remove(pod);
    node.crash();
    node.store.restore(copy);
    await node.open();
    expect((await podOf(pod))?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    await remove(pod);
    expect(node.leftovers()).toEqual([]);
  });

  it("keeps the installation's id, and with it the ownership of what lives", async () => {
    const id = node.app.instance.id;
    node.crash();
    node.store.lose();
    await node.open();
    expect(node.app.instance.id).toBe(id);
  });

  it("leaves a pod alone of which no record is left and whose containers run", async () => {
    const pod = await node.pod();
    await node.running(pod);
    node.crash();
    node.store.lose();
    writeFileSync(join(node.dir, "state/pods", pod, "record.json"), "{ truncated");
    await node.open();
    expect(node.shim(pod).alive).toBe(true);
    expect(node.logged.join()).toContain("left alone");
  });

  it("sweeps a pod's directory of which no record is left and in which nothing runs", async () => {
    const pod = await node.pod();
    node.crash();
    node.store.lose();
    writeFileSync(join(node.dir, "state/pods", pod, "record.json"), "{ truncated");
    await node.open();
    expect(node.runtime.shims.size).toBe(0);
  });
});

describe("ownership", () => {
  it("refuses a state directory of another installation", async () => {
    node.crash();
    writeFileSync(join(node.dir, "state/instance.json"), JSON.stringify({ id: "other", bootId: await bootId() }));
    expect(await failure(node.open())).toMatchObject({ code: "failed_precondition" });
  });

  it("leaves records of another installation alone", async () => {
    const pod = await node.pod();
    await node.running(pod);
    node.crash();
    for (const name of ["pods", "containers"]) {
      const texts = node.store.documents.get(name) ?? new Map<string, string>();
      for (const [key, text] of texts) texts.set(key, text.replaceAll(node_instance(text), "another"));
    }
    const mirror = join(node.dir, "state/pods", pod, "record.json");
    writeFileSync(mirror, JSON.stringify({ ...JSON.parse("{}"), instanceId: "another", config: "" }));
    await node.open();
    expect(node.app.sandboxes.all()).toEqual([]);
    expect(node.shim(pod).alive).toBe(true);
  });

  it("lets the network take back pods that nobody knows, and no others", async () => {
    const id = await node.pod();
    const [unknown, leftAlone] = ["e".repeat(64), "f".repeat(64)];
    for (const podId of [unknown, leftAlone]) node.network.attached.add(podId);
    mkdirSync(podDir(node.config, leftAlone), { recursive: true });
    node.runtime.unreachable = true; // nobody can tell whether containers run in it
    await node.restart();
    node.runtime.unreachable = false;
    expect([...node.network.attached].sort()).toEqual([id, leftAlone].sort());
  });

  it("sweeps writable layers that nobody owns, and only those", async () => {
    const pod = await node.pod();
    const id = await node.container(pod);
    const layers = join(node.dir, "root/containers");
    mkdirSync(join(layers, "e".repeat(64), "upper"), { recursive: true });
    mkdirSync(join(layers, "not-ours"), { recursive: true });
    await node.restart();
    const left = node.leftovers().filter((what) => what.startsWith("root/containers/") && what.split("/").length === 3);
    expect(left.sort()).toEqual([`root/containers/${id}`, "root/containers/not-ours"].sort());
  });

  it("refuses a change of the cgroup driver while pods live", async () => {
    await node.pod();
    node.crash();
    node.store.documents.get("settings")?.set("cgroup-driver", '"systemd"');
    const refused = await failure(node.open());
    expect(refused.code).toBe("failed_precondition");
    expect(refused.message).toContain("the cgroup driver was systemd and is now cgroupfs");
  });

  it("accepts a change of the cgroup driver on an empty node", async () => {
    await remove(await node.pod());
    node.crash();
    node.store.documents.get("settings")?.set("cgroup-driver", '"systemd"');
    await node.open();
    expect(node.store.documents.get("settings")?.get("cgroup-driver")).toBe('"cgroupfs"');
  });
});

const node_instance = (text: string): string => /"instanceId":"([^"]*)"/.exec(text)?.[1] ?? "";

async function bootId(): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

/** What a client does with a pod, from its start to its removal. */
async function wholeLife(): Promise<void> {
  const { podSandboxId } = await runPodSandbox(node.app, ctx(), runRequest());
  const { containerId } = await createContainer(node.app, ctx(), createRequest(podSandboxId));
  await startContainer(node.app, ctx(), { containerId });
  await execSync(node.app, ctx(), { containerId, cmd: ["id"], timeout: 1n });
  const limits = LinuxContainerResources.fromPartial({ cpuShares: 512n });
  const asked = { containerId, linux: limits, windows: undefined, annotations: {} };
  await updateContainerResources(node.app, ctx(), asked);
  await updatePodSandboxResources(node.app, ctx(), { podSandboxId, overhead: undefined, resources: limits });
  await stopContainer(node.app, ctx(), { containerId, timeout: 0n });
  await removeContainer(node.app, ctx(), { containerId });
  const second = await createContainer(node.app, ctx(), createRequest(podSandboxId));
  await startContainer(node.app, ctx(), second);
  await stopContainer(node.app, ctx(), { ...second, timeout: 5n });
  await stopPodSandbox(node.app, ctx(), { podSandboxId });
  await removePodSandbox(node.app, ctx(), { podSandboxId });
}

const coreSteps = allSteps.filter((name) => !name.startsWith("image.") && !name.startsWith("log."));

describe("a daemon that ends", () => {
  /**
   * In place of a real kill -9 (test/faults does that): the armed step never returns, the daemon is left there for ever, and
   * another one is started on what it had left.
   */
  const stopAt = async (name: StepName, when: "before" | "after"): Promise<void> => {
    const struck = armFault({ action: "pause", pauseMs: 2 ** 30, when, step: name });
    let over = false;
    const life = wholeLife()
      .catch(() => {})
      .finally(() => {
        over = true;
      });
    // Nothing waits for these: the life goes on beside them.
    const awaited = name !== "container.acknowledge-exit" && !(name === "container.shim-kill" && when === "after");
    await (awaited ? Promise.race([struck, life]) : Promise.all([struck, life]));
    let quiet = 0;
    let seen = "";
    // What else was under way has come to its end when neither records nor helpers change any more.
    while (!over && quiet < 15) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      const now = JSON.stringify([node.leftovers(), [...node.store.documents].map(([, texts]) => [...texts.values()])]);
      quiet = now === seen ? quiet + 1 : 0;
      seen = now;
    }
    expect(over, `whether ${name} was never reached`).toBe(!awaited);
  };

  it.each(coreSteps.flatMap((name) => [[name, "before" as const] as const, [name, "after" as const] as const]))(
    "around %s (%s) leaves a node on which the same life can be led again, and nothing else",
    async (name, when) => {
      await stopAt(name, when);
      await armFault(undefined);
      node.runtime.openRoots = 0; // descriptors end with the process
      await node.restart();
      for (const record of node.app.containers.all()) {
        expect(["created", "running", "exited", "removing"]).toContain(record.phase);
      }
      for (const record of node.app.sandboxes.all()) expect(record.phase).not.toBe("creating");
      for (const record of node.app.sandboxes.all()) await remove(record.id);
      expect(node.leftovers()).toEqual([]);
      await wholeLife();
      expect(node.leftovers()).toEqual([]);
    },
  );
});

describe("a step that fails", () => {
  // Without these nothing can end: a kill is tried for ever, and an exit that is not recorded has not happened.
  const endless: readonly StepName[] = ["container.acknowledge-exit", "container.shim-kill", "container.record-exited"];

  it.each(coreSteps.filter((name) => !endless.includes(name)))(
    "%s: the error is told and the next call finishes",
    async (name) => {
      void armFault({ action: "throw", pauseMs: 0, when: "before", step: name });
      await wholeLife().catch((error: unknown) => {
        expect(String(error)).toContain("fault injected");
      });
      await armFault(undefined);
      for (const record of node.app.sandboxes.all()) await remove(record.id);
      expect(node.leftovers()).toEqual([]);
      expect(await node.pod({ ...podConfig() })).toMatch(/^[0-9a-f]{64}$/);
    },
  );
});
