/** Containers out of images that hold a checkpoint, from a registry, and out of archives that other runtimes make. */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";
import { type BuiltImage, buildImage, type ImageOptions } from "../helpers/oci-image.ts";
import { pushImage, pushManifest } from "../helpers/registry.ts";
import { type TarEntry, tar } from "../helpers/tar.ts";

const counting = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; echo line $i; sleep 0.02; done"];
const engine = { "io.kubernetes.cri-o.annotations.checkpoint.name": "counter" };
const tool = { "org.criu.checkpoint.container.name": "counter" };

let node: CriNode;
let place: string;
let config: Message;
let pod: string;
/** An archive, by CheckpointContainer. */
let whole: Buffer;
/** What it had counted to by then, at least. */
let counted: number;
beforeAll(async () => {
  node = await CriNode.start({ config: "[checkpoint]\nrestore = true\n" });
  place = mkdtempSync(join(tmpdir(), "caisson-checkpoint-images-"));
  config = node.podConfig("ck-images");
  pod = await node.runPod(config);
  const id = await node.run(pod, config, node.containerConfig("counter", counting));
  while ((await count(id)) < 30) await new Promise((resolve) => setTimeout(resolve, 10));
  const location = join(place, "whole.tar");
  counted = await count(id);
  await node.client.runtime("CheckpointContainer", { container_id: id, location });
  await node.client.runtime("RemoveContainer", { container_id: id });
  whole = readFileSync(location);
  writeFileSync(join(place, "outside"), "of the node");
});
afterAll(async () => {
  await node.removePod(pod);
  await node[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

async function count(id: string): Promise<number> {
  const path = `/proc/${(await node.info(id)).pid}/root/tmp/count`;
  return existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
}
let images = 0;
function build(options: ImageOptions): { readonly name: string; readonly image: BuiltImage } {
  const name = `test/checkpoint-${++images}`;
  return { name, image: buildImage(join(place, String(images)), options) };
}
const pull = async (reference: string): Promise<string> =>
  (await node.client.image("PullImage", { image: { image: reference } })).image_ref;
async function pulled(options: ImageOptions): Promise<string> {
  const { name, image } = build(options);
  return await pull(await pushImage(node.registry, name, "1", image));
}
const create = (image: string, name = "again") =>
  node.create(pod, config, { ...node.containerConfig(name, counting), image: { image } });
async function goesOn(id: string): Promise<void> {
  await node.start(id);
  await expect.poll(() => count(id), { interval: 10 }).toBeGreaterThan(counted);
  const then = await count(id);
  await expect.poll(() => count(id), { interval: 10 }).toBeGreaterThan(then);
  // A start from the beginning would have said this.
  expect(node.log("ck-images", "again")).not.toContain("line 1\n");
}
const holders = () => readdirSync(join(node.daemon.root, "containers"));

describe("CreateContainer of an image that holds a checkpoint", () => {
  it("goes on from it, by the annotation of the manifest; the image may go meanwhile", async () => {
    const image = await pulled({ layers: [{ content: whole }], annotations: engine });
    const id = await create(image);
    await node.client.image("RemoveImage", { image: { image } });
    await goesOn(id);
    expect((await node.status(id)).image_id).toBe(node.imageId);
    await node.client.runtime("RemoveContainer", { container_id: id });
  });

  it("goes on from it, by the annotation of an index", async () => {
    const { name, image } = build({ layers: [{ content: whole, compression: "zstd" }] });
    await pushImage(node.registry, name, "plain", image);
    const type = "application/vnd.oci.image.index.v1+json";
    const entry = { mediaType: image.manifestType, digest: image.manifestDigest, size: image.manifest.length };
    const index = JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [entry], annotations: tool });
    await pushManifest(node.registry, name, "1", Buffer.from(index), type);
    const id = await create(await pull(`${node.registry.host}/${name}:1`));
    await goesOn(id);
    await node.client.runtime("RemoveContainer", { container_id: id });
    // Known again by the next daemon, and when the registry says that nothing is new.
    await node.daemon.kill();
    await node.daemon.launch();
    const again = await create(await pull(`${node.registry.host}/${name}:1`));
    await node.client.runtime("RemoveContainer", { container_id: again });
  });

  it("is refused where the configuration does not allow it", async () => {
    const { name, image } = build({ layers: [{ content: whole }], annotations: engine });
    const reference = await pushImage(node.registry, name, "1", image);
    await using other = await Daemon.start();
    await other.client.image("PullImage", { image: { image: reference } });
    const sandbox = node.podConfig("ck-off");
    const { pod_sandbox_id } = await other.client.runtime("RunPodSandbox", { config: sandbox });
    const found = await failure(
      other.client.runtime("CreateContainer", {
        pod_sandbox_id,
        config: { ...node.containerConfig("off", counting), image: { image: reference } },
        sandbox_config: sandbox,
      }),
    );
    expect(found).toMatchObject({
      code: grpcStatus.FAILED_PRECONDITION,
      details: expect.stringContaining('holds a checkpoint of container "counter"; restoring it is off on this node'),
    });
    await other.client.runtime("StopPodSandbox", { pod_sandbox_id });
    await other.client.runtime("RemovePodSandbox", { pod_sandbox_id });
  });

  it("does not make another's image a checkpoint: the same one was here without the annotation", async () => {
    const options = { layers: [{ content: [{ name: "plain", content: "x" }] }] };
    const plain = await pulled(options);
    const marked = await pulled({ ...options, annotations: engine });
    expect(marked).toBe(plain);
    const id = await create(plain, "plain");
    expect((await node.status(id)).image_id).toBe(plain);
    await node.client.runtime("RemoveContainer", { container_id: id });
  });

  const end = 1024;
  const preceded = (...entries: TarEntry[]) => placedBefore(whole, ...entries);
  const placedBefore = (archive: Buffer, ...entries: TarEntry[]) => Buffer.concat([tar(entries).subarray(0, -end), archive]);
  const without = (name: string) => {
    const path = join(place, "without.tar");
    writeFileSync(path, whole);
    execFileSync("tar", ["--delete", "-f", path, name]);
    return readFileSync(path);
  };
  const single = (content: Uint8Array): ImageOptions => ({ layers: [{ content }], annotations: engine });
  const up = "../".repeat(16);
  const outside = () => join(place, "outside");
  const hostile: readonly (readonly [string, () => ImageOptions, RegExp])[] = [
    [
      "no checkpoint at all",
      () => single(tar([{ name: "x", content: "y" }])),
      /it lacks checkpoint\/, which holds CRIU's images/,
    ],
    ["no layer", () => ({ annotations: engine }), /it lacks checkpoint\//],
    ["two layers", () => ({ layers: [{ content: whole }, { content: whole }], annotations: engine }), /it has 2 layers/],
    ["a link to a directory of the node", () => single(preceded({ name: "l", type: "2", link: place })), /l is a link/],
    [
      "images behind a link",
      () => single(placedBefore(without("checkpoint"), { name: "checkpoint", type: "2", link: "/etc" })),
      /is a link/,
    ],
    [
      "a hard link between images",
      () => single(preceded({ name: "a.img", content: "x" }, { name: "b.img", type: "1", link: "a.img" })),
      /[ab]\.img is a link/,
    ],
    ["a device", () => single(preceded({ name: "checkpoint/x.img", type: "3", major: 1, minor: 8 })), /x\.img is a/],
    ["a pipe", () => single(preceded({ name: "checkpoint/x.img", type: "6" })), /x\.img is a/],
    ["no specification", () => single(without("spec.dump")), /it lacks spec\.dump$/],
    ["no pages", () => single(without("checkpoint/pages-1.img")), /pages-1\.img is damaged/],
  ];
  it.each(hostile)("with %s: refused, and nothing stays", async (name, make, said) => {
    const image = await pulled(make());
    const found = await failure(create(image, name.replaceAll(" ", "-")));
    expect(found.details).toMatch(said);
    expect(found.code).not.toBe(grpcStatus.INTERNAL);
    expect(holders()).toEqual([]);
    await node.client.image("RemoveImage", { image: { image } });
    expect(readFileSync(outside(), "utf8")).toBe("of the node");
  });

  it("keeps what leads upwards inside its layer", async () => {
    const image = await pulled(single(preceded({ name: up + outside(), content: "hostile" })));
    const id = await create(image);
    expect(readFileSync(outside(), "utf8")).toBe("of the node");
    await node.client.runtime("RemoveContainer", { container_id: id });
  });
});

describe("CreateContainer from an archive of another runtime", () => {
  /** The members of `whole`, changed by the shell where they lie, as an archive. */
  const changed = (name: string, script: string, compress = ""): string => {
    const directory = join(place, name);
    mkdirSync(directory);
    execFileSync("tar", ["-x", "-C", directory], { input: whole });
    execFileSync("sh", ["-ec", script], { cwd: directory });
    const archive = join(place, `${name}.tar`);
    execFileSync("tar", [`-c${compress}f`, archive, "-C", directory, "."]);
    return archive;
  };
  const hex = () => node.imageId.slice("sha256:".length);
  /** Neither has our notes, nor a list of removed files where none is removed. */
  const foreign = "rm checkpoint/caisson.json deleted.files bind.mounts container.log; sed -i s/caisson/runc/ config.dump;";

  it.each([
    ["CRI-O", () => `${foreign} rm status.dump; sed -i s/sha256:// config.dump; echo x > io.kubernetes.cri-o.LogPath`, "z"],
    ["containerd", () => `${foreign} gzip rootfs-diff.tar; mv rootfs-diff.tar.gz rootfs-diff.tar; echo '{}' > status`, ""],
    ["one that changed nothing", () => `${foreign} rm rootfs-diff.tar`, ""],
  ])("as %s writes it", async (name, script, compress) => {
    const id = await create(changed(name.replaceAll(" ", "-"), script(), compress), "again");
    expect((await node.info(id)).pid).toBeGreaterThan(0);
    // The last of them lacks the file of the counter; its shell counts on all the same.
    await goesOn(id);
    expect((await node.status(id)).image_id).toBe(`sha256:${hex()}`);
    await node.client.runtime("RemoveContainer", { container_id: id });
  });

  it.each([
    ["rm config.dump", "it lacks config.dump"],
    ["rm spec.dump checkpoint/inventory.img", "it lacks spec.dump, checkpoint/inventory.img"],
    ["rm checkpoint/descriptors.json", "it lacks checkpoint/descriptors.json"],
    ["rm -r checkpoint", "it lacks checkpoint/, which holds CRIU's images"],
    ["sed -i s/rootfsImageRef/rootfsImageID/ config.dump", "it lacks rootfsImageRef, the digest of its image, in config.dump"],
    ["echo '{\"process\":{}}' > spec.dump", "it lacks process.args, its command, in spec.dump"],
    ["rm checkpoint/mountpoints-*", "it has no mountpoints-*.img"],
    ["cp checkpoint/ids-1.img checkpoint/userns-1.img", "its container has a user namespace (userns-*.img)"],
    [
      "head -c 8 checkpoint/ids-1.img > checkpoint/netns-1.img; printf '\\0\\0\\0\\0' >> checkpoint/netns-1.img",
      "its network is in the images",
    ],
  ])("says what is missing: %s", async (script, said) => {
    const name = `lacking-${readdirSync(place).length}`;
    const found = await failure(create(changed(name, `${foreign} ${script}`), name));
    expect(found).toMatchObject({ code: grpcStatus.FAILED_PRECONDITION, details: expect.stringContaining(said) });
    expect(holders()).toEqual([]);
  });

  it("goes on from what runc has saved, in the new pod's namespaces", async () => {
    const original = node.containerConfig("original", counting, {
      linux: { security_context: { seccomp: { profile_type: "Unconfined" } } },
    });
    node.enableNetwork("caissonci", "10.199.79.0/24");
    await node.networkReady();
    const podNetwork = { linux: { security_context: { namespace_options: network.pod } } };
    const first = node.podConfig("ck-first", podNetwork);
    const owner = await node.runPod(first);
    const model = await node.run(owner, first, original);
    const { pid, runtimeSpec } = await node.info(model);
    const bundle = join(place, "bundle");
    const saved = join(place, "saved");
    mkdirSync(saved);
    cpSync(`/proc/${pid}/root/bin`, join(bundle, "rootfs/bin"), { recursive: true, verbatimSymlinks: true });
    for (const name of ["dev", "etc", "proc", "sys", "tmp", "root", "run"]) mkdirSync(join(bundle, "rootfs", name));
    const name = `caisson-test-${process.pid}`;
    const namespaces = runtimeSpec.linux.namespaces.filter(({ type }: Message) => ["mount", "pid"].includes(type));
    for (const [type, name] of [
      ["network", "net"],
      ["ipc", "ipc"],
      ["uts", "uts"],
    ])
      namespaces.push({ type, path: `/proc/${pid}/ns/${name}` });
    const spec = {
      ...runtimeSpec,
      root: { path: "rootfs" },
      linux: { ...runtimeSpec.linux, namespaces, cgroupsPath: `${node.cgroupParent}/${name}` },
    };
    writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
    const runc = (...args: string[]) => execFileSync("runc", args, { cwd: bundle, stdio: ["ignore", "pipe", "pipe"] });
    // Its output must be a pipe, as a container's is.
    execFileSync("sh", ["-c", `runc run --detach ${name} < /dev/null 2>&1 | cat > out &`], { cwd: bundle, stdio: "ignore" });
    const output = () => readFileSync(join(bundle, "out"), "utf8");
    await expect.poll(output).toContain("line 20\n");
    runc("checkpoint", "--image-path", join(saved, "checkpoint"), "--work-path", saved, "--file-locks", name);
    const reached = output().trim().split("\n").length;
    writeFileSync(
      join(saved, "config.dump"),
      JSON.stringify({ name: "original", rootfsImageRef: node.imageId, runtime: "runc" }),
    );
    writeFileSync(join(saved, "spec.dump"), JSON.stringify(spec));
    execFileSync("tar", ["-cf", join(saved, "rootfs-diff.tar"), "-C", join(bundle, "rootfs"), "tmp/count"]);
    const archive = join(place, "runc.tar");
    execFileSync("tar", ["-cf", archive, "-C", saved, "."]);
    await node.removePod(owner);

    const next = node.podConfig("ck-runc", podNetwork);
    const other = await node.runPod(next);
    const id = await node.create(other, next, { ...original, image: { image: archive } });
    await node.start(id);
    await expect.poll(() => count(id), { interval: 10 }).toBeGreaterThan(reached);
    expect((await node.exec(id, ["hostname"])).stdout).toBe("ck-runc\n");
    const ip = (await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: other })).status.network.ip;
    expect((await node.exec(id, ["ip", "-4", "-o", "addr", "show", "eth0"])).stdout).toContain(` ${ip}/`);
    const own = await node.info(id);
    const shared = (pid: number, type: string) => readlinkSync(`/proc/${pid}/ns/${type}`);
    const sibling = await node.run(other, next, node.containerConfig("sibling", ["sleep", "1000"]));
    const { pid: siblingPid } = await node.info(sibling);
    for (const type of ["net", "ipc", "uts"]) expect(shared(own.pid, type)).toBe(shared(siblingPid, type));
    await node.removePod(other);
  });
});
