import { existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CriApp } from "../../../src/cri/app-types.ts";
import { createContainer } from "../../../src/cri/container-create.ts";
import { listContainers } from "../../../src/cri/container-list.ts";
import { removeContainer } from "../../../src/cri/container-remove.ts";
import { startContainer } from "../../../src/cri/container-start.ts";
import { containerStatus } from "../../../src/cri/container-status.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { execSync } from "../../../src/cri/exec-sync.ts";
import { makeLogDirectory } from "../../../src/cri/log-path.ts";
import { reopenContainerLog } from "../../../src/cri/log-reopen.ts";
import { stopPodSandbox } from "../../../src/cri/sandbox-stop.ts";
import { ContainerState, ListContainersRequest, NamespaceMode, Signal } from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { containerConfig, createRequest, ctx, FakeNode, failure, translateForTest, until } from "./fake/fake-node.ts";
import { busybox } from "./fake/fake-services.ts";

let node: FakeNode;
let pod: string;
beforeEach(async () => {
  node = new FakeNode();
  node.runtime.cgroups.add("/kubepods/pod-u1"); // made by the kubelet
  await node.open();
  pod = await node.pod();
});
afterEach(() => node[Symbol.dispose]());

const nowhere = "f".repeat(64);
const status = async (containerId: string) => (await containerStatus(node.app, ctx(), { containerId, verbose: false })).status;
const start = (containerId: string) => startContainer(node.app, ctx(), { containerId });
const stop = (containerId: string, timeout = 0n) => stopContainer(node.app, ctx(), { containerId, timeout });
const remove = (containerId: string) => removeContainer(node.app, ctx(), { containerId });
const exec = (containerId: string, cmd = ["id"], timeout = 0n) => execSync(node.app, ctx(), { containerId, cmd, timeout });

describe("CreateContainer", () => {
  it("gives a created container that shows what was asked", async () => {
    const id = await node.container(pod, { stopSignal: Signal.SIGNAL_SIGTERM });
    expect(await status(id)).toMatchObject({
      id,
      state: ContainerState.CONTAINER_CREATED,
      metadata: { name: "main", attempt: 0 },
      startedAt: 0n,
      finishedAt: 0n,
      exitCode: 0,
      reason: "",
      image: { image: "docker.io/library/busybox:latest" },
      imageRef: busybox.repoDigests[0],
      imageId: busybox.id,
      labels: { part: "main" },
      annotations: { hash: "abc" },
      user: { linux: { uid: 7n, gid: 8n, supplementalGroups: [8n] } },
      stopSignal: Signal.SIGNAL_SIGTERM,
    });
    expect(node.images.holds.get(id)).toEqual([busybox.id]);
    expect(node.runtime.openRoots).toBe(0);
  });

  it("writes the bundle beside the helper, readable for root alone", async () => {
    const id = await node.container(pod);
    const bundle = join(node.dir, "state/pods", pod, "containers", id);
    expect(JSON.parse(readFileSync(join(bundle, "config.json"), "utf8")).process.args).toEqual(["sleep", "1"]);
    expect(existsSync(join(bundle, "record.json"))).toBe(true);
  });

  it("returns the container to an equal retry, refuses an unequal one, and takes another attempt", async () => {
    const id = await node.container(pod);
    expect(await node.container(pod)).toBe(id);
    expect(await failure(node.container(pod, { command: ["other"] }))).toMatchObject({ code: "already_exists" });
    expect(await node.container(pod, { metadata: { name: "main", attempt: 1 } })).not.toBe(id);
  });

  it("gives one container to two clients that create it at once", async () => {
    const [a, b] = await Promise.all([node.container(pod), node.container(pod)]);
    expect(a).toBe(b);
    expect(node.shim(pod).containers.size).toBe(1);
  });

  it("keeps names apart between pods", async () => {
    const other = await node.pod({ metadata: { name: "other", namespace: "n", uid: "u" } });
    expect(await node.container(other)).not.toBe(await node.container(pod));
  });

  it.each(["openRootfs", "create", "created"])("leaves nothing when %s fails, and the name is free", async (call) => {
    const before = node.leftovers();
    node.runtime.fail(call);
    await failure(node.container(pod));
    expect(node.leftovers()).toEqual(before);
    expect(node.app.containers.all()).toEqual([]);
    node.runtime.heal(call);
    await node.container(pod);
  });

  it("leaves nothing when the translation refuses", async () => {
    const before = node.leftovers();
    node.translateContainer = async () => {
      throw new RuntimeError("invalid_argument", 'user "nobody2" is not in the image');
    };
    expect(await failure(node.container(pod))).toMatchObject({ code: "invalid_argument" });
    expect(node.leftovers()).toEqual(before);
  });

  it("keeps a container whose roll-back is stuck as EXITED under its name, for RemoveContainer", async () => {
    node.runtime.fail("created");
    node.runtime.fail("remove", new RuntimeError("internal", "cgroup is busy"));
    await failure(node.container(pod));
    const [half] = node.app.containers.all();
    const id = half?.id ?? "";
    expect(await status(id)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, reason: "StartError", startedAt: 0n });
    expect((await status(id))?.message).toContain("cgroup is busy");
    expect(await failure(node.container(pod))).toMatchObject({ code: "already_exists" });
    expect(await failure(remove(id))).toMatchObject({ message: "cgroup is busy" });
    node.runtime.heal("created");
    node.runtime.heal("remove");
    await remove(id);
    expect(node.app.containers.all()).toEqual([]);
  });

  describe("with images as mounts", () => {
    const tools = { ...busybox, id: `sha256:${"e".repeat(64)}`, layerDirs: ["/layers/9"] };
    const image = (name: string, containerPath = "/t") => ({ containerPath, readonly: true, image: { image: name } });
    beforeEach(() => {
      node.images.images.set("tools", tools);
      node.translateContainer = async (input) => ({
        ...(await translateForTest(input)),
        images: input.config.mounts.map(({ containerPath, image, imageSubPath }) => ({
          destination: containerPath,
          layerDirs: input.mountedImages.get(image?.image ?? "")?.layerDirs ?? [],
          path: imageSubPath,
        })),
      });
    });

    it("holds them until it is removed, also across a restart", async () => {
      const id = await node.container(pod, { mounts: [image("tools"), image(tools.id, "/u")] });
      expect(node.images.holds.get(id)).toEqual([busybox.id, tools.id]);
      expect(node.runtime.openRoots).toBe(0);
      node.images.holds.clear();
      await node.restart();
      expect(node.images.holds.get(id)).toEqual([busybox.id, tools.id]);
      await remove(id);
      expect(node.images.holds.size).toBe(0);
    });

    it("refuses one that is not on the node, before anything is recorded", async () => {
      const before = node.leftovers();
      const { code, message } = await failure(node.container(pod, { mounts: [image("other")] }));
      expect(code).toBe("not_found");
      expect(message).toBe('ImageVolumeMountFailed: image "other" of the mount at /t is not on this node; pull it first');
      expect(node.leftovers()).toEqual(before);
      expect(node.images.pulls).toEqual([]);
    });

    it("leaves nothing when a part of an image is not there", async () => {
      const before = node.leftovers();
      const mounts = [image("tools"), { ...image("tools", "/u"), imageSubPath: "missing" }];
      const { code, message } = await failure(node.container(pod, { mounts }));
      expect(code).toBe("invalid_argument");
      expect(message).toBe('ImageVolumeMountFailed: image mount at /u: "missing" does not exist in the image');
      expect(node.leftovers()).toEqual(before);
      expect(node.runtime.openRoots).toBe(0);
    });

    it("notices an image that is removed before it is held", async () => {
      const add = node.app.containers.add.bind(node.app.containers);
      node.app.containers.add = (record) => {
        node.images.images.delete("tools");
        return add(record);
      };
      expect(await failure(node.container(pod, { mounts: [image("tools")] }))).toMatchObject({ code: "not_found" });
      expect(node.app.containers.all()).toEqual([]);
    });
  });

  const refuse = async (change: object, podId = pod) =>
    await failure(createContainer(node.app, ctx(), { ...createRequest(podId), ...change }));

  it.each([
    ["no container config", { config: undefined }, "no container config"],
    ["no container metadata", { config: { ...containerConfig(), metadata: undefined } }, "has no metadata"],
    ["no container name", { config: containerConfig({ metadata: { name: "", attempt: 0 } }) }, "name is missing"],
    ["over-long name", { config: containerConfig({ metadata: { name: "x".repeat(254), attempt: 0 } }) }, "longer than 253"],
    ["path as a name", { config: containerConfig({ metadata: { name: "../x", attempt: 0 } }) }, "must not be a path"],
    ["no image", { config: { ...containerConfig(), image: undefined } }, "names no image"],
    ["empty image", { config: containerConfig({ image: { image: "" } }) }, "names no image"],
    ["no sandbox config", { sandboxConfig: undefined }, "sandbox config has no metadata"],
    ["empty sandbox id", { podSandboxId: "" }, "id is empty"],
  ])("refuses a request with %s", async (_what, change, text) => {
    const refused = await refuse(change);
    expect(refused.code).toBe("invalid_argument");
    expect(refused.message).toContain(text);
  });

  it("refuses an unknown sandbox and an image that was not pulled", async () => {
    expect(await refuse({}, nowhere)).toMatchObject({ code: "not_found" });
    const absent = await refuse({ config: containerConfig({ image: { image: "absent" } }) });
    expect(absent).toMatchObject({ code: "not_found" });
    expect(absent.message).toContain("pull it first");
  });

  it("refuses a log path that leaves the log directory", async () => {
    const other = await node.pod({ metadata: { name: "l", namespace: "n", uid: "u" }, logDirectory: join(node.dir, "logs") });
    const refused = await failure(node.container(other, { logPath: "../../etc/cron.d/x" }));
    expect(refused).toMatchObject({ code: "invalid_argument" });
    const id = await node.container(other, { logPath: "main/0.log" });
    expect((await status(id))?.logPath).toBe(join(node.dir, "logs/main/0.log"));
    expect(existsSync(join(node.dir, "logs/main"))).toBe(true);
  });

  it("follows a link on the way to the log only where the node's root made it", async () => {
    mkdirSync(join(node.dir, "elsewhere"));
    symlinkSync(join(node.dir, "elsewhere"), join(node.dir, "log-link"));
    const { lstat, makeDirectory } = node.app.logHost;
    const made: string[] = [];
    const by = (uid: number): CriApp["logHost"] => ({
      makeDirectory: async (path) => {
        made.push(path);
        await makeDirectory(path);
      },
      lstat: async (path) => {
        const found = await lstat(path);
        return found?.kind === "symlink" ? { ...found, uid } : found;
      },
    });
    const directory = join(node.dir, "log-link/pod");
    const refused = await failure(makeLogDirectory(join(directory, "main/0.log"), by(1000)));
    expect(refused).toMatchObject({ code: "failed_precondition" });
    expect(refused.message).toContain("log-link is a link that user 1000 made");
    expect(made).toEqual([]);
    await makeLogDirectory(join(directory, "main/0.log"), by(0));
    expect(existsSync(join(node.dir, "elsewhere/pod/main"))).toBe(true);
  });

  it("refuses a stopped sandbox", async () => {
    await stopPodSandbox(node.app, ctx(), { podSandboxId: pod });
    expect(await refuse({})).toMatchObject({ code: "failed_precondition" });
  });

  const target = (targetId: string) => ({
    metadata: { name: "debug", attempt: 0 },
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET, targetId } } },
  });

  it("joins the PID namespace of a running container of the same pod only", async () => {
    expect(await failure(node.container(pod, target(nowhere)))).toMatchObject({ code: "invalid_argument" });
    const created = await node.container(pod);
    expect(await failure(node.container(pod, target(created)))).toMatchObject({ code: "failed_precondition" });
    await start(created);
    const debug = await node.container(pod, target(created));
    node.shim(pod).exit(created);
    await until(() => node.app.containers.get(created)?.phase === "exited", "target gone");
    expect(await failure(start(debug))).toMatchObject({ code: "failed_precondition" });
  });

  it("goes on when its caller goes away", async () => {
    const go = node.runtime.hold("create");
    const caller = new AbortController();
    const first = failure(createContainer(node.app, ctx(caller.signal), createRequest(pod)));
    await until(() => node.runtime.calls.includes("create"), "under way");
    caller.abort(new RuntimeError("canceled", "gone"));
    expect(await first).toMatchObject({ code: "canceled" });
    go();
    expect(await node.container(pod)).toMatch(/^[0-9a-f]{64}$/);
    expect(node.shim(pod).containers.size).toBe(1);
  });
});

describe("StartContainer", () => {
  it("runs it, with the start time that the helper saw", async () => {
    const id = await node.running(pod);
    expect(await status(id)).toMatchObject({ state: ContainerState.CONTAINER_RUNNING, startedAt: 4_000n, finishedAt: 0n });
  });

  it("refuses anything but a created container", async () => {
    const id = await node.running(pod);
    expect(await failure(start(id))).toMatchObject({ code: "failed_precondition" });
    await stop(id);
    expect(await failure(start(id))).toMatchObject({ code: "failed_precondition" });
    expect(await failure(start(nowhere))).toMatchObject({ code: "not_found" });
    expect(await failure(start(""))).toMatchObject({ code: "invalid_argument" });
  });

  it("leaves it EXITED 128 StartError with the reason when its program cannot be executed", async () => {
    const id = await node.container(pod);
    node.runtime.fail("start", new RuntimeError("invalid_argument", '"nope": no such file or directory'));
    const refused = await failure(start(id));
    expect(refused).toEqual({
      code: "invalid_argument",
      message: 'container main could not be started: "nope": no such file or directory',
    });
    expect(await status(id)).toMatchObject({
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 128,
      reason: "StartError",
      startedAt: 0n,
      message: refused.message,
    });
    expect((await status(id))?.finishedAt).toBeGreaterThan(0n);
  });

  it("takes an exit that comes at once after the start", async () => {
    const id = await node.container(pod);
    const go = node.runtime.hold("start");
    const starting = start(id);
    await until(() => node.runtime.calls.includes("start"), "under way");
    go();
    await starting;
    node.shim(pod).exit(id, { exitCode: 3 });
    await until(() => node.app.containers.get(id)?.phase === "exited", "exited");
    expect(await status(id)).toMatchObject({ exitCode: 3, reason: "Error", startedAt: 4_000n, finishedAt: 5_000n });
    expect(node.shim(pod).containers.get(id)?.acknowledged).toBe(true);
  });
});

describe("a parked init that dies", () => {
  it("is EXITED without a start time", async () => {
    const id = await node.container(pod);
    node.shim(pod).exit(id, { exitCode: 137, signal: 9 });
    await until(() => node.app.containers.get(id)?.phase === "exited", "exited");
    expect(await status(id)).toMatchObject({ startedAt: 0n, exitCode: 137, reason: "Error" });
  });
});

describe("StopContainer", () => {
  it("sends the stop signal to init and is done when it has exited", async () => {
    const id = await node.running(pod);
    await stop(id, 30n);
    expect(node.runtime.signals).toEqual([{ id, signal: 15, scope: "init" }]);
    expect(await status(id)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 143, reason: "Error" });
  });

  it("kills the whole cgroup at once with a timeout of 0", async () => {
    const id = await node.running(pod);
    await stop(id, 0n);
    expect(node.runtime.signals).toEqual([{ id, signal: 9, scope: "all" }]);
    expect(await status(id)).toMatchObject({ exitCode: 137 });
  });

  it("kills after the grace when the stop signal is ignored", async () => {
    node.runtime.dieOnSignal = false;
    const id = await node.running(pod);
    const begun = performance.now();
    await stop(id, 1n);
    expect(performance.now() - begun).toBeGreaterThan(950);
    expect(node.runtime.signals.map((sent) => sent.signal)).toEqual([15, 9]);
  });

  it("sends the stop signal once; a later call only brings the kill forward", async () => {
    node.runtime.dieOnSignal = false;
    const id = await node.running(pod);
    const first = stop(id, 600n);
    await until(() => node.runtime.signals.length === 1, "signalled");
    const second = stop(id, 1200n);
    await until(() => node.app.stops.underWay(id), "under way");
    const third = stop(id, 0n);
    await Promise.all([first, second, third]);
    expect(node.runtime.signals.map((sent) => sent.signal)).toEqual([15, 9]);
  });

  it("kills again when the first kill had no effect", async () => {
    node.runtime.dieOnKill = false;
    const id = await node.running(pod);
    const stopping = stop(id, 0n);
    await until(() => node.runtime.signals.length === 1, "first kill");
    node.runtime.dieOnKill = true;
    await stopping;
    expect(node.runtime.signals.length).toBe(2);
  });

  it("goes on to the kill when its caller goes away", async () => {
    node.runtime.dieOnSignal = false;
    const id = await node.running(pod);
    const caller = new AbortController();
    const first = failure(stopContainer(node.app, ctx(caller.signal), { containerId: id, timeout: 1n }));
    await until(() => node.runtime.signals.length === 1, "signalled");
    caller.abort(new RuntimeError("deadline_exceeded", "gone"));
    expect(await first).toMatchObject({ code: "deadline_exceeded" });
    await until(() => node.app.containers.get(id)?.phase === "exited", "killed");
  });

  it("is success for unknown, created and exited containers, and refuses a negative timeout", async () => {
    await stop(nowhere);
    const id = await node.container(pod);
    await stop(id);
    expect((await status(id))?.state).toBe(ContainerState.CONTAINER_CREATED);
    await start(id);
    await stop(id);
    await stop(id);
    expect(await failure(stop(id, -1n))).toMatchObject({ code: "invalid_argument" });
    expect(await failure(stop(""))).toMatchObject({ code: "invalid_argument" });
  });
});

describe("RemoveContainer", () => {
  it.each(["created", "running", "exited"])("removes a %s container and everything of it", async (phase) => {
    const before = node.leftovers();
    const id = phase === "created" ? await node.container(pod) : await node.running(pod);
    if (phase === "exited") await stop(id);
    await remove(id);
    const left = node.leftovers().filter((what) => what !== `state/pods/${pod}/containers`);
    expect(left).toEqual(before);
    expect(await failure(status(id))).toMatchObject({ code: "not_found" });
    expect(node.store.timeline(id).at(-1)?.kind).toBe("deleted");
  });

  it("is idempotent, also at once and for an unknown id", async () => {
    const id = await node.running(pod);
    await Promise.all([remove(id), remove(id)]);
    await remove(id);
    await remove(nowhere);
  });

  it("can be repeated after a failure half-way", async () => {
    const id = await node.running(pod);
    node.images.releaseError = new RuntimeError("internal", "layers are busy");
    expect(await failure(remove(id))).toMatchObject({ message: "layers are busy" });
    node.images.releaseError = undefined;
    await remove(id);
    expect(node.app.containers.all()).toEqual([]);
  });

  it("works after its pod has been stopped", async () => {
    const id = await node.running(pod);
    await stopPodSandbox(node.app, ctx(), { podSandboxId: pod });
    await remove(id);
    expect(node.images.holds.size).toBe(0);
  });

  it("frees the name", async () => {
    const id = await node.running(pod);
    await remove(id);
    expect(await node.container(pod)).not.toBe(id);
  });
});

describe("ExecSync", () => {
  it("returns output and exit code; a non-zero code is a success", async () => {
    const id = await node.running(pod);
    node.runtime.execResult = { stdout: Buffer.from("a"), stderr: Buffer.from("b"), exitCode: 3, timedOut: false };
    expect(await exec(id, ["sh", "-c", "exit 3"], 5n)).toMatchObject({ exitCode: 3, stdout: Buffer.from("a") });
    expect(node.runtime.execs[0]).toMatchObject({ timeoutMs: 5000, args: ["sh", "-c", "exit 3"] });
    expect(node.runtime.execs[0]?.maxOutputBytes).toBeLessThan(16 << 20);
  });

  it("answers DEADLINE_EXCEEDED when the command timed out", async () => {
    const id = await node.running(pod);
    node.runtime.execResult = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), exitCode: 137, timedOut: true };
    expect(await failure(exec(id, ["sleep", "9"], 1n))).toEqual({
      code: "deadline_exceeded",
      message: 'command "sleep" timed out after 1 s',
    });
  });

  it("refuses containers that do not run, and bad requests", async () => {
    const id = await node.container(pod);
    expect(await failure(exec(id))).toMatchObject({ code: "failed_precondition" });
    expect(await failure(exec(nowhere))).toMatchObject({ code: "not_found" });
    await start(id);
    expect(await failure(exec(id, []))).toMatchObject({ code: "invalid_argument" });
    expect(await failure(exec(id, ["id"], -1n))).toMatchObject({ code: "invalid_argument" });
  });
});

describe("ReopenContainerLog", () => {
  it("is for running containers only", async () => {
    const id = await node.container(pod);
    const reopen = () => reopenContainerLog(node.app, ctx(), { containerId: id });
    expect(await failure(reopen())).toMatchObject({ code: "failed_precondition" });
    await start(id);
    await reopen();
    await stop(id);
    expect(await failure(reopen())).toMatchObject({ code: "failed_precondition" });
    expect(node.runtime.calls.filter((call) => call === "reopenLog")).toHaveLength(1);
  });
});

describe("ListContainers", () => {
  it("filters by id, state, pod and labels, all together", async () => {
    const other = await node.pod({ metadata: { name: "other", namespace: "n", uid: "u" } });
    const a = await node.running(pod);
    const b = await node.container(other, { labels: { part: "b" } });
    const ids = async (filter: object) => {
      const reply = await listContainers(node.app, ctx(), ListContainersRequest.fromPartial({ filter }));
      return reply.containers.map((item) => item.id).sort();
    };
    expect(await ids({})).toEqual([a, b].sort());
    expect(await ids({ id: a.slice(0, 13) })).toEqual([a]);
    expect(await ids({ id: "zz" })).toEqual([]);
    expect(await ids({ podSandboxId: other.slice(0, 13) })).toEqual([b]);
    expect(await ids({ podSandboxId: nowhere })).toEqual([]);
    expect(await ids({ state: { state: ContainerState.CONTAINER_CREATED } })).toEqual([b]);
    expect(await ids({ state: { state: ContainerState.CONTAINER_RUNNING } })).toEqual([a]);
    expect(await ids({ labelSelector: { part: "b" } })).toEqual([b]);
    expect(await ids({ id: a, labelSelector: { part: "b" } })).toEqual([]);
  });

  it("does not show a container under creation", async () => {
    const go = node.runtime.hold("create");
    const making = node.container(pod);
    await until(() => node.runtime.calls.includes("create"), "under way");
    expect((await listContainers(node.app, ctx(), { filter: undefined })).containers).toEqual([]);
    go();
    await making;
  });
});

describe("verbose ContainerStatus", () => {
  it("has the names under which agents look, and bytes of the environment as text", async () => {
    const id = await node.running(pod);
    const { info } = await containerStatus(node.app, ctx(), { containerId: id, verbose: true });
    const shown = JSON.parse(info.info ?? "{}");
    expect(shown).toMatchObject({ sandboxID: pod, snapshotKey: id, removing: false });
    expect(shown.pid).toBeGreaterThan(0);
    expect(shown.runtimeSpec.linux.cgroupsPath).toBe(`/kubepods/pod-u1/${id}`);
    expect(shown.config.envs[0].key).toBe("A");
    expect(shown.config.annotations).toEqual({ hash: "abc" });
  });

  it("has pid 0 once it has ended", async () => {
    const id = await node.running(pod);
    await stop(id);
    const { info } = await containerStatus(node.app, ctx(), { containerId: id, verbose: true });
    expect(JSON.parse(info.info ?? "{}").pid).toBe(0);
  });
});

describe("notes of the translation", () => {
  it("are logged", async () => {
    node.translateContainer = async (input) => ({ ...(await translateForTest(input)), notes: ["SYS_RESOURCE was left out"] });
    await node.container(pod);
    expect(node.logged).toContain("SYS_RESOURCE was left out");
  });
});
