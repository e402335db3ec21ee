/** Images of an OCI layout directory, where the node's configuration serves a repository from one. */
import { constants, type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { readBounded } from "./bounded.ts";
import { checkDigest, digestAlgorithm, hexOf, isDigest } from "./digest.ts";
import { type Descriptor, type IndexEntry, parseManifest } from "./documents.ts";
import { parseJson } from "./json.ts";
import { maxManifestBytes, type RawDocument, type Source } from "./source.ts";

const refName = "org.opencontainers.image.ref.name";
const chunkBytes = 256 * 1024;

export class LayoutSource implements Source {
  readonly name: string;
  readonly credentialsKey = "layout";
  readonly #dir: string;

  constructor(name: string, dir: string) {
    this.name = name;
    this.#dir = dir;
  }

  async hint(): Promise<undefined> {
    return undefined;
  }

  async manifest(tagOrDigest: string): Promise<RawDocument> {
    await this.#checkVersion();
    const entry = await this.#entry(tagOrDigest);
    const digest = entry?.digest ?? (isDigest(tagOrDigest) ? tagOrDigest : undefined);
    if (digest === undefined) throw this.#missing(`${this.name}:${tagOrDigest}`);
    const what = `manifest ${digest} of ${this.name}`;
    const data = await readBounded(this.#read(this.#blobPath(digest), 0), maxManifestBytes, what);
    checkDigest(data, digest, what);
    return { data, digest, contentType: entry?.mediaType ?? "" };
  }

  async document(descriptor: Descriptor, maxBytes: number, what: string): Promise<Buffer> {
    const data = await readBounded(
      this.#read(this.#blobPath(descriptor.digest), 0),
      Math.min(maxBytes, descriptor.sizeBytes),
      what,
    );
    checkDigest(data, descriptor.digest, what);
    return data;
  }

  async blob(descriptor: Descriptor, offset: number): Promise<AsyncIterable<Uint8Array>> {
    return this.#read(this.#blobPath(descriptor.digest), offset);
  }

  #blobPath(digest: string): string {
    return join("blobs", digestAlgorithm(digest), hexOf(digest));
  }

  #missing(what: string): RuntimeError {
    return new RuntimeError("not_found", `not found: ${what} in the layout ${this.#dir}`);
  }

  async #checkVersion(): Promise<void> {
    const header = parseJson(await readBounded(this.#read("oci-layout", 0), 4096, "oci-layout"), "oci-layout");
    if (header.imageLayoutVersion !== "1.0.0")
      throw new RuntimeError("failed_precondition", `${this.#dir} is no OCI layout of version 1.0.0`);
  }

  async #entry(tagOrDigest: string): Promise<IndexEntry | undefined> {
    const what = `index.json of the layout ${this.#dir}`;
    const index = parseManifest(await readBounded(this.#read("index.json", 0), maxManifestBytes, what), "", what);
    if (index.kind !== "index") throw new RuntimeError("failed_precondition", `${what} is not an index`);
    if (isDigest(tagOrDigest)) return index.manifests.find((entry) => entry.digest === tagOrDigest);
    // The annotation holds a tag, or with some tools the whole reference.
    return index.manifests.find((entry) =>
      [tagOrDigest, `${this.name}:${tagOrDigest}`].includes(String(entry.annotations[refName])),
    );
  }

  async *#read(path: string, offset: number): AsyncGenerator<Uint8Array> {
    const full = join(this.#dir, path);
    let file: FileHandle;
    try {
      file = await open(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoName(error) === "ENOENT") throw this.#missing(path);
      throw new RuntimeError("failed_precondition", `cannot read ${full}: ${messageOf(error)}`, {}, error);
    }
    await using handle = file;
    if (!(await handle.stat()).isFile()) throw new RuntimeError("failed_precondition", `${full} is not a regular file`);
    for (let position = offset; ; ) {
      const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  }
}
