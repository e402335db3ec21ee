/** The registry client against a registry that misbehaves. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { PullAuth } from "../../src/image/image-service.ts";
import type { Code, RuntimeError } from "../../src/lib/errors.ts";
import { FakeRegistry } from "../helpers/fake-registry.ts";
import { ImageNode } from "../helpers/image-service.ts";
import { type BuiltImage, buildImage, sha256 } from "../helpers/oci-image.ts";
import { tar } from "../helpers/tar.ts";

const none: PullAuth = { username: "", password: "", auth: "", serverAddress: "", identityToken: "", registryToken: "" };
const noise = (bytes: number): Buffer =>
  Buffer.from(Array.from({ length: bytes / 64 }, (_, i) => sha256(Buffer.from([i, i >> 8, i >> 16])).slice(7)).join(""));
const manifestType = "application/vnd.oci.image.manifest.v1+json";
const indexType = "application/vnd.oci.image.index.v1+json";

let scratch: string;
let registry: FakeRegistry;
let node: ImageNode;
let image: BuiltImage;
let reference: string;

beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), "caisson-image-"));
  registry = await FakeRegistry.start();
  node = await ImageNode.start({ progressTimeoutMs: 1500 });
  image = buildImage(join(scratch, "image"), {
    layers: [
      { content: [{ name: "a", content: noise(1 << 20) }], compression: "none" },
      { content: [{ name: "b", content: "b" }] },
    ],
  });
  reference = registry.add("test/app", "1", image);
});
afterEach(async () => {
  await node[Symbol.asyncDispose]();
  await registry[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

async function refused(pulling: Promise<unknown>, code: Code, message: RegExp): Promise<RuntimeError> {
  const error = await pulling.then(
    () => {
      throw new Error("the pull succeeded");
    },
    (reason: RuntimeError) => reason,
  );
  expect(error.message).toMatch(message);
  expect(error.code).toEqual(code);
  expect(node.images.list()).toEqual([]);
  expect(readdirSync(join(node.root, "layers")).filter((name) => name.includes("partial"))).toEqual([]);
  return error;
}

const isBlob = (url: string, digest?: string): boolean => url.includes(`/blobs/${digest ?? ""}`);
const bigLayer = (): string => image.layerDigests[0] ?? "";

describe("lies", () => {
  it("refuses a layer with other content of the right size", async () => {
    const data = registry.blobs.get(bigLayer()) ?? Buffer.alloc(0);
    const changed = Buffer.from(data);
    changed[600] = (changed[600] ?? 0) ^ 1;
    registry.blobs.set(bigLayer(), changed);
    await refused(node.pull(reference), "data_loss", /digest/);
  });
  it("refuses a layer that is longer or shorter than its descriptor, announced or not", async () => {
    const data = registry.blobs.get(bigLayer()) ?? Buffer.alloc(0);
    registry.blobs.set(bigLayer(), Buffer.concat([data, Buffer.from("x")]));
    await refused(node.pull(reference), "data_loss", /has \d+ bytes/);
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      response.writeHead(200).end(Buffer.concat([data, Buffer.from("x")]));
      return true;
    };
    await refused(node.pull(reference), "data_loss", /larger/);
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      response.writeHead(200).end(data.subarray(0, 1000));
      return true;
    };
    await refused(node.pull(reference), "data_loss", /digest|ends after/);
  });
  it("refuses a layer whose content is not what the config promises", async () => {
    const lying = buildImage(join(scratch, "lying"), {
      layers: [{ content: [{ name: "x" }], diffId: `sha256:${"0".repeat(64)}` }],
    });
    await refused(node.pull(registry.add("test/lying", "1", lying)), "data_loss", /unpacks to/);
  });
  it("refuses a config that does not have its digest", async () => {
    registry.blobs.set(image.id, Buffer.from((registry.blobs.get(image.id) ?? "").toString().replace("linux", "LINUX")));
    await refused(node.pull(reference), "data_loss", /config of .* has digest/);
  });
  it("refuses a manifest that does not have the digest it was asked for by, or that the header claims", async () => {
    const document = { type: manifestType, data: Buffer.from(`${image.manifest.toString()} `) };
    registry.manifests.set(`test/app/${image.manifestDigest}`, document);
    await refused(node.pull(`${registry.host}/test/app@${image.manifestDigest}`), "data_loss", /digest/);
    registry.interfere = ({ url }, response) => {
      if (!url.includes("/manifests/1")) return false;
      response
        .writeHead(200, { "content-type": manifestType, "docker-content-digest": `sha256:${"1".repeat(64)}` })
        .end(image.manifest);
      return true;
    };
    await refused(node.pull(reference), "data_loss", /digest/);
  });
  it.each([
    ["a manifest that is an index as well (CVE-2021-41190)", { manifests: [] }, manifestType, /both a manifest and an index/],
    ["a manifest sent as an index", {}, indexType, /calls itself/],
    ["keys that differ in case only", { Layers: [] }, manifestType, /mistaken/],
    ["a manifest without schemaVersion", { schemaVersion: 1 }, manifestType, /schema 1/],
    ["an unknown type", { mediaType: "application/vnd.example+json" }, "application/vnd.example+json", /neither/],
    [
      "an artifact",
      { config: { mediaType: "application/vnd.oci.empty.v1+json", digest: `sha256:${"a".repeat(64)}`, size: 2 } },
      manifestType,
      /artifact/,
    ],
    [
      "an unknown layer type",
      { layers: [{ mediaType: "application/x-tar", digest: `sha256:${"a".repeat(64)}`, size: 2 }] },
      manifestType,
      /layer type/,
    ],
    [
      "a layer without a digest",
      { layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: "../../x", size: 2 }] },
      manifestType,
      /not a digest/,
    ],
    ["fewer layers than diff ids", { layers: [] }, manifestType, /0 layers/],
  ])("refuses %s", async (_, change, type, message) => {
    const data = Buffer.from(JSON.stringify({ ...JSON.parse(image.manifest.toString()), ...change }));
    registry.addManifest("test/odd", "1", sha256(data), { type, data });
    const error = await refused(
      node.pull(`${registry.host}/test/odd:1`),
      expect.stringMatching(/invalid_argument|unimplemented/),
      message,
    );
    expect(error.message).toMatch(/test\/odd/);
  });
  it("refuses duplicate keys", async () => {
    const data = Buffer.from(image.manifest.toString().replace('"schemaVersion":2', '"schemaVersion":2,"layers":[]'));
    registry.addManifest("test/odd", "1", sha256(data), { type: manifestType, data });
    await refused(node.pull(`${registry.host}/test/odd:1`), "invalid_argument", /twice/);
  });
  it("reads no more than 4 MiB of a manifest, and no more of a config than it should have (class-registry-bodies)", async () => {
    const data = Buffer.from(JSON.stringify({ schemaVersion: 2, junk: "x".repeat(5 << 20) }));
    registry.addManifest("test/odd", "1", sha256(data), { type: manifestType, data });
    await refused(node.pull(`${registry.host}/test/odd:1`), "data_loss", /larger than 4194304/);
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, image.id)) return false;
      response.writeHead(200).end(Buffer.alloc(1 << 20, " "));
      return true;
    };
    await refused(node.pull(reference), "data_loss", /larger than/);
  });
  it("asks nobody but the registry for foreign layers (CVE-2020-15157)", async () => {
    await using other = await FakeRegistry.start();
    const manifest = JSON.parse(image.manifest.toString());
    for (const layer of manifest.layers)
      Object.assign(layer, {
        mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        urls: [`${other.url}/layer`],
      });
    const data = Buffer.from(JSON.stringify(manifest));
    registry.addManifest("test/foreign", "1", sha256(data), { type: manifestType, data });
    await node.images.pull(
      `${registry.host}/test/foreign:1`,
      { ...none, username: "u", password: "p" },
      new AbortController().signal,
    );
    expect(other.seen).toEqual([]);
  });
});

describe("trouble on the way", () => {
  it("resumes a blob where its connection broke", async () => {
    const data = registry.blobs.get(bigLayer()) ?? Buffer.alloc(0);
    let breaks = 3;
    registry.interfere = async ({ url, headers }, response) => {
      if (!isBlob(url, bigLayer()) || breaks-- <= 0) return false;
      const start = Number(/\d+/.exec(headers.range ?? "0")?.[0]);
      response.writeHead(start > 0 ? 206 : 200, {
        "content-length": data.length - start,
        ...(start > 0 && { "content-range": `bytes ${start}-${data.length - 1}/${data.length}` }),
      });
      response.write(data.subarray(start, start + 300_000), () => setTimeout(() => response.destroy(), 50));
      return true;
    };
    await node.pull(reference);
    const ranges = registry.requests(new RegExp(`GET .*${bigLayer()}`)).map(({ headers }) => headers.range);
    expect(ranges).toEqual([undefined, "bytes=300000-", "bytes=600000-", "bytes=900000-"]);
    expect(readFileSync(join(node.images.list()[0]?.layerDirs[1] ?? "", "a")).length).toBe(1 << 20);
  });
  it("asks again for a manifest whose connection breaks in the middle", async () => {
    let breaks = 2;
    registry.interfere = ({ url }, response) => {
      if (!url.includes("/manifests/") || breaks-- <= 0) return false;
      response.writeHead(200, { "content-type": manifestType, "content-length": image.manifest.length });
      response.write(image.manifest.subarray(0, 100), () => setTimeout(() => response.destroy(), 30));
      return true;
    };
    await node.pull(reference);
    expect(registry.requests(/manifests/)).toHaveLength(3);
  });
  it("copes with a server that ignores Range", async () => {
    const data = registry.blobs.get(bigLayer()) ?? Buffer.alloc(0);
    let breaks = 1;
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      response.writeHead(200, { "content-length": data.length });
      if (breaks-- > 0) response.write(data.subarray(0, 500_000), () => setTimeout(() => response.destroy(), 50));
      else response.end(data);
      return true;
    };
    await node.pull(reference);
  });
  it("refuses another range than it asked for", async () => {
    const data = registry.blobs.get(bigLayer()) ?? Buffer.alloc(0);
    registry.interfere = ({ url, headers }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      if (headers.range === undefined) {
        response
          .writeHead(200, { "content-length": data.length })
          .write(data.subarray(0, 1000), () => setTimeout(() => response.destroy(), 20));
      } else response.writeHead(206, { "content-range": `bytes 5-${data.length - 1}/${data.length}` }).end(data.subarray(5));
      return true;
    };
    await refused(node.pull(reference), "data_loss", /range/);
  });
  it("waits as told by Retry-After, and tries again after 5xx and broken connections", async () => {
    const answers = [429, 503, 0];
    registry.interfere = ({ url }, response) => {
      if (!url.includes("/manifests/") || answers.length === 0) return false;
      const status = answers.shift() ?? 0;
      if (status === 0) response.destroy();
      else response.writeHead(status, status === 429 ? { "retry-after": "1" } : {}).end();
      return true;
    };
    const begun = performance.now();
    await node.pull(reference);
    expect(performance.now() - begun).toBeGreaterThan(1000);
    expect(registry.requests(/manifests/)).toHaveLength(4);
  });
  it("gives up on a registry that stays broken, with the kubelet's word for it", async () => {
    registry.interfere = (_, response) => {
      response.writeHead(503).end("x".repeat(100));
      return true;
    };
    await refused(node.pull(reference), "unknown", /^RegistryUnavailable: .* 503/);
    expect(registry.seen).toHaveLength(5);
  });
  it.each([
    ["the manifest", "/manifests/"],
    ["the config", "/blobs/"],
  ])("ends a pull whose registry stalls before %s", async (_, part) => {
    registry.interfere = ({ url }) => url.includes(part);
    await refused(node.pull(reference), "unknown", /^RegistryUnavailable: .*stopped sending/);
  });
  it("ends a pull whose layer stops coming, and removes what was there (class-pull-stall)", async () => {
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      response.writeHead(200).write(Buffer.alloc(1000));
      return true;
    };
    await refused(node.pull(reference), "unknown", /^RegistryUnavailable: .*stopped sending/);
  });
  it("says who cannot be reached", async () => {
    await refused(node.pull("127.0.0.1:1/x:1"), "unknown", /^RegistryUnavailable: 127\.0\.0\.1:1: .*ECONNREFUSED/);
    await refused(node.pull("no-such-host.invalid/x:1"), "unknown", /^RegistryUnavailable: no-such-host\.invalid/);
  });
  it("tells a missing manifest from a refused one", async () => {
    await refused(node.pull(`${registry.host}/test/none:1`), "not_found", /MANIFEST_UNKNOWN/);
    registry.interfere = (_, response) => {
      response.writeHead(403).end(JSON.stringify({ errors: [{ code: "DENIED", message: "no\u001b[31m" }] }));
      return true;
    };
    await refused(node.pull(reference), "permission_denied", /DENIED: no\?/);
  });
  it("stops when its only caller goes, and leaves nothing", async () => {
    const stop = new AbortController();
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url, bigLayer())) return false;
      response.writeHead(200, { "content-length": (registry.blobs.get(bigLayer()) ?? "").length }).write(Buffer.alloc(100_000));
      setTimeout(() => stop.abort(new Error("caller left")), 100);
      return true;
    };
    await expect(node.pull(reference, stop.signal)).rejects.toThrow("caller left");
    expect(readdirSync(join(node.root, "layers")).filter((name) => name.includes("partial"))).toEqual([]);
  });
  it("goes on for a second caller of the same pull, and downloads once", async () => {
    const stop = new AbortController();
    registry.interfere = async ({ url }) => {
      if (isBlob(url, bigLayer())) await new Promise((resolve) => setTimeout(resolve, 300));
      return false;
    };
    const first = node.pull(reference, stop.signal);
    const second = node.pull(reference);
    setTimeout(() => stop.abort(new Error("caller left")), 100);
    await expect(first).rejects.toThrow("caller left");
    expect(await second).toBe(image.id);
    expect(registry.requests(/GET .*manifests/)).toHaveLength(1);
    expect(registry.requests(new RegExp(`GET .*${bigLayer()}`))).toHaveLength(1);
  });
  it("shares a layer between pulls of different images, also when the one that began it goes", async () => {
    const upper = buildImage(join(scratch, "upper"), {
      layers: [{ content: [{ name: "a", content: noise(1 << 20) }], compression: "none" }, { content: [{ name: "other" }] }],
    });
    expect(upper.layerDigests[0]).toBe(bigLayer());
    const otherReference = registry.add("test/upper", "1", upper);
    registry.interfere = async ({ url }) => {
      if (isBlob(url, bigLayer())) await new Promise((resolve) => setTimeout(resolve, 400));
      return false;
    };
    const stop = new AbortController();
    const first = node.pull(reference, stop.signal);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const second = node.pull(otherReference);
    await new Promise((resolve) => setTimeout(resolve, 100));
    stop.abort(new Error("caller left"));
    await expect(first).rejects.toThrow("caller left");
    expect(await second).toBe(upper.id);
    expect(registry.requests(new RegExp(`GET .*${bigLayer()}`))).toHaveLength(1);
    expect(existsSync(join(node.images.find(upper.id)?.layerDirs[1] ?? "", "a"))).toBe(true);
  });
});

describe("credentials", () => {
  const basic = `Basic ${Buffer.from("user:pass").toString("base64")}`;
  const wantBasic = (): void => {
    registry.interfere = ({ headers }, response) => {
      if (headers.authorization === basic) return false;
      response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      return true;
    };
  };
  const pullAs = (auth: Partial<PullAuth>, name = reference): Promise<string> =>
    node.images.pull(name, { ...none, ...auth }, new AbortController().signal);

  it.each([
    ["user and password", { username: "user", password: "pass" }],
    ["the auth form, with a NUL at its end", { auth: Buffer.from("user:pass\0").toString("base64") }],
  ])("takes %s", async (_, auth) => {
    wantBasic();
    await pullAs(auth);
  });
  it("never shows them in an error", async () => {
    wantBasic();
    const error = await refused(pullAs({ username: "user", password: "hunter2" }), "unauthenticated", /pull access denied/);
    expect(JSON.stringify([error.message, error.fields, String(error.cause)])).not.toMatch(/hunter2|Basic/);
    await refused(pullAs({ auth: "%%%" }), "invalid_argument", /auth field/);
  });
  it("uses them only for the server that they name", async () => {
    wantBasic();
    await refused(
      pullAs({ username: "user", password: "pass", serverAddress: "https://elsewhere.example" }),
      "unauthenticated",
      /denied/,
    );
    expect(registry.seen.some(({ headers }) => headers.authorization !== undefined)).toBe(false);
    await pullAs({ username: "user", password: "pass", serverAddress: `https://${registry.host}/v2/` });
  });
  it("drops them, and configured headers, when it is redirected to another host", async () => {
    await using other = await FakeRegistry.start();
    for (const [digest, data] of image.blobs) other.blobs.set(digest, data);
    mkdirSync(join(node.root, "hosts.d", registry.host), { recursive: true });
    writeFileSync(
      join(node.root, "hosts.d", registry.host, "hosts.toml"),
      `server = "${registry.url}"\n[header]\nx-secret = "yes"\n`,
    );
    registry.interfere = ({ url, headers }, response) => {
      if (headers.authorization !== basic) response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      else if (isBlob(url)) response.writeHead(307, { location: `${other.url}${url}` }).end();
      else return false;
      return true;
    };
    await pullAs({ username: "user", password: "pass" });
    expect(other.seen).not.toHaveLength(0);
    for (const { headers } of other.seen) {
      expect(headers.authorization).toBeUndefined();
      expect(headers["x-secret"]).toBeUndefined();
    }
    expect(registry.seen.every(({ headers }) => headers["x-secret"] === "yes")).toBe(true);
  });
  it("gives no credentials to the host of a redirect that asks for them", async () => {
    await using other = await FakeRegistry.start();
    other.interfere = (_, response) => {
      response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      return true;
    };
    registry.interfere = ({ url }, response) => {
      if (!isBlob(url)) return false;
      response.writeHead(302, { location: `${other.url}${url}` }).end();
      return true;
    };
    await refused(pullAs({ username: "user", password: "pass" }), "unauthenticated", /401/);
    expect(other.seen.every(({ headers }) => headers.authorization === undefined)).toBe(true);
  });
  it("ends a loop of redirects", async () => {
    registry.interfere = ({ url }, response) => {
      response.writeHead(307, { location: url }).end();
      return true;
    };
    await refused(node.pull(reference), "unknown", /redirects more than 10/);
    expect(registry.seen).toHaveLength(11);
  });
  it.each(["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])("follows no redirect to %s", async (location) => {
    registry.interfere = (_, response) => {
      response.writeHead(302, { location }).end();
      return true;
    };
    await refused(node.pull(reference), "unknown", /not https/);
  });
  it("sends a registry token as it is", async () => {
    registry.interfere = ({ headers }, response) => {
      if (headers.authorization === "Bearer the-token") return false;
      response.writeHead(401, { "www-authenticate": `Bearer realm="${registry.url}/token"` }).end();
      return true;
    };
    await pullAs({ registryToken: "the-token" });
    expect(registry.requests(/token/)).toEqual([]);
  });
  it("falls back to a form where the token service knows no GET, keeps the token, and renews one that is refused", async () => {
    let valid = "t1";
    registry.interfere = ({ method, url, headers }, response, body) => {
      if (url.startsWith("/token")) {
        const form = new URLSearchParams(body.toString());
        if (method !== "POST") response.writeHead(405).end();
        else if (form.get("grant_type") === "password" && form.get("password") === "pass")
          response.end(JSON.stringify({ access_token: valid, expires_in: 300 }));
        else response.writeHead(401).end();
        return true;
      }
      if (headers.authorization === `Bearer ${valid}`) return false;
      const challenge = `Bearer realm="${registry.url}/token",service="s",scope="repository:test/app:pull",error="invalid_token"`;
      response.writeHead(401, { "www-authenticate": challenge }).end();
      return true;
    };
    await pullAs({ username: "user", password: "pass" });
    expect(registry.requests(/POST \/token/)).toHaveLength(1);
    valid = "t2";
    await node.images.remove(reference);
    await pullAs({ username: "user", password: "pass" });
    expect(registry.requests(/POST \/token/)).toHaveLength(2);
  });
  it("limits the size of a token (class-registry-bodies)", async () => {
    registry.interfere = ({ url }, response) => {
      if (url.startsWith("/token")) response.end(JSON.stringify({ token: "x".repeat(2 << 20) }));
      else response.writeHead(401, { "www-authenticate": `Bearer realm="${registry.url}/token"` }).end();
      return true;
    };
    await refused(node.pull(reference), "data_loss", /token of .* larger/);
  });
});

describe("hosts.toml", () => {
  const configure = (text: string, name = registry.host): void => {
    mkdirSync(join(node.root, "hosts.d", name), { recursive: true });
    writeFileSync(join(node.root, "hosts.d", name, "hosts.toml"), text);
  };
  const server = (): string => `server = "${registry.url}"\n`;

  it("asks mirrors in order, tells them the registry, gives them no credentials, and falls back", async () => {
    await using broken = await FakeRegistry.start();
    await using mirror = await FakeRegistry.start();
    broken.interfere = (_, response) => {
      response.writeHead(500).end();
      return true;
    };
    mirror.add("test/app", "1", image);
    const missing = image.layerDigests[1] ?? "";
    mirror.blobs.delete(missing);
    mirror.interfere = ({ headers }, response) => {
      if (headers.authorization === undefined) return false;
      response.writeHead(400).end();
      return true;
    };
    configure(
      `${server()}[host."${broken.url}"]\ncapabilities = ["pull", "resolve"]\n[host."${mirror.url}"]\ncapabilities = ["pull", "resolve"]\n`,
    );
    await node.images.pull(reference, { ...none, username: "u", password: "p" }, new AbortController().signal);
    expect(broken.requests(/manifests\/1\?ns=/)).toHaveLength(1);
    expect(mirror.requests(/manifests\/1\?ns=127\.0\.0\.1%3A\d+$/)).toHaveLength(1);
    expect(registry.seen.map(({ url }) => url)).toEqual([`/v2/test/app/blobs/${missing}`]);
  });
  it("does not ask a mirror for tags that may only serve digests", async () => {
    await using mirror = await FakeRegistry.start();
    mirror.add("test/app", "1", image);
    configure(`${server()}[host."${mirror.url}"]\ncapabilities = ["pull"]\n`);
    await node.pull(reference);
    expect(mirror.requests(/manifests/)).toEqual([]);
    expect(mirror.requests(/blobs/)).toHaveLength(3);
    expect(registry.requests(/blobs/)).toEqual([]);
  });
  it("takes override_path, a header, and `_default` for every other registry", async () => {
    await using mirror = await FakeRegistry.start();
    mirror.add("test/app", "1", image);
    mirror.interfere = ({ url, headers }, response) => {
      if (headers["x-team"] !== "blue") response.writeHead(400).end();
      else if (!url.startsWith("/api/v2/")) return false;
      else response.writeHead(307, { location: url.replace("/api", "") }).end();
      return true;
    };
    configure(
      `[host."${mirror.url}/api/v2"]\noverride_path = true\n[host."${mirror.url}/api/v2".header]\nx-team = "blue"\n`,
      "_default",
    );
    expect(await node.pull("registry.invalid/test/app:1")).toBe(image.id);
    expect(mirror.requests(/\/api\/v2\/test\/app\/manifests\/1\?ns=registry\.invalid/)).toHaveLength(1);
    expect(node.images.list()[0]?.repoTags).toEqual(["registry.invalid/test/app:1"]);
  });
  it("trusts the authorities that it names, presents client certificates, and can skip verification", async () => {
    const key = (name: string, extra: readonly string[] = []): void => {
      const files = ["-keyout", join(scratch, `${name}.key`), "-out", join(scratch, `${name}.crt`)];
      const options = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        `/CN=${name}`,
        ...extra,
      ];
      execFileSync("openssl", ["req", "-x509", ...options, ...files], { stdio: "ignore" });
    };
    key("server", ["-addext", "subjectAltName=IP:127.0.0.1"]);
    key("client");
    const read = (name: string): string => readFileSync(join(scratch, name), "utf8");
    await using secure = await FakeRegistry.start({ cert: read("server.crt"), key: read("server.key"), ca: read("client.crt") });
    const name = secure.add("test/app", "1", image);
    configure(`server = "${secure.url}"\n`, secure.host);
    await refused(node.pull(name), "unknown", /^RegistryUnavailable/);
    configure(`server = "${secure.url}"\nca = "${join(scratch, "server.crt")}"\n`, secure.host);
    await refused(node.pull(name), "unknown", /^RegistryUnavailable/); // no client certificate
    configure(
      `server = "${secure.url}"\nca = "${join(scratch, "server.crt")}"\nclient = [["${scratch}/client.crt", "${scratch}/client.key"]]\n`,
      secure.host,
    );
    expect(await node.pull(name)).toBe(image.id);
    await node.images.remove(name);
    configure(
      `server = "${secure.url}"\nskip_verify = true\nclient = [["${scratch}/client.crt", "${scratch}/client.key"]]\n`,
      secure.host,
    );
    expect(await node.pull(name)).toBe(image.id);
  });
  it("never goes from https to http", async () => {
    execFileSync(
      "openssl",
      [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
        "-keyout",
        join(scratch, "k"),
        "-out",
        join(scratch, "c"),
      ],
      { stdio: "ignore" },
    );
    await using secure = await FakeRegistry.start({
      cert: readFileSync(join(scratch, "c"), "utf8"),
      key: readFileSync(join(scratch, "k"), "utf8"),
    });
    secure.interfere = ({ url }, response) => {
      response.writeHead(307, { location: `${registry.url}${url}` }).end();
      return true;
    };
    configure(`server = "${secure.url}"\nskip_verify = true\n`, secure.host);
    await refused(node.pull(`${secure.host}/test/app:1`), "unknown", /not https/);
    secure.interfere = (_, response) => {
      response.writeHead(401, { "www-authenticate": 'Bearer realm="http://token.invalid/token"' }).end();
      return true;
    };
    await refused(node.pull(`${secure.host}/test/app:1`), "unknown", /without https/);
    expect(registry.seen).toEqual([]);
  });
  it("says what is wrong with the file", async () => {
    configure("server = [");
    await refused(node.pull(reference), "failed_precondition", /hosts\.toml/);
    configure(`server = "ldap://x"\n`);
    await refused(node.pull(reference), "failed_precondition", /neither http nor https/);
  });
});

describe("hostile layers", () => {
  it("are refused with the helper's sentence, and leave nothing", async () => {
    const bad = buildImage(join(scratch, "bad"), { layers: [{ content: tar([{ name: "zero", type: "3" }]) }] });
    await refused(node.pull(registry.add("test/bad", "1", bad)), "invalid_argument", /character device 0:0/);
    const garbage = buildImage(join(scratch, "garbage"), {
      layers: [{ content: [{ name: "x" }], blob: Buffer.concat([gzipSync(tar([{ name: "x" }])), Buffer.from("tail")]) }],
    });
    await refused(node.pull(registry.add("test/garbage", "1", garbage)), "invalid_argument", /garbage/);
  });
  it("stop at the configured limits", async () => {
    const many = buildImage(join(scratch, "many"), {
      layers: [{ content: Array.from({ length: 300 }, (_, i) => ({ name: `f${i}` })) }],
    });
    await node[Symbol.asyncDispose]();
    node = await ImageNode.start({ maxLayerEntries: 100 });
    await refused(node.pull(registry.add("test/many", "1", many)), "resource_exhausted", /more than 100 entries/);
  });
});
