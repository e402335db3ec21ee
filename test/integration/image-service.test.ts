/** Images from Debian's docker-registry and from layouts: pull, names, holds, removal, restart. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { Image, PullAuth } from "../../src/image/image-service.ts";
import { ImageNode } from "../helpers/image-service.ts";
import { type BuiltImage, buildBusyboxImage, buildImage, goArch, type ImageOptions, sha256 } from "../helpers/oci-image.ts";
import {
  pushImage,
  pushManifest,
  type Registry,
  type RegistryOptions,
  registryIdentityToken,
  registryUser,
  startRegistry,
} from "../helpers/registry.ts";

const none: PullAuth = { username: "", password: "", auth: "", serverAddress: "", identityToken: "", registryToken: "" };
const indexType = "application/vnd.oci.image.index.v1+json";

let registry: Registry;
let scratch: string;
let node: ImageNode;
let count = 0;

beforeAll(async () => {
  registry = await startRegistry();
});
afterAll(async () => {
  await registry.stop();
});
beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), "caisson-image-"));
  node = await ImageNode.start();
});
afterEach(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

const build = (options: ImageOptions = {}): BuiltImage => buildImage(join(scratch, `image${count++}`), options);
const small = (text: string): BuiltImage => build({ layers: [{ content: [{ name: "file", content: text }] }] });
const push = (name: string, tag: string, image: BuiltImage): Promise<string> => pushImage(registry, name, tag, image);
/** Complete layers: those that are on their way out have another name. */
const layerNames = (root = node.root): string[] =>
  readdirSync(join(root, "layers")).filter((name) => name !== "empty" && !name.includes(".removing-"));

async function pushIndex(name: string, tag: string, manifests: readonly object[]): Promise<string> {
  const data = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: indexType, manifests }));
  await pushManifest(registry, name, tag, data, indexType);
  return sha256(data);
}

const entryOf = (image: BuiltImage, architecture: string, more: object = {}): object => ({
  mediaType: image.manifestType,
  digest: image.manifestDigest,
  size: image.manifest.length,
  platform: { os: "linux", architecture, ...more },
});

/** What a container would see. */
function merged<T>(image: Image, look: (root: string) => T): T {
  const [mount, upper, work] = ["mount", "upper", "work"].map((name) => join(scratch, `${name}${count}`));
  count++;
  for (const dir of [mount, upper, work]) mkdirSync(dir ?? "");
  execFileSync("mount", [
    "-t",
    "overlay",
    "caisson-test",
    "-o",
    `lowerdir=${image.layerDirs.join(":")},upperdir=${upper},workdir=${work}`,
    mount ?? "",
  ]);
  try {
    return look(mount ?? "");
  } finally {
    execFileSync("umount", [mount ?? ""]);
  }
}

describe("pull", () => {
  it.each([
    ["OCI, gzip", { compression: "gzip" }],
    ["OCI, zstd", { compression: "zstd" }],
    ["OCI, not compressed", { compression: "none" }],
    ["Docker schema 2", { docker: true }],
  ] as [string, ImageOptions][])("a runnable image: %s", async (_, options) => {
    const image = buildBusyboxImage(join(scratch, "busybox"), {
      ...options,
      config: {
        User: "1000:100",
        WorkingDir: "/tmp",
        StopSignal: "SIGINT",
        Labels: { a: "b" },
        Volumes: { "/data": {} },
        Entrypoint: ["/bin/sh", "-c"],
      },
      layers: [
        {
          content: [
            { name: "tmp/added", content: "x" },
            { name: "bin/.wh.wget" },
            { name: "etc/.wh..wh..opq" },
            { name: "etc/new" },
          ],
        },
      ],
    });
    const reference = await push("test/busybox", `v${count++}`, image);
    const id = await node.pull(reference);
    expect(id).toBe(image.id);
    const found = node.images.find(reference);
    expect(found).toMatchObject({
      id,
      repoTags: [reference],
      repoDigests: [`${registry.host}/test/busybox@${image.manifestDigest}`],
      pinned: false,
      config: {
        user: "1000:100",
        workingDir: "/tmp",
        stopSignal: "SIGINT",
        labels: { a: "b" },
        volumes: ["/data"],
        entrypoint: ["/bin/sh", "-c"],
        cmd: ["/bin/sh"],
        architecture: goArch,
        os: "linux",
      },
    });
    if (found === undefined) throw new Error("not found");
    expect(found.config.env).toEqual(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    expect(sha256(Buffer.from(found.configJson))).toBe(id);
    merged(found, (root) => {
      expect(execFileSync("chroot", [root, "/bin/echo", "runs"], { encoding: "utf8" })).toBe("runs\n");
      expect(statSync(join(root, "tmp")).mode & 0o7777).toBe(0o1777);
      expect(existsSync(join(root, "bin/wget"))).toBe(false);
      expect(readdirSync(join(root, "etc"))).toEqual(["new"]);
    });
  });
  it.each([
    ["basic", { username: registryUser.username, password: registryUser.password }],
    ["token", { username: registryUser.username, password: registryUser.password }],
    ["token", { identityToken: registryIdentityToken }],
    ["token", { username: "<token>", password: registryIdentityToken }],
  ] as [RegistryOptions["auth"] & string, Partial<PullAuth>][])("with %s authentication", async (auth, credentials) => {
    const closed = await startRegistry({ auth });
    try {
      const reference = await pushImage(closed, "test/private", "1", small("private"));
      const signal = new AbortController().signal;
      await expect(node.pull(reference)).rejects.toMatchObject({ code: "unauthenticated" });
      await expect(
        node.images.pull(reference, { ...none, username: "caisson", password: "wrong" }, signal),
      ).rejects.toMatchObject({ code: "unauthenticated" });
      await node.images.pull(reference, { ...none, ...credentials }, signal);
      // Present, but it is still the registry who says who may have it.
      await expect(node.pull(reference)).rejects.toMatchObject({ code: "unauthenticated" });
    } finally {
      await closed.stop();
    }
  });
  it("chooses this machine's image from an index, nested ones included", async () => {
    const ours = small("ours");
    const other = small("other");
    await push("test/index", "a", ours);
    await push("test/index", "b", other);
    const attestation = { ...entryOf(other, "unknown"), platform: { os: "unknown", architecture: "unknown" } };
    const inner = await pushIndex("test/index", "inner", [attestation, entryOf(other, "s390x"), entryOf(ours, goArch)]);
    const innerSize = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: indexType,
        manifests: [attestation, entryOf(other, "s390x"), entryOf(ours, goArch)],
      }),
    ).length;
    const outer = await pushIndex("test/index", "outer", [{ mediaType: indexType, digest: inner, size: innerSize }]);
    expect(await node.pull(`${registry.host}/test/index:outer`)).toBe(ours.id);
    expect(node.images.find(ours.id)?.repoDigests).toEqual([`${registry.host}/test/index@${outer}`]);
  });
  it("takes an entry without platform only if its config fits, and says when nothing does", async () => {
    const ours = small("ours");
    const other = build({ architecture: "s390x", layers: [{ content: [{ name: "x" }] }] });
    await push("test/bare", "a", ours);
    await push("test/bare", "b", other);
    const bare = (image: BuiltImage): object => ({
      mediaType: image.manifestType,
      digest: image.manifestDigest,
      size: image.manifest.length,
    });
    await pushIndex("test/bare", "both", [bare(other), bare(ours)]);
    expect(await node.pull(`${registry.host}/test/bare:both`)).toBe(ours.id);
    await pushIndex("test/bare", "none", [entryOf(other, "s390x"), bare(other)]);
    await expect(node.pull(`${registry.host}/test/bare:none`)).rejects.toMatchObject({
      code: "not_found",
      message: expect.stringContaining("no match for platform"),
    });
  });
  it("an image without layers has one empty directory", async () => {
    const id = await node.pull(await push("test/scratch", "1", build()));
    const dirs = node.images.find(id)?.layerDirs ?? [];
    expect(dirs).toHaveLength(1);
    expect(readdirSync(dirs[0] ?? "")).toEqual([]);
    expect(node.images.find(id)?.sizeBytes).toBeGreaterThan(0n);
  });
  it("from an OCI layout that the configuration names, and from nowhere else", async () => {
    const image = build({ tag: "v1", layers: [{ content: [{ name: "a" }] }] });
    await node[Symbol.asyncDispose]();
    node = await ImageNode.start({ localLayouts: { "localhost/app": image.dir } });
    expect(await node.pull("localhost/app:v1")).toBe(image.id);
    expect(await node.pull(`localhost/app@${image.manifestDigest}`)).toBe(image.id);
    await expect(node.pull("localhost/app:v2")).rejects.toMatchObject({ code: "not_found" });
    await expect(node.pull(image.dir)).rejects.toMatchObject({ code: "invalid_argument" });
    writeFileSync(join(image.dir, "blobs/sha256", image.layerDigests[0]?.slice(7) ?? ""), "changed");
    await node.images.remove("localhost/app:v1");
    await expect(node.pull("localhost/app:v1")).rejects.toMatchObject({ code: "data_loss" });
  });
  it("shares equal layers between images", async () => {
    const base = { content: [{ name: "base", content: "b" }] };
    await node.pull(await push("test/one", "1", build({ layers: [base, { content: [{ name: "one" }] }] })));
    await node.pull(await push("test/two", "1", build({ layers: [base, { content: [{ name: "two" }] }] })));
    expect(layerNames()).toHaveLength(3);
    await node.images.remove(`${registry.host}/test/one:1`);
    expect(layerNames()).toHaveLength(2);
    await node.images.remove(`${registry.host}/test/two:1`);
    expect(layerNames()).toEqual([]);
  });
});

describe("names", () => {
  it("finds by name, digest, id and prefix, with Docker's short forms", async () => {
    const image = small("names");
    const reference = await push("test/names", "1", image);
    await node.pull(reference);
    const hex = image.id.slice("sha256:".length);
    for (const text of [
      reference,
      `${registry.host}/test/names@${image.manifestDigest}`,
      `${reference}@${image.manifestDigest}`,
      image.id,
      hex,
      hex.slice(0, 8),
      image.id.slice(0, 15),
    ]) {
      expect(node.images.find(text)?.id, text).toBe(image.id);
    }
    for (const text of [
      "",
      "test/names:1",
      `${registry.host}/test/names`,
      `${registry.host}/test/names:2`,
      "f".repeat(64),
      "Not A Name",
      `${registry.host}/test/names@sha256:${"0".repeat(64)}`,
    ]) {
      expect(node.images.find(text), text).toBeUndefined();
    }
  });
  it("names the candidates of an ambiguous prefix", async () => {
    // Sixteen first digits: of seventeen images two must share one.
    const images = Array.from({ length: 17 }, (_, i) => small(`ambiguous ${i}`));
    for (const [i, image] of images.entries()) await node.pull(await push("test/many", `${i}`, image));
    const firsts = images.map((image) => image.id.slice(7, 8));
    const twice = firsts.find((digit, i) => firsts.indexOf(digit) !== i) ?? "";
    expect(() => node.images.find(twice)).toThrow(/stands for several images: sha256:.*test\/many/);
    await expect(node.images.remove(twice)).rejects.toMatchObject({ code: "invalid_argument" });
  });
  it("moves a tag, and keeps the older image under its digest", async () => {
    const [old, fresh] = [small("old"), small("fresh")];
    const reference = await push("test/moving", "latest", old);
    await node.pull(reference);
    await push("test/moving", "latest", fresh);
    expect(await node.pull(`${registry.host}/test/moving`)).toBe(fresh.id);
    expect(node.images.find(reference)?.id).toBe(fresh.id);
    expect(node.images.find(old.id)).toMatchObject({
      repoTags: [],
      repoDigests: [`${registry.host}/test/moving@${old.manifestDigest}`],
    });
    await push("test/moving", "latest", old);
    expect(await node.pull(reference)).toBe(old.id);
    expect(node.images.find(reference)?.id).toBe(old.id);
  });
  it("has no tag when pulled by digest, whatever tag stands beside it", async () => {
    const image = small("digest");
    await push("test/digest", "1", image);
    await node.pull(`${registry.host}/test/digest:9@${image.manifestDigest}`);
    expect(node.images.find(image.id)).toMatchObject({
      repoTags: [],
      repoDigests: [`${registry.host}/test/digest@${image.manifestDigest}`],
    });
  });
  it("gives one image two names when two repositories have it", async () => {
    const image = small("same");
    const names = [await push("test/first", "1", image), await push("test/second", "2", image)];
    for (const name of names) await node.pull(name);
    expect(node.images.list()).toHaveLength(1);
    expect(node.images.list()[0]?.repoTags).toEqual(names);
    expect(node.images.list()[0]?.repoDigests).toHaveLength(2);
    await node.images.remove(names[0] ?? "");
    expect(node.images.list()).toEqual([]);
  });
  it("knows pinned images", async () => {
    const image = small("pinned");
    const reference = await push("test/pinned", "1", image);
    await node[Symbol.asyncDispose]();
    node = await ImageNode.start({ pinned: [`${registry.host}/test/pin*`] });
    await node.pull(reference);
    expect(node.images.list()[0]?.pinned).toBe(true);
    await node.images.remove(reference);
    expect(node.images.list()).toEqual([]);
  });
});

describe("keeping and removing", () => {
  it("keeps the layers of a removed image while somebody holds it", async () => {
    const image = small("held");
    const reference = await push("test/held", "1", image);
    await node.pull(reference);
    const dir = node.images.find(reference)?.layerDirs[0] ?? "";
    node.images.hold(image.id, "container-a");
    node.images.hold(image.id, "container-b");
    await node.images.remove(reference);
    expect(node.images.list()).toEqual([]);
    expect(node.images.find(image.id)).toBeUndefined();
    await node.images.release("container-a");
    expect(readFileSync(join(dir, "file"), "utf8")).toBe("held");
    await node.images.release("container-b");
    expect(layerNames()).toEqual([]);
    expect(readdirSync(join(node.root, "images"))).toEqual([]);
  });
  it("keeps a layer that somebody else than a pod mentions, until nobody does", async () => {
    let mentioned = "";
    await node[Symbol.asyncDispose]();
    node = await ImageNode.start({ mentions: () => mentioned });
    const reference = await push("test/mentioned", "1", small("mentioned"));
    await node.pull(reference);
    const dir = node.images.find(reference)?.layerDirs[0] ?? "";
    mentioned = `{"mounts":[{"source":"overlay","data":"lowerdir=${dir}"}]}`;
    await node.images.remove(reference);
    expect(node.images.list()).toEqual([]);
    expect(readFileSync(join(dir, "file"), "utf8")).toBe("mentioned");
    mentioned = "";
    await node.images.recovered();
    expect(layerNames()).toEqual([]);
  });

  it("shows a held and removed image again when it is pulled again", async () => {
    const image = small("again");
    const reference = await push("test/again", "1", image);
    await node.pull(reference);
    node.images.hold(image.id, "c");
    await node.images.remove(image.id);
    await node.pull(reference);
    expect(node.images.find(reference)?.repoTags).toEqual([reference]);
    await node.images.release("c");
    expect(node.images.find(reference)?.id).toBe(image.id);
    expect(layerNames()).toHaveLength(1);
  });
  it("removal is idempotent and may run in parallel, also with a pull", async () => {
    const image = small("parallel");
    const reference = await push("test/parallel", "1", image);
    await node.pull(reference);
    await Promise.all([node.images.remove(reference), node.images.remove(reference), node.images.remove(image.id)]);
    await node.images.remove(reference);
    for (let round = 0; round < 5; round++) {
      await Promise.all([node.pull(reference), node.images.remove(reference)]);
      const found = node.images.find(reference);
      if (found !== undefined) expect(existsSync(join(found.layerDirs[0] ?? "", "file"))).toBe(true);
    }
  });
  it("reports what layers occupy", async () => {
    const before = await node.images.fsUsage();
    const content = Buffer.alloc(1 << 20, 1);
    await node.pull(
      await push(
        "test/usage",
        "1",
        build({ layers: [{ content: [{ name: "big", content }, { name: "d/", type: "5" }, { name: "d/f" }] }] }),
      ),
    );
    const usage = await node.images.fsUsage();
    expect(usage.mountpoint).toBe(node.root);
    expect(Number(usage.usedBytes - before.usedBytes)).toBeGreaterThanOrEqual(1 << 20);
    expect(usage.inodesUsed - before.inodesUsed).toBe(3n);
    expect(node.images.list()[0]?.sizeBytes).toBeGreaterThanOrEqual(1n << 20n);
  });
  it("fails clearly on a full disk, leaves nothing, and still removes", async () => {
    const mount = join(scratch, "disk");
    mkdirSync(mount);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=3m", "caisson-test", mount]);
    try {
      await using full = await ImageNode.start({ rootDir: join(mount, "root") });
      const kept = await push(
        "test/kept",
        "1",
        build({ layers: [{ content: [{ name: "f", content: Buffer.alloc(1 << 20, 1) }] }] }),
      );
      await full.pull(kept);
      const big = await push(
        "test/big",
        "1",
        build({ layers: [{ content: [{ name: "f", content: Buffer.alloc(4 << 20, 2) }] }] }),
      );
      await expect(full.pull(big)).rejects.toMatchObject({
        code: "resource_exhausted",
        message: expect.stringMatching(/[Nn]o space left/),
      });
      expect(layerNames(join(mount, "root"))).toHaveLength(1);
      execFileSync("sh", ["-c", `cat /dev/zero > ${mount}/filler 2>/dev/null || true`]);
      await full.images.remove(kept);
      await vi.waitFor(() => expect(readdirSync(join(mount, "root/layers"))).toEqual(["empty"]));
    } finally {
      execFileSync("umount", [mount]);
    }
  });
});

describe("restart", () => {
  it("finds everything again and sweeps what a crash left", async () => {
    const image = build({ layers: [{ content: [{ name: "a", content: "a" }] }, { content: [{ name: "b" }] }] });
    const reference = await push("test/restart", "1", image);
    await node.pull(reference);
    const layers = join(node.root, "layers");
    const before = node.images.find(reference);
    mkdirSync(join(layers, `${"a".repeat(64)}.partial-1/fs/deep/er`), { recursive: true });
    mkdirSync(join(layers, `${"b".repeat(64)}.removing-1/fs`), { recursive: true });
    mkdirSync(join(layers, `${"c".repeat(64)}/fs`), { recursive: true });
    writeFileSync(join(layers, "stray"), "");
    await node.reopen();
    expect(node.images.find(reference)).toEqual(before);
    await vi.waitFor(() => expect(readdirSync(layers)).toHaveLength(3));
    expect(layerNames()).toHaveLength(2);
  });
  it("survives the loss of its records, and of an older copy of them", async () => {
    const image = small("records");
    const reference = await push("test/records", "1", image);
    await node.pull(reference);
    const older = structuredClone(node.records.collections);
    await node.pull(await push("test/records", "2", image));
    node.records.collections.clear();
    await node.reopen();
    expect(node.images.find(image.id)?.repoTags).toEqual([reference, `${registry.host}/test/records:2`]);
    node.records.collections.clear();
    for (const [name, documents] of older) node.records.collections.set(name, documents);
    await node.reopen();
    await node.images.recovered();
    expect(node.images.find(image.id)?.repoTags).toEqual([reference, `${registry.host}/test/records:2`]);
  });
  it("forgets an image whose layers are gone, so that it is pulled again", async () => {
    const image = small("gone");
    const reference = await push("test/gone", "1", image);
    await node.pull(reference);
    rmSync(join(node.root, "layers", image.diffIds[0]?.slice(7) ?? ""), { recursive: true });
    await node.reopen();
    expect(node.images.find(reference)).toBeUndefined();
    await node.pull(reference);
    expect(existsSync(join(node.images.find(reference)?.layerDirs[0] ?? "", "file"))).toBe(true);
  });
  it("removes nothing that a container may hold before recovery has said so", async () => {
    const image = small("recovery");
    const reference = await push("test/recovery", "1", image);
    await node.pull(reference);
    node.images.hold(image.id, "c");
    await node.images.remove(reference);
    await node.reopen();
    await node.images.remove(reference);
    expect(layerNames()).toHaveLength(1);
    node.images.hold(image.id, "c");
    await node.images.recovered();
    expect(layerNames()).toHaveLength(1);
    await node.images.release("c");
    expect(layerNames()).toEqual([]);
  });
  it("keeps layers that it cannot account for while a container's image is not on record", async () => {
    const image = small("unknown");
    await node.pull(await push("test/unknown", "1", image));
    node.records.collections.clear();
    rmSync(join(node.root, "images"), { recursive: true });
    await node.reopen();
    node.images.hold(image.id, "c");
    await node.images.recovered();
    expect(layerNames()).toHaveLength(1);
    await node.images.release("c");
    expect(layerNames()).toEqual([]);
  });
});

it("leaves no descriptor and no process behind", async () => {
  const fds = (): number => readdirSync("/proc/self/fd").length;
  const reference = await push(
    "test/leak",
    "1",
    build({ layers: [{ content: [{ name: "a" }] }, { content: [{ name: "d/.wh.x" }, { name: "d/y" }] }] }),
  );
  await node.pull(reference);
  await node.images.remove(reference);
  const before = fds();
  for (let round = 0; round < 5; round++) {
    await node.pull(reference);
    await node.images.remove(reference);
  }
  expect(fds()).toBeLessThanOrEqual(before + 1);
  const children = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, "utf8").trim().split(" ").filter(Boolean);
  const names = children.map((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim());
  expect(names.filter((name) => name.startsWith("caisson"))).toEqual([]);
});
