/** What NRI plugins may forbid and change beside the making of a container: resizes of pods, limits of others, evictions, what is there. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { memoryLimit } from "../helpers/cgroup-files.ts";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { network } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { NriNode, until } from "../helpers/nri-node.ts";
import { NriPlugin } from "../helpers/nri-plugin.ts";

let before: Inventory;
let nri: NriNode;

beforeAll(async () => {
  before = takeInventory();
  nri = await NriNode.start(["request_timeout_ms = 20000"]);
});
afterEach(() => nri.closePlugins());
afterAll(async () => {
  await nri[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

const mebibyte = 1 << 20;
const limitOf = (bytes: number) => ({ resources: { memory: { limit: { value: BigInt(bytes) } } } });
const resize = (podId: string, cpu_shares: number): Promise<Message> =>
  nri.node.client.runtime("UpdatePodSandboxResources", { pod_sandbox_id: podId, resources: { cpu_shares } });
async function sharesOf(podId: string): Promise<number> {
  const { info } = await nri.node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId, verbose: true });
  return JSON.parse(info.info).config.linux.resources?.cpu_shares ?? 0;
}
const phaseOf = async (id: string): Promise<string> =>
  (await nri.node.client.runtime("ContainerStatus", { container_id: id })).status.state;
const cgroupOf = async (id: string): Promise<string> => (await nri.spec(id)).linux.cgroupsPath;
/** It ends by the signal that comes before SIGKILL. */
const obedient = (): Message => ({ ...nri.sleeper(), command: ["/bin/sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"] });

it("asks plugins whether a pod may be resized, and tells them when it was", async () => {
  let veto: Error | object = {};
  const plugin = await nri.join("resizes", { UpdatePodSandbox: () => veto as Error });
  await nri.inPod(async (podId) => {
    await resize(podId, 600);
    const asked = (await plugin.saw("UpdatePodSandbox")) as { linuxResources?: { cpu?: { shares?: { value: bigint } } } };
    expect(asked.linuxResources?.cpu?.shares?.value).toBe(600n);
    // It is told with what the pod has by then.
    const told = await plugin.saw("PostUpdatePodSandbox");
    expect(told.pod?.linux?.podResources?.cpu?.shares?.value).toBe(600n);
    veto = new Error("no room for that");
    const { code, details } = await failure(resize(podId, 900));
    expect([code, details]).toEqual([
      grpcStatus.FAILED_PRECONDITION,
      "NRI plugin 10-resizes refuses UpdatePodSandbox: no room for that",
    ]);
    expect(await sharesOf(podId)).toBe(600);
    expect(plugin.methods().filter((method) => method === "PostUpdatePodSandbox")).toHaveLength(1);
    veto = {};
    await resize(podId, 900);
    expect(await sharesOf(podId)).toBe(900);
  });
});

it("takes a plugin of older make, which knows neither resizes nor validations, for one that has nothing to say", async () => {
  const unimplemented = (): Error => new Error("unimplemented");
  const methods = ["UpdatePodSandbox", "PostUpdatePodSandbox", "ValidateContainerAdjustment"];
  const handlers = Object.fromEntries(methods.map((method) => [method, unimplemented]));
  const old = await nri.join("old", handlers, "10", 0);
  await nri.inPod(async (podId, pod) => {
    await resize(podId, 600);
    expect(await sharesOf(podId)).toBe(600);
    const { pod: told, event } = (await old.saw("StateChange")) as unknown as { pod: { id: string }; event: number };
    expect([told.id, event]).toEqual([podId, 13]);
    await nri.node.run(podId, pod, nri.sleeper());
    expect(old.methods()).toEqual(expect.arrayContaining(methods));
    // One that says that it validates, and then cannot, has not agreed.
    await nri.join("judge", { ValidateContainerAdjustment: unimplemented }, "90", 1 << 13);
    expect(await nri.refused(podId, pod)).toContain("NRI plugin 90-judge refuses ValidateContainerAdjustment");
  });
});

it("changes other containers when one is made, changed or has ended, and none when that fails", async () => {
  const updates: Record<string, object[]> = {};
  const plugin = await nri.join("balances", {
    CreateContainer: () => ({ update: updates["create"] ?? [] }),
    UpdateContainer: () => ({ update: updates["update"] ?? [] }),
    StopContainer: () => ({ update: updates["stop"] ?? [] }),
  });
  await nri.inPod(async (podId, pod) => {
    const first = await nri.node.run(podId, pod, nri.sleeper());
    const path = await cgroupOf(first);
    updates["create"] = [{ containerId: first, linux: limitOf(100 * mebibyte) }];
    const second = await nri.node.run(podId, pod, nri.sleeper());
    expect(memoryLimit(path)).toBe(String(100 * mebibyte));
    // Of one that does not exist, but for those that may fail.
    const missing = "f".repeat(64);
    updates["create"] = [{ containerId: missing, linux: limitOf(90 * mebibyte), ignoreFailure: true }];
    await nri.node.run(podId, pod, nri.sleeper());
    updates["create"] = [{ containerId: missing, linux: limitOf(90 * mebibyte) }];
    expect(await nri.refused(podId, pod)).toContain(missing);
    updates["create"] = [];
    updates["update"] = [{ containerId: first, linux: limitOf(120 * mebibyte) }];
    await nri.node.client.runtime("UpdateContainerResources", { container_id: second, linux: { cpu_shares: 512 } });
    expect(memoryLimit(path)).toBe(String(120 * mebibyte));
    updates["update"] = [{ containerId: first, linux: { resources: { blockioClass: { value: "gold" } } } }];
    const refusedUpdate = { container_id: second, linux: { cpu_shares: 1024 } };
    expect((await failure(nri.node.client.runtime("UpdateContainerResources", refusedUpdate))).details).toContain(
      'blockio_class "gold", which an NRI plugin wants, cannot be had',
    );
    expect((await nri.spec(second)).linux.resources.cpu.shares).toBe(512);
    updates["update"] = [];
    updates["stop"] = [{ containerId: first, linux: limitOf(140 * mebibyte) }];
    await nri.node.client.runtime("StopContainer", { container_id: second, timeout: 0 });
    await plugin.saw("StopContainer", ({ container }) => container?.id === second);
    updates["stop"] = [];
    await until(() => memoryLimit(path) === String(140 * mebibyte));
    const fixed = { update: [{ containerId: first, linux: { resources: { rdtClass: { value: "gold" } } } }] };
    expect(await plugin.call("UpdateContainers", fixed)).toMatchObject({ failed: [{ containerId: first }] });
    expect(nri.node.daemon.log()).toContain(
      "rdt_class, which an NRI plugin wants changed, can be set only when a container is made",
    );
  });
});

it("ends containers that are evicted in the answer to a creation or an update", async () => {
  let evict: object[] = [];
  const plugin = await nri.join("evicts", { CreateContainer: () => ({ evict }), UpdateContainer: () => ({ evict }) });
  await nri.inPod(async (podId, pod) => {
    const victims = [await nri.node.run(podId, pod, obedient()), await nri.node.run(podId, pod, obedient())];
    evict = [{ containerId: victims[0], reason: "for another" }];
    const other = await nri.node.run(podId, pod, nri.sleeper());
    await plugin.saw("StopContainer", ({ container }) => container?.id === victims[0]);
    evict = [
      { containerId: victims[1], reason: "for a limit" },
      { containerId: "e".repeat(64), reason: "there is no such one" },
    ];
    await nri.node.client.runtime("UpdateContainerResources", { container_id: other, linux: { cpu_shares: 512 } });
    await plugin.saw("StopContainer", ({ container }) => container?.id === victims[1]);
    for (const id of victims) {
      const { status } = await nri.node.client.runtime("ContainerStatus", { container_id: id });
      expect([status.state, status.exit_code]).toEqual(["CONTAINER_EXITED", 7]);
    }
    expect(await phaseOf(other)).toBe("CONTAINER_RUNNING");
  });
});

it("lets a validator see the whole, and forbid or allow", async () => {
  let reject = false;
  await nri.join("wants", { CreateContainer: () => ({ adjust: { linux: { namespaces: [{ type: "ipc" }], cgroupsPath: "" } } }) });
  const judge = await nri.join(
    "judge",
    { ValidateContainerAdjustment: () => ({ reject, reason: "no namespaces" }) },
    "90",
    1 << 13,
  );
  await nri.inPod(async (podId, pod) => {
    await nri.node.run(podId, pod, nri.sleeper());
    const seen = (await judge.saw("ValidateContainerAdjustment")) as unknown as {
      adjust: { linux: { namespaces: { type: string }[] } };
      owners: { owners: Record<string, { compound: object }> };
      plugins: object[];
    };
    expect(seen.adjust.linux.namespaces).toEqual([{ type: "ipc", path: "" }]);
    expect(Object.values(seen.owners.owners)[0]?.compound).toEqual({ 33: { owners: { ipc: "10-wants" } } });
    expect(seen.plugins).toEqual([{ name: "wants", index: "10" }]);
    reject = true;
    expect(await nri.refused(podId, pod)).toContain(`${grpcStatus.PERMISSION_DENIED}: NRI plugin 90-judge rejects`);
  });
});

it("tells a plugin of what there is in as many messages as it takes, and changes what it then wants", async () => {
  // A frame holds 4 MiB.
  const note = "x".repeat(1500 * 1024);
  const pods = await Promise.all(
    Array.from({ length: 5 }, (_, at) => nri.node.runPod(nri.node.podConfig(`many${at}`, { annotations: { note } }))),
  );
  try {
    const pod = nri.node.podConfig("with-container");
    pods.push(await nri.node.runPod(pod));
    const id = await nri.node.run(pods.at(-1) ?? "", pod, nri.sleeper());
    const path = await cgroupOf(id);
    const wants = [{ containerId: id, linux: limitOf(64 * mebibyte) }];
    const plugin = await nri.join("late", {
      Synchronize: ({ more }) => ({ more: more === true, update: more === true ? [] : wants }),
    });
    const told = plugin.calls.filter(({ method }) => method === "Synchronize").map(({ request }) => request) as unknown as {
      pods: { id: string }[];
      containers: { id: string }[];
      more: boolean;
    }[];
    expect(told.map(({ more }) => more)).toEqual([true, true, false]);
    expect(told.flatMap((one) => one.pods.map((known) => known.id)).toSorted()).toEqual(pods.toSorted());
    expect(told.flatMap((one) => one.containers.map((known) => known.id))).toEqual([id]);
    await until(() => memoryLimit(path) === String(64 * mebibyte));
    // One that takes the first message for all of it knows nothing of the rest.
    const simple = await NriPlugin.connect(nri.socket, {
      name: "simple",
      index: "11",
      handlers: { Synchronize: () => ({ more: false }) },
    });
    await simple.closed;
    await until(() => nri.node.daemon.log().includes("it does not understand a synchronization in several messages"));
    await nri.inPod(async () => {});
  } finally {
    for (const podId of pods) await nri.node.removePod(podId);
  }
});

/** A network of nothing, whose plugin cannot take a pod out of it while there is the file that is returned. */
async function useFragileNetwork(): Promise<string> {
  const broken = join(nri.area, "broken");
  const result = { cniVersion: "1.0.0", interfaces: [{ name: "eth0", sandbox: "%s" }], ips: [{ address: "10.94.8.2/24" }] };
  const program = `case $CNI_COMMAND in ADD) printf '${JSON.stringify(result)}' "$CNI_NETNS";; DEL) test ! -e ${broken};; esac`;
  writeFileSync(join(nri.area, "cni/fragile"), `#!/bin/sh\n${program}\n`, { mode: 0o755 });
  const list = { cniVersion: "1.0.0", name: "fragile", plugins: [{ type: "fragile" }] };
  writeFileSync(join(nri.node.daemon.cniConf, "10-fragile.conflist"), JSON.stringify(list));
  await nri.node.networkReady();
  return broken;
}

it("tells of a pod's stop once, however often it is tried, and who connects then of the pod that is stopped", async () => {
  const broken = await useFragileNetwork();
  const stop = (podId: string): Promise<Message> => nri.node.client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
  const podsTold = async (plugin: NriPlugin): Promise<string[]> =>
    ((await plugin.saw("Synchronize")) as unknown as { pods: { id: string }[] }).pods.map(({ id }) => id);
  const early = await nri.join("early");
  const podId = await nri.node.runPod(
    nri.node.podConfig("stubborn", { linux: { security_context: { namespace_options: network.pod } } }),
  );
  try {
    writeFileSync(broken, "");
    for (let tries = 0; tries < 2; tries++) {
      expect((await failure(stop(podId))).details).toContain("CNI plugin fragile failed to DEL");
    }
    expect(await podsTold(await nri.join("between", {}, "11"))).toEqual([podId]);
    rmSync(broken);
    await stop(podId);
    expect(await podsTold(await nri.join("late", {}, "12"))).toEqual([podId]);
  } finally {
    rmSync(broken, { force: true });
    await nri.node.removePod(podId);
  }
  await early.saw("RemovePodSandbox", ({ pod }) => pod?.id === podId);
  const told = early.calls.filter(({ method, request }) => method.endsWith("PodSandbox") && request.pod?.id === podId);
  expect(told.map(({ method }) => method)).toEqual(["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
});
