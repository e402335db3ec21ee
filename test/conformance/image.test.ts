/** ImageService. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { type BuiltImage, buildImage } from "../helpers/oci-image.ts";
import { pushImage, registryUser, startRegistry } from "../helpers/registry.ts";
import { clause } from "./clause.ts";
import { codes, forever, now, refused, unique, useCri } from "./cri.ts";

const cri = useCri();
const made = { madeImages: true } as const;

interface Pushed {
  readonly name: string;
  readonly tagged: string;
  readonly byDigest: string;
  readonly image: BuiltImage;
}
/** A small image that nobody else has: no program, one file. */
const fresh = async (config: Message = {}, tag = "1"): Promise<Pushed> => {
  const name = `conformance/${unique("fresh")}`;
  const content = [{ name: "unique", content: Buffer.from(name) }];
  const image = buildImage(join(cri.endpoint.scratch, unique("image")), { config, layers: [{ content }] });
  const tagged = await cri.push(name, tag, image);
  const host = cri.endpoint.registry;
  return { name: `${host}/${name}`, tagged, byDigest: `${host}/${name}@${image.manifestDigest}`, image };
};
const statusOf = async (image: string): Promise<Message> => (await cri.image("ImageStatus", { image: { image } })).image;
const all = async (): Promise<Message[]> => (await cri.image("ListImages")).images;
const remove = async (image: string): Promise<void> => void (await cri.image("RemoveImage", { image: { image } }));
const pulling = (image: string, more: Message = {}): Promise<Message> => cri.image("PullImage", { image: { image }, ...more });

/** An image behind a registry that wants user and password. */
async function withSecret(body: (reference: string, host: string) => Promise<void>): Promise<void> {
  const registry = await startRegistry({ auth: "basic" });
  try {
    const content = [{ name: "secret", content: Buffer.from(unique("secret")) }];
    const image = buildImage(join(cri.endpoint.scratch, unique("image")), { layers: [{ content }] });
    const reference = await pushImage(registry, "conformance/secret", "1", image);
    await body(reference, registry.host);
    await remove(reference);
  } finally {
    await registry.stop();
  }
}

describe("PullImage", () => {
  clause("image_ref is not empty, and the image is in ListImages and ImageStatus at once", made, async () => {
    const { tagged } = await fresh();
    const reference = await cri.pull(tagged);
    expect(reference).not.toBe("");
    expect((await statusOf(reference)).repo_tags).toEqual([tagged]);
    expect((await all()).map((image) => image.id)).toContain((await statusOf(tagged)).id);
  });

  clause("image_ref equals the image's id", { since: "1.36", ...made }, async () => {
    const { tagged } = await fresh();
    expect(await cri.pull(tagged)).toBe((await statusOf(tagged)).id);
  });

  clause("it is idempotent: the same again gives the same", made, async () => {
    const { tagged } = await fresh();
    const first = await cri.pull(tagged);
    expect(await cri.pull(tagged)).toBe(first);
    expect((await all()).filter((image) => image.repo_tags.includes(tagged))).toHaveLength(1);
  });

  clause("identical pulls at the same time all succeed with the same image", made, async () => {
    const { tagged } = await fresh();
    expect(new Set(await Promise.all([1, 2, 3, 4].map(() => cri.pull(tagged)))).size).toBe(1);
  });

  clause("a tag that has moved is pointed at the new image", made, async () => {
    const { name, tagged, image } = await fresh();
    const first = await cri.pull(tagged);
    const content = [{ name: "newer", content: Buffer.from(name) }];
    const newer = buildImage(join(cri.endpoint.scratch, unique("image")), { layers: [{ content }] });
    await cri.push(name.slice(name.indexOf("/") + 1), "1", newer);
    const second = await cri.pull(tagged);
    expect(second).not.toBe(first);
    expect((await statusOf(tagged)).id).toContain(newer.id.replace("sha256:", ""));
    expect(image.id).not.toBe(newer.id);
  });

  clause("an image pulled by digest has that digest and no tag", made, async () => {
    const { byDigest } = await fresh();
    await cri.pull(byDigest);
    expect(await statusOf(byDigest)).toMatchObject({ repo_tags: [], repo_digests: [byDigest] });
  });

  clause("with tag and digest the digest counts", made, async () => {
    const { tagged, image } = await fresh();
    const reference = await cri.pull(`${tagged}@${image.manifestDigest}`);
    expect((await statusOf(reference)).id).toContain(image.id.replace("sha256:", ""));
  });

  clause("without a tag it is latest", made, async () => {
    const { name } = await fresh({}, "latest");
    await cri.pull(name);
    expect((await statusOf(name)).repo_tags).toEqual([`${name}:latest`]);
  });

  clause("what the registry does not have is an error that says what", made, async () => {
    const { name } = await fresh();
    const allowed = [...codes.missingImage, ...codes.invalid];
    expect(await refused(pulling(`${name}:none`), allowed)).toContain("none");
    await refused(pulling(`${cri.endpoint.registry}/conformance/absent:1`), allowed);
    await refused(pulling(`${name}@sha256:${"1".repeat(64)}`), allowed);
  });

  clause("a reference that is none is an error", async () => {
    for (const reference of ["", "UPPER/case", "a b", "x:y:z", `name@sha256:12`])
      await refused(pulling(reference), codes.invalid);
    await refused(cri.image("PullImage", {}), codes.invalid);
  });

  clause("a registry that does not answer is an error", async () => {
    await refused(pulling("127.0.0.1:1/none/such:1"), [...codes.any, 14]);
  });

  clause("a pull that fails leaves nothing behind", made, async () => {
    const { name } = await fresh();
    const before = (await all()).map((image) => image.id).sort();
    await refused(pulling(`${name}:none`), codes.any);
    expect((await all()).map((image) => image.id).sort()).toEqual(before);
  });

  clause("an unknown runtime handler is refused", { since: "1.29", ours: true }, async () => {
    const { tagged } = await fresh();
    await refused(cri.image("PullImage", { image: { image: tagged, runtime_handler: "no-such" } }), codes.any);
  });

  clause("credentials are used, as user and password or as auth, and never shown in an error", made, async () => {
    await withSecret(async (reference) => {
      await refused(pulling(reference), codes.denied);
      const wrong = { username: registryUser.username, password: "wr0ng-passw0rd" };
      expect(await refused(pulling(reference, { auth: wrong }), codes.denied)).not.toContain("wr0ng-passw0rd");
      const { username, password } = registryUser;
      await pulling(reference, { auth: { username, password } });
      const auth = Buffer.from(`${username}:${password}`).toString("base64");
      await pulling(reference, { auth: { auth } });
    });
  });

  // containerd 1.6 takes a server_address that has no scheme for no address at all.
  clause("credentials are used only where server_address is empty or names the registry", made, async () => {
    await withSecret(async (reference, host) => {
      const auth = Buffer.from(`${registryUser.username}:${registryUser.password}`).toString("base64");
      await refused(pulling(reference, { auth: { auth, server_address: "https://192.0.2.1" } }), codes.denied);
      await pulling(reference, { auth: { auth, server_address: `http://${host}` } });
      await pulling(reference, { auth: { auth, server_address: host } });
    });
  });

  clause("a pull that is given up leaves no half image, and can be asked for again", made, async () => {
    const { tagged } = await fresh();
    await cri.client.image("PullImage", { image: { image: tagged } }, 60_000, AbortSignal.timeout(4)).catch(() => undefined);
    const early = await statusOf(tagged);
    if (early !== null) expect(early.repo_tags).toEqual([tagged]);
    await cri.pull(tagged);
    expect((await statusOf(tagged)).repo_tags).toEqual([tagged]);
  });
});

describe("ImageStatus", () => {
  clause("an image that is not there is a success without an image", async () => {
    for (const image of ["127.0.0.1:1/none/such:1", `sha256:${"2".repeat(64)}`, "2".repeat(64)]) {
      expect(await statusOf(image)).toBeNull();
    }
  });

  clause("an image has an id, a size that is not 0, its tags and its digests", made, async () => {
    const { tagged, byDigest } = await fresh();
    await cri.pull(tagged);
    const image = await statusOf(tagged);
    expect(image).toMatchObject({ repo_tags: [tagged], repo_digests: [byDigest] });
    expect(image.id).not.toBe("");
    expect(BigInt(image.size) > 0n).toBe(true);
  });

  clause("an image is found by tag, digest, tag and digest, id, bare id and prefix of its id", made, async () => {
    const { tagged, byDigest, image } = await fresh();
    await cri.pull(tagged);
    const { id } = await statusOf(tagged);
    const bare = id.replace("sha256:", "");
    for (const reference of [byDigest, `${tagged}@${image.manifestDigest}`, `sha256:${bare}`, bare, bare.slice(0, 20)]) {
      expect((await statusOf(reference))?.id, reference).toBe(id);
    }
  });

  clause("a numeric user is uid, a name is username, without the group; none is neither", made, async () => {
    const user = async (User: string): Promise<unknown> => {
      const { tagged } = await fresh({ User });
      await cri.pull(tagged);
      const { uid, username } = await statusOf(tagged);
      return [uid?.value ?? null, username];
    };
    expect(await user("1000:2000")).toEqual(["1000", ""]);
    expect(await user("1000")).toEqual(["1000", ""]);
    expect(await user("someone:group")).toEqual([null, "someone"]);
    expect(await user("")).toEqual([null, ""]);
    expect(await user("0")).toEqual(["0", ""]);
  });

  clause("an image that nobody pinned is not pinned", { since: "1.23", ...made }, async () => {
    const { tagged } = await fresh();
    await cri.pull(tagged);
    expect((await statusOf(tagged)).pinned).toBe(false);
  });

  clause("info is given only when verbose is asked for", made, async () => {
    const { tagged } = await fresh({ Env: ["A=b"] });
    await cri.pull(tagged);
    expect((await cri.image("ImageStatus", { image: { image: tagged } })).info).toEqual({});
    const { info } = await cri.image("ImageStatus", { image: { image: tagged }, verbose: true });
    expect(JSON.parse(info.info).imageSpec.config.Env).toEqual(["A=b"]);
  });

  clause("a request that names no image is an error", async () => {
    await refused(cri.image("ImageStatus", {}), codes.any);
  });
});

describe("ListImages", () => {
  clause("every image is listed once, as ImageStatus shows it", async () => {
    const images = await all();
    expect(new Set(images.map((image) => image.id)).size).toBe(images.length);
    const mine = images.find((image) => image.id === cri.endpoint.imageId || cri.endpoint.imageId.includes(image.id));
    expect(mine).toEqual(await statusOf(cri.endpoint.imageId));
  });

  // containerd ignores the filter.
  clause("a filter lists only that image, and nothing when there is none", made, async () => {
    const { tagged } = await fresh();
    await cri.pull(tagged);
    const filtered = async (image: string): Promise<string[]> =>
      (await cri.image("ListImages", { filter: { image: { image } } })).images.map((one: Message) => one.id);
    expect(await filtered(tagged)).toEqual([(await statusOf(tagged)).id]);
    expect(await filtered("127.0.0.1:1/none/such:1")).toEqual([]);
  });

  clause("the same content under two names is one image with two tags", made, async () => {
    const { tagged, image } = await fresh();
    const other = await cri.push(`conformance/${unique("twin")}`, "2", image);
    expect(await cri.pull(other)).toBe(await cri.pull(tagged));
    const found = (await all()).filter((one) => one.repo_tags.includes(tagged));
    expect(found.map((one) => [...one.repo_tags].sort())).toEqual([[tagged, other].sort()]);
  });
});

describe("RemoveImage", () => {
  clause("the image is gone from List and Status on return", made, async () => {
    const { tagged } = await fresh();
    const id = await cri.pull(tagged);
    await remove(id);
    expect(await statusOf(id)).toBeNull();
    expect(await statusOf(tagged)).toBeNull();
    expect((await all()).map((image) => image.id)).not.toContain(id);
  });

  clause("removing by any one tag removes the image with all its tags and digests", made, async () => {
    const { tagged, byDigest, image } = await fresh();
    const other = await cri.push(`conformance/${unique("twin")}`, "2", image);
    await cri.pull(tagged);
    await cri.pull(other);
    await remove(other);
    for (const reference of [tagged, other, byDigest]) expect(await statusOf(reference)).toBeNull();
  });

  clause("it is idempotent: an image that is not there is a success", made, async () => {
    await remove(`sha256:${"3".repeat(64)}`);
    await remove("127.0.0.1:1/none/such:1");
    const { tagged } = await fresh();
    await cri.pull(tagged);
    await remove(tagged);
    await remove(tagged);
  });

  clause("parallel removals of one image all succeed", made, async () => {
    const { tagged } = await fresh();
    const id = await cri.pull(tagged);
    await Promise.all([remove(id), remove(tagged), remove(id), remove(tagged)]);
    expect(await statusOf(id)).toBeNull();
  });

  clause("a container whose image is removed runs on, or the removal is refused", made, async () => {
    const image = await cri.pull(`${cri.endpoint.registry}/conformance/stop-usr1:1`);
    const id = await cri.run(await cri.sharedPod(), cri.containerConfig(forever, { image: { image } }));
    await remove(image).catch(() => undefined);
    expect(await cri.exec(id, "ls /bin/busybox")).toMatchObject({ out: "/bin/busybox" });
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_RUNNING" });
    expect((await cri.status(id)).image_ref).not.toBe("");
  });

  clause("an image can be pulled again after it was removed", made, async () => {
    const { tagged } = await fresh();
    const id = await cri.pull(tagged);
    await remove(id);
    expect(await cri.pull(tagged)).toBe(id);
  });
});

describe("ImageFsInfo", () => {
  clause("there is a file system of images: an existing directory, used bytes and inodes, a time stamp", async () => {
    const usage = async (): Promise<Message[]> => (await cri.image("ImageFsInfo")).image_filesystems;
    const filesystems = await cri.until(
      async () => {
        const found = await usage();
        return found.some((one) => BigInt(one.used_bytes?.value ?? 0) > 0n) ? found : undefined;
      },
      "used bytes of images",
      15_000,
    );
    for (const { fs_id, timestamp, used_bytes } of filesystems) {
      expect(existsSync(fs_id.mountpoint)).toBe(true);
      expect(used_bytes).not.toBeNull();
      expect(BigInt(timestamp) > now() - 120_000_000_000n).toBe(true);
    }
  });
});
