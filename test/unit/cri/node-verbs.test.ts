/** Verbs about the node and its images. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { imageFsInfo } from "../../../src/cri/image-fs-info.ts";
import { listImages } from "../../../src/cri/image-list.ts";
import { pullImage } from "../../../src/cri/image-pull.ts";
import { removeImage } from "../../../src/cri/image-remove.ts";
import { imageStatus } from "../../../src/cri/image-status.ts";
import { imageView } from "../../../src/cri/image-view.ts";
import { infoText, messageJson } from "../../../src/cri/info-json.ts";
import { runtimeConfig } from "../../../src/cri/runtime-config.ts";
import { updateRuntimeConfig } from "../../../src/cri/runtime-config-update.ts";
import { status } from "../../../src/cri/runtime-status.ts";
import { version } from "../../../src/cri/runtime-version.ts";
import { cniView } from "../../../src/cri/sandbox-info.ts";
import { signalEnum } from "../../../src/cri/signal-enum.ts";
import {
  CgroupDriver,
  ImageSpec,
  ImageStatusRequest,
  ListImagesRequest,
  PullImageRequest,
  Signal,
} from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { containerConfig, ctx, FakeNode, failure } from "./fake/fake-node.ts";
import { busybox } from "./fake/fake-services.ts";

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
});
afterEach(() => node[Symbol.dispose]());

describe("Version", () => {
  it("has the four strings that the kubelet wants", async () => {
    expect(await version(node.app, ctx(), { version: "0.1.0" })).toEqual({
      version: "0.1.0",
      runtimeName: "caisson",
      runtimeVersion: "0.1.0",
      runtimeApiVersion: "v1",
    });
  });
});

describe("RuntimeConfig", () => {
  it("says cgroupfs explicitly", async () => {
    expect((await runtimeConfig(node.app, ctx(), {})).linux?.cgroupDriver).toBe(CgroupDriver.CGROUPFS);
  });

  it("says systemd when that is the driver", async () => {
    const app = { ...node.app, config: { ...node.app.config, cgroupDriver: "systemd" } } as typeof node.app;
    expect((await runtimeConfig(app, ctx(), {})).linux?.cgroupDriver).toBe(CgroupDriver.SYSTEMD);
  });
});

describe("Status", () => {
  const read = async (verbose = false) => await status(node.app, ctx(), { verbose });
  const condition = async (type: string) => (await read()).status?.conditions.find((item) => item.type === type);

  it("is ready with both handlers and the features that there are", async () => {
    expect(await condition("RuntimeReady")).toMatchObject({ status: true });
    expect(await condition("NetworkReady")).toMatchObject({ status: true });
    const { runtimeHandlers, features } = await read();
    expect(runtimeHandlers.map((handler) => handler.name)).toEqual(["", "caisson"]);
    expect(runtimeHandlers[0]?.features).toEqual({ recursiveReadOnlyMounts: true, userNamespaces: true });
    expect(features).toEqual({ supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true });
  });

  it("tells why the network is not ready", async () => {
    node.network.state = { ready: false, reason: "NetworkPluginNotReady", message: "no network list", networkName: "" };
    expect(await condition("NetworkReady")).toMatchObject({ status: false, reason: "NetworkPluginNotReady" });
    expect(await condition("RuntimeReady")).toMatchObject({ status: true });
  });

  it("shows what the machine lacks, and a store that was made anew", async () => {
    expect(await condition("CaissonUnlimited")).toMatchObject({ status: true });
    node.runtime.limitations.push("CAP_SYS_RESOURCE is missing");
    node.store.rebuilt = "the database was damaged";
    expect(await condition("CaissonUnlimited")).toMatchObject({ status: false, message: "CAP_SYS_RESOURCE is missing" });
    expect(await condition("CaissonStoreIntact")).toMatchObject({ status: false, message: "the database was damaged" });
    expect((await read(true)).info.limitations).toContain("CAP_SYS_RESOURCE");
  });

  it("has details as JSON when verbose, else none", async () => {
    expect((await read()).info).toEqual({});
    const { info } = await read(true);
    expect(JSON.parse(info.config ?? "")).toMatchObject({ rootDir: node.config.rootDir });
    expect(info.lastCNILoadStatus).toBe("OK");
  });
});

describe("UpdateRuntimeConfig", () => {
  const update = (podCidr: string) => updateRuntimeConfig(node.app, ctx(), { runtimeConfig: { networkConfig: { podCidr } } });

  it("takes one range, two, or none", async () => {
    await update("10.1.0.0/16");
    await update("10.1.0.0/16,fd00::/64");
    await update("");
    await updateRuntimeConfig(node.app, ctx(), { runtimeConfig: undefined });
  });

  it("gives the ranges to later pods' plugins, also after a restart", async () => {
    await update("10.1.0.0/24, fd00:1::/64");
    await node.restart();
    await node.pod();
    expect(node.network.attaches.at(-1)?.podCidrs).toEqual(["10.1.0.0/24", "fd00:1::/64"]);
  });

  it.each(["10.1.0.0", "10.1.0.0/33", "fd00::/129", "nonsense/8", "10.1.0.0/16,"])("refuses %s", async (podCidr) => {
    expect(await failure(update(podCidr))).toMatchObject({ code: "invalid_argument" });
  });
});

describe("images", () => {
  const pull = (image: string, auth?: object) =>
    pullImage(node.app, ctx(), PullImageRequest.fromPartial({ image: { image }, ...(auth === undefined ? {} : { auth }) }));

  it("PullImage gives the image's id", async () => {
    expect(await pull("busybox")).toEqual({ imageRef: busybox.id });
  });

  it("PullImage passes credentials on, and none for an empty message", async () => {
    await pull("busybox", { username: "u", password: "p", serverAddress: "r" });
    await pull("busybox", { serverAddress: "r" });
    expect(node.images.pulls.map((pulled) => pulled.auth)).toEqual([
      { username: "u", password: "p", auth: "", serverAddress: "r", identityToken: "", registryToken: "" },
      undefined,
    ]);
  });

  it("PullImage refuses a missing reference and an unknown handler, and passes the registry's answer on", async () => {
    expect(await failure(pull(""))).toMatchObject({ code: "invalid_argument" });
    const withHandler = PullImageRequest.fromPartial({ image: { image: "busybox", runtimeHandler: "kata" } });
    expect(await failure(pullImage(node.app, ctx(), withHandler))).toMatchObject({ code: "invalid_argument" });
    expect(await failure(pull("missing"))).toMatchObject({ code: "not_found" });
  });

  it("PullImage ends with its caller", async () => {
    const caller = new AbortController();
    const request = PullImageRequest.fromPartial({ image: { image: "stalled" } });
    const pulling = failure(pullImage(node.app, ctx(caller.signal), request));
    caller.abort(new RuntimeError("deadline_exceeded", "caller's deadline"));
    expect(await pulling).toMatchObject({ code: "deadline_exceeded" });
  });

  const find = async (image: string, verbose = false) =>
    await imageStatus(node.app, ctx(), ImageStatusRequest.fromPartial({ image: { image }, verbose }));

  it("ImageStatus is a success without an image for one that is not here", async () => {
    expect(await find("absent")).toEqual({ image: undefined, info: {} });
    expect((await find("busybox")).image).toMatchObject({ id: busybox.id, size: 1234n, pinned: false });
    expect(await failure(find(""))).toMatchObject({ code: "invalid_argument" });
  });

  it("ImageStatus shows the image's config when verbose", async () => {
    expect(JSON.parse((await find("busybox", true)).info.info ?? "")).toEqual({
      chainID: busybox.chainId,
      imageSpec: { config: { Cmd: ["sh"] } },
    });
  });

  it.each([
    ["", undefined, ""],
    ["0", 0n, ""],
    ["1000:1000", 1000n, ""],
    ["www:www", undefined, "www"],
    ["2147483648", undefined, "2147483648"],
    ["4294967296", undefined, "4294967296"],
    ["-1", undefined, "-1"],
  ])("the user %j of an image is uid %s, name %j", (user, uid, username) => {
    const view = imageView({ ...busybox, config: { ...busybox.config, user } });
    expect([view.uid?.value, view.username]).toEqual([uid, username]);
  });

  it("ListImages honours its filter", async () => {
    const list = async (image?: string) => {
      const filter = image === undefined ? undefined : { image: ImageSpec.fromPartial({ image }) };
      return (await listImages(node.app, ctx(), ListImagesRequest.fromPartial({ filter }))).images.length;
    };
    expect([await list(), await list("busybox"), await list("absent")]).toEqual([1, 1, 0]);
  });

  it("RemoveImage is idempotent", async () => {
    const request = { image: ImageSpec.fromPartial({ image: "busybox" }) };
    await removeImage(node.app, ctx(), request);
    await removeImage(node.app, ctx(), request);
    expect(node.images.list()).toEqual([]);
    expect(await failure(removeImage(node.app, ctx(), { image: undefined }))).toMatchObject({ code: "invalid_argument" });
  });

  it("ImageFsInfo names one filesystem for images and containers", async () => {
    const { imageFilesystems, containerFilesystems } = await imageFsInfo(node.app, ctx(), {});
    expect(imageFilesystems).toEqual(containerFilesystems);
    expect(imageFilesystems[0]).toMatchObject({ fsId: { mountpoint: "/images" }, usedBytes: { value: 10n } });
  });
});

describe("verbose info", () => {
  it("has snake_case names, leaves empty fields out and user's keys as they are", () => {
    const shown = messageJson(
      containerConfig({ annotations: { camelKey: "v" }, mounts: [{ hostPath: "/h", containerPath: "/c" }] }),
    );
    expect(shown).toMatchObject({
      metadata: { name: "main" },
      mounts: [{ container_path: "/c", host_path: "/h" }],
      annotations: { camelKey: "v" },
    });
    expect(shown).not.toHaveProperty("log_path");
  });

  it("keeps numbers exact", () => {
    expect(infoText({ a: 5n, b: 2n ** 60n })).toBe('{"a":5,"b":"1152921504606846976"}');
  });

  it("shows no CNI result for a pod without one", () => {
    expect(cniView(null)).toBeNull();
    expect(cniView({})).toEqual({ Interfaces: {}, DNS: null, Routes: null });
  });
});

describe("stop signals", () => {
  it.each([
    [15, Signal.SIGNAL_SIGTERM],
    [6, Signal.SIGNAL_SIGABRT],
    [34, Signal.SIGNAL_SIGRTMIN],
    [37, Signal.SIGNAL_SIGRTMINPLUS3],
    [64, Signal.SIGNAL_SIGRTMAX],
  ])("%i is told as the enum has it", (number, value) => {
    expect(signalEnum(number)).toBe(value);
  });
});
