import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createContainer } from "../../../src/cri/container-create.ts";
import { listPodSandbox } from "../../../src/cri/sandbox-list.ts";
import { removePodSandbox } from "../../../src/cri/sandbox-remove.ts";
import { runPodSandbox } from "../../../src/cri/sandbox-run.ts";
import { podSandboxStatus } from "../../../src/cri/sandbox-status.ts";
import { stopPodSandbox } from "../../../src/cri/sandbox-stop.ts";
import { ListPodSandboxRequest, NamespaceMode, PodSandboxState } from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { createRequest, ctx, defaultOptions, FakeNode, failure, podConfig, runRequest, until } from "./fake/fake-node.ts";

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
});
afterEach(() => node[Symbol.dispose]());

const list = async (filter: object = {}) =>
  (await listPodSandbox(node.app, ctx(), ListPodSandboxRequest.fromPartial({ filter }))).items;
const status = async (id: string, verbose = false) => await podSandboxStatus(node.app, ctx(), { podSandboxId: id, verbose });
const stop = (podSandboxId: string) => stopPodSandbox(node.app, ctx(), { podSandboxId });
const remove = (podSandboxId: string) => removePodSandbox(node.app, ctx(), { podSandboxId });

describe("RunPodSandbox", () => {
  it("gives a ready sandbox with its addresses, labels and annotations", async () => {
    const id = await node.pod();
    expect(id).toMatch(/^[0-9a-f]{64}$/);
    const { status: found } = await status(id);
    expect(found).toMatchObject({
      id,
      state: PodSandboxState.SANDBOX_READY,
      metadata: { name: "web", namespace: "default", uid: "u-1", attempt: 0 },
      network: { ip: "10.1.0.2", additionalIps: [{ ip: "fd00::2" }] },
      labels: { app: "web" },
      annotations: { note: "kept" },
    });
    expect(found?.createdAt).toBeGreaterThan(0n);
    expect(found?.linux?.namespaces?.options?.pid).toBe(NamespaceMode.CONTAINER);
  });

  it("has no addresses and no CNI with the node's network", async () => {
    const linux = { cgroupParent: "/p", securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
    const id = await node.pod({ linux });
    expect((await status(id)).status?.network?.ip).toBe("");
    await stop(id);
    expect(node.network.detaches).toEqual([]);
  });

  it("returns the finished sandbox to an equal retry", async () => {
    const id = await node.pod();
    expect(await node.pod()).toBe(id);
    expect(node.runtime.shims.size).toBe(1);
  });

  it("recognises an equal request whose maps come in another order", async () => {
    const id = await node.pod({ labels: { a: "1", b: "2" } });
    expect(await node.pod({ labels: { b: "2", a: "1" } })).toBe(id);
  });

  it("joins an equal request that is under way, and refuses an unequal one", async () => {
    const go = node.runtime.hold("startPod");
    const first = node.pod();
    const second = node.pod();
    const other = failure(node.pod({ hostname: "other" }));
    expect(await other).toMatchObject({ code: "already_exists" });
    go();
    expect(await first).toBe(await second);
    expect(node.runtime.shims.size).toBe(1);
  });

  it("refuses an unequal request for an existing name", async () => {
    await node.pod();
    expect(await failure(node.pod({ hostname: "other" }))).toMatchObject({ code: "already_exists" });
  });

  it("refuses a retry when its sandbox has been stopped", async () => {
    await stop(await node.pod());
    const refused = await failure(node.pod());
    expect(refused.code).toBe("already_exists");
    expect(refused.message).toContain("is not ready");
  });

  it("takes another attempt beside a stopped one", async () => {
    await stop(await node.pod());
    const second = await node.pod({ metadata: { name: "web", namespace: "default", uid: "u-1", attempt: 1 } });
    expect((await status(second)).status?.state).toBe(PodSandboxState.SANDBOX_READY);
  });

  it("goes on when its caller goes away, and gives the result to the retry", async () => {
    const go = node.runtime.hold("startPod");
    const caller = new AbortController();
    const first = failure(runPodSandbox(node.app, ctx(caller.signal), runRequest()));
    caller.abort(new RuntimeError("canceled", "caller gone"));
    expect(await first).toMatchObject({ code: "canceled" });
    const retry = node.pod();
    go();
    expect(await retry).toMatch(/^[0-9a-f]{64}$/);
  });

  it("does nothing for a caller that was gone before", async () => {
    const signal = AbortSignal.abort(new RuntimeError("canceled", "caller gone"));
    expect(await failure(runPodSandbox(node.app, ctx(signal), runRequest()))).toMatchObject({ code: "canceled" });
    await until(() => node.leftovers().length === 0, "nothing left");
  });

  it("is not visible while it is being made", async () => {
    const go = node.runtime.hold("startPod");
    const making = node.pod();
    await until(() => node.app.sandboxes.all().length === 1, "intent recorded");
    expect(await list()).toEqual([]);
    const id = node.app.sandboxes.all()[0]?.id ?? "";
    expect(await failure(status(id))).toMatchObject({ code: "not_found" });
    go();
    await making;
    expect(await list()).toHaveLength(1);
  });

  it.each(["startPod", "applySysctls"])("leaves nothing when %s fails, and the name is free", async (call) => {
    node.runtime.fail(call);
    expect((await failure(node.pod())).message).toContain(`${call} failed`);
    expect(node.leftovers()).toEqual([]);
    node.runtime.heal(call);
    await node.pod();
  });

  it("leaves nothing when the network cannot be attached", async () => {
    node.network.attachError = new RuntimeError("unavailable", "no network list");
    expect(await failure(node.pod())).toEqual({ code: "unavailable", message: "no network list" });
    expect(node.leftovers()).toEqual([]);
    expect(node.network.detaches).toHaveLength(1);
  });

  it("keeps a sandbox whose roll-back is stuck as NOTREADY under its name, with the reason, until the cause is gone", async () => {
    node.runtime.fail("applySysctls");
    node.network.detachError = new RuntimeError("internal", "plugin crashed");
    await failure(node.pod());
    const [half] = await list();
    expect(half?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    const verbose = JSON.parse((await status(half?.id ?? "", true)).info.info ?? "{}");
    expect(verbose.message).toContain("plugin crashed");
    expect(await failure(node.pod())).toMatchObject({ code: "already_exists" });
    expect(await failure(stop(half?.id ?? ""))).toMatchObject({ message: "plugin crashed" });
    node.network.detachError = undefined;
    await remove(half?.id ?? "");
    expect(node.leftovers()).toEqual([]);
  });

  it("is refused when the helper dies before it is ready", async () => {
    let resume = (): void => {};
    node.network.gate = new Promise((resolve) => {
      resume = resolve;
    });
    const making = failure(node.pod());
    await until(() => node.runtime.shims.size === 1, "helper started");
    for (const shim of node.runtime.shims.values()) shim.die();
    resume();
    expect((await making).code).toBe("unavailable");
    await until(() => node.leftovers().length === 0, "nothing left");
  });

  const long = "x".repeat(254);
  it.each([
    ["no config", { config: undefined }, "no sandbox config"],
    ["no metadata", { config: { ...podConfig(), metadata: undefined } }, "has no metadata"],
    ["no name", { config: podConfig({ metadata: { name: "", namespace: "n", uid: "u" } }) }, "metadata.name is missing"],
    [
      "no namespace",
      { config: podConfig({ metadata: { name: "a", namespace: "", uid: "u" } }) },
      "metadata.namespace is missing",
    ],
    ["no uid", { config: podConfig({ metadata: { name: "a", namespace: "n", uid: "" } }) }, "metadata.uid is missing"],
    ["over-long name", { config: podConfig({ metadata: { name: long, namespace: "n", uid: "u" } }) }, "longer than 253"],
    ["path as a name", { config: podConfig({ metadata: { name: "../x", namespace: "n", uid: "u" } }) }, "must not be a path"],
    ["newline in uid", { config: podConfig({ metadata: { name: "a", namespace: "n", uid: "u\nv" } }) }, "control characters"],
    ["systemd slice", { config: podConfig({ linux: { cgroupParent: "/kubepods.slice" } }) }, "cgroupDriver: cgroupfs"],
    ["relative log directory", { config: podConfig({ logDirectory: "logs" }) }, "not an absolute path"],
    ["over-long hostname", { config: podConfig({ hostname: "h".repeat(65) }) }, "longer than 64"],
    ["node sysctl", { config: podConfig({ linux: { sysctls: { "kernel.panic": "1" } } }) }, "not in a separate kernel namespace"],
    ["unknown handler", { runtimeHandler: "kata" }, 'runtime handler "kata" is not known'],
  ])("refuses a request with %s", async (_what, change, text) => {
    const refused = await failure(runPodSandbox(node.app, ctx(), { ...runRequest(), ...change }));
    expect(refused.code).toBe("invalid_argument");
    expect(refused.message).toContain(text);
    expect(node.leftovers()).toEqual([]);
  });

  it("refuses a pod with a user namespace where the kernel cannot stack id-mapped layers", async () => {
    node.facts = { userNamespaces: false };
    await node.restart();
    const ids = [{ hostId: 100_000, containerId: 0, length: 65_536 }];
    const usernsOptions = { mode: NamespaceMode.POD, uids: ids, gids: ids };
    const linux = { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions } } };
    const refused = await failure(runPodSandbox(node.app, ctx(), runRequest({ linux })));
    expect(refused).toMatchObject({ code: "failed_precondition", message: expect.stringContaining("need Linux 5.19") });
    expect(node.leftovers()).toEqual([]);
  });

  it("takes the handler's own options, and containers of a handler that is gone are refused", async () => {
    node.handlers.set("roomy", { ...defaultOptions, shmBytes: 1 << 20 });
    const { podSandboxId } = await runPodSandbox(node.app, ctx(), runRequest({}, "roomy"));
    expect(node.app.sandboxes.get(podSandboxId)?.translation.spec.shmBytes).toBe(1 << 20);
    node.handlers.delete("roomy");
    const refused = await failure(node.container(podSandboxId));
    expect(refused).toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("bring [runtimes.roomy] back"),
    });
    expect((await status(podSandboxId)).status?.runtimeHandler).toBe("roomy");
  });

  it("takes the default handler by its name", async () => {
    const { podSandboxId } = await runPodSandbox(node.app, ctx(), runRequest({}, "caisson"));
    expect((await status(podSandboxId)).status?.runtimeHandler).toBe("caisson");
  });
});

describe("StopPodSandbox", () => {
  it("kills the containers, tears the network down and keeps the sandbox as NOTREADY", async () => {
    const id = await node.pod();
    const container = await node.running(id);
    await stop(id);
    expect((await list())[0]?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect((await status(id)).status?.network?.ip).toBe("");
    expect(node.app.containers.get(container)).toMatchObject({ phase: "exited", exit: { exitCode: 137 } });
    expect(node.network.attached.size).toBe(0);
    expect(node.runtime.shims.size).toBe(0);
  });

  it("kills a container that was created and never started, which then has no start time", async () => {
    const id = await node.pod();
    const container = await node.container(id);
    await stop(id);
    expect(node.app.containers.get(container)).toMatchObject({ phase: "exited", startedAtNs: 0n });
  });

  it("is idempotent, for an unknown id too", async () => {
    const id = await node.pod();
    await stop(id);
    await stop(id);
    await stop("f".repeat(64));
    expect(node.network.detaches).toHaveLength(1);
  });

  it("refuses an empty id and an ambiguous prefix", async () => {
    expect(await failure(stop(""))).toMatchObject({ code: "invalid_argument" });
    await Promise.all(Array.from({ length: 17 }, (_, i) => node.pod({ metadata: { name: `p${i}`, namespace: "n", uid: "u" } })));
    const ids = node.app.sandboxes.all().map((record) => record.id[0] ?? "");
    const shared = ids.find((first, i) => ids.indexOf(first) !== i) ?? "";
    expect((await failure(stop(shared))).message).toContain("ambiguous");
  });

  it("lets a CNI DEL that is under way come to its end when the daemon stops: half of one cannot be repeated", async () => {
    const pod = await node.pod();
    const { promise, resolve } = Promise.withResolvers<void>();
    node.network.detachGate = promise;
    const stopped = stop(pod);
    await until(() => node.network.detachSignal !== undefined, "detaching");
    const closed = node.cri?.close();
    expect(node.network.detachSignal?.aborted).toBe(false);
    resolve();
    await closed;
    await stopped.catch(() => {});
    expect(node.network.attached.size).toBe(0);
    await node.open();
    expect((await status(pod)).status?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
  });

  it("returns the error of a failed CNI DEL, stays NOTREADY with the reason and tries again at each call", async () => {
    const id = await node.pod();
    node.network.detachError = new RuntimeError("internal", "DEL failed");
    expect(await failure(stop(id))).toEqual({ code: "internal", message: "DEL failed" });
    expect(await failure(stop(id))).toEqual({ code: "internal", message: "DEL failed" });
    expect(node.network.detaches.length).toBeGreaterThanOrEqual(2);
    expect(node.app.sandboxes.get(id)).toMatchObject({ phase: "stopping", reason: "NetworkTeardownFailed" });
    expect(node.runtime.shims.size).toBe(1); // its namespace is still needed
    node.network.detachError = undefined;
    await stop(id);
    expect(node.app.sandboxes.get(id)?.phase).toBe("stopped");
  });

  it("tries a failed teardown again by itself", async () => {
    const id = await node.pod();
    node.network.detachError = new RuntimeError("internal", "DEL failed");
    await failure(stop(id));
    node.network.detachError = undefined;
    await until(() => node.app.sandboxes.get(id)?.phase === "stopped", "stopped by itself");
  });

  it("calls DEL without a namespace path when the namespace is gone", async () => {
    const id = await node.pod();
    node.runtime.wipe(node.shim(id).spec);
    await stop(id);
    expect(node.network.detaches.at(-1)?.netnsPath).toBe("");
  });

  it("sees a container whose creation is under way", async () => {
    const id = await node.pod();
    const go = node.runtime.hold("create");
    const making = createContainer(node.app, ctx(), createRequest(id)).catch(() => {});
    await until(() => node.runtime.calls.includes("create"), "create under way");
    const stopping = stop(id);
    go();
    await Promise.all([making, stopping]);
    expect(node.app.containers.all().every((record) => record.phase === "exited")).toBe(true);
    await remove(id);
    expect(node.leftovers()).toEqual([]);
  });

  it("goes on when its caller goes away", async () => {
    const id = await node.pod();
    await node.running(id);
    const go = node.runtime.hold("destroy");
    const caller = new AbortController();
    const first = failure(stopPodSandbox(node.app, ctx(caller.signal), { podSandboxId: id }));
    caller.abort(new RuntimeError("deadline_exceeded", "too slow"));
    expect(await first).toMatchObject({ code: "deadline_exceeded" });
    go();
    await until(() => node.app.sandboxes.get(id)?.phase === "stopped", "stopped");
  });
});

describe("RemovePodSandbox", () => {
  it("stops by force, removes containers and leaves nothing", async () => {
    const id = await node.pod();
    await node.running(id);
    await node.container(id, { metadata: { name: "second", attempt: 0 } });
    await remove(id);
    expect(node.leftovers()).toEqual([]);
    expect(await list()).toEqual([]);
    expect(await failure(status(id))).toMatchObject({ code: "not_found" });
    expect(node.store.events.map((event) => event.kind)).toContain("deleted");
  });

  it("is idempotent, for an unknown id too", async () => {
    const id = await node.pod();
    await Promise.all([remove(id), remove(id)]);
    await remove(id);
    await remove("f".repeat(64));
  });

  it("fails and keeps the sandbox while its network cannot be torn down", async () => {
    const id = await node.pod();
    node.network.detachError = new RuntimeError("internal", "DEL failed");
    expect(await failure(remove(id))).toMatchObject({ message: "DEL failed" });
    expect(await list()).toHaveLength(1);
  });

  it("frees everything when the store cannot be written", async () => {
    const id = await node.pod();
    await node.running(id);
    node.store.full = true;
    await remove(id);
    expect(node.leftovers()).toEqual([]);
  });
});

describe("the pod's cgroup", () => {
  it("stays when it was there before, as the kubelet's is", async () => {
    node.runtime.cgroups.add("/kubepods/pod-u1");
    const id = await node.pod();
    await node.running(id);
    await remove(id);
    expect([...node.runtime.cgroups]).toEqual(["/kubepods/pod-u1"]);
  });

  it("goes with the pod when we made it, but not from under another pod", async () => {
    const a = await node.pod();
    await node.running(a);
    const b = await node.pod({ metadata: { name: "b", namespace: "n", uid: "u" } });
    const container = await node.running(b);
    await remove(a);
    expect([...node.runtime.cgroups]).toEqual(["/kubepods/pod-u1", `/kubepods/pod-u1/${container}`]);
  });

  it("is one of ours when none was asked for, and goes too", async () => {
    const id = await node.pod({ linux: { cgroupParent: "" } });
    await node.running(id);
    expect([...node.runtime.cgroups]).toContain(`/caisson/pods/${id}`);
    await remove(id);
    expect(node.leftovers()).toEqual([]);
  });
});

describe("ListPodSandbox", () => {
  it("filters by id prefix, state and labels, all together", async () => {
    const a = await node.pod();
    const b = await node.pod({ metadata: { name: "b", namespace: "n", uid: "u" }, labels: { app: "b", tier: "x" } });
    await stop(b);
    const ids = async (filter: object) => (await list(filter)).map((item) => item.id).sort();
    expect(await ids({})).toEqual([a, b].sort());
    expect(await ids({ id: a.slice(0, 12) })).toEqual([a]);
    expect(await ids({ id: "not-there" })).toEqual([]);
    expect(await ids({ state: { state: PodSandboxState.SANDBOX_READY } })).toEqual([a]);
    expect(await ids({ state: { state: PodSandboxState.SANDBOX_NOTREADY } })).toEqual([b]);
    expect(await ids({ labelSelector: { app: "b", tier: "x" } })).toEqual([b]);
    expect(await ids({ labelSelector: { app: "b", tier: "y" } })).toEqual([]);
    expect(await ids({ id: a, labelSelector: { app: "b" } })).toEqual([]);
    expect(await ids({ labelSelector: { constructor: "x" } })).toEqual([]);
  });
});

describe("verbose PodSandboxStatus", () => {
  it("has the names under which agents look", async () => {
    const id = await node.pod();
    await node.running(id);
    const info = JSON.parse((await status(id, true)).info.info ?? "{}");
    expect(info.pid).toBeGreaterThan(0);
    expect(info.processStatus).toBe("running");
    expect(info.netNamespaceClosed).toBe(false);
    expect(info.runtimeSpec.linux.namespaces).toContainEqual({ type: "network", path: `${node.dir}/netns/caisson-${id}` });
    expect(info.cniResult.Interfaces.eth0.IPConfigs[0].IP).toBe("10.1.0.2");
    expect(info.config.linux.security_context.namespace_options.pid).toBe(1);
    expect(info.config.annotations).toEqual({ note: "kept" });
    expect(info.sandboxMetadata.NetNSPath).toContain("/netns/");
    expect((await status(id)).info).toEqual({});
  });
});

describe("a helper that dies", () => {
  it("ends its pod: containers killed and EXITED 255 Unknown, sandbox NOTREADY, network torn down", async () => {
    const id = await node.pod();
    const container = await node.running(id);
    node.shim(id).die();
    await until(() => node.app.sandboxes.get(id)?.phase === "stopped", "torn down");
    expect(node.runtime.killed).toContain(`/kubepods/pod-u1/${container}`);
    expect(node.app.containers.get(container)).toMatchObject({ phase: "exited", exit: { exitCode: 255, reason: "Unknown" } });
    expect(node.app.sandboxes.get(id)).toMatchObject({ reason: "HelperDied" });
    expect(node.network.attached.size).toBe(0);
  });

  it("lets an exit that was written down before count", async () => {
    const id = await node.pod();
    const container = await node.running(id);
    node.runtime.exitRecords.set(container, {
      containerId: container,
      exitCode: 3,
      signal: 0,
      known: true,
      oomKilled: false,
      finishedAtNs: 77n,
      startedAtNs: 66n,
      logDroppedBytes: 0n,
    });
    node.shim(id).die();
    await until(() => node.app.containers.get(container)?.phase === "exited", "exited");
    expect(node.app.containers.get(container)).toMatchObject({ exit: { exitCode: 3, reason: "Error", finishedAtNs: 77n } });
  });
});
