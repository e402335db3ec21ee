/** Images in memory, by id and by name; every change goes to the store and to a copy on disk first. */
import { errnoName, RuntimeError } from "../lib/errors.ts";
import { type Digest, hexOf, isDigest } from "./digest.ts";
import type { ImageRecord, RecordCollection } from "./records.ts";
import { formatReference, parseReference, type Reference, tagged } from "./reference.ts";
import type { DocumentDirectory } from "./sidecar.ts";

/** What a pull found out. */
export interface PulledImage {
  readonly id: Digest;
  readonly reference: Reference;
  /** Of the manifest or index that the reference stands for. */
  readonly digest: Digest;
  readonly configJson: string;
  readonly chainIds: readonly Digest[];
  readonly checkpointOf: string | undefined;
}

const maxNamedCandidates = 5;

export class ImageSet {
  readonly #records: RecordCollection<ImageRecord>;
  readonly #copies: DocumentDirectory<ImageRecord>;
  readonly #images = new Map<Digest, ImageRecord>();

  constructor(records: RecordCollection<ImageRecord>, copies: DocumentDirectory<ImageRecord>) {
    this.#records = records;
    this.#copies = copies;
  }

  /** `complete` says whether all layers of an image are there; one that lacks some is forgotten, so that it is pulled again. */
  async open(complete: (record: ImageRecord) => boolean): Promise<void> {
    const merged = new Map(this.#records.load());
    for (const [key, copy] of await this.#copies.load()) {
      const recorded = merged.get(key);
      if (recorded === undefined || recorded.changedAtMs < copy.changedAtMs) merged.set(key, copy);
    }
    for (const [key, record] of merged) {
      if (!complete(record) || hexOf(record.id) !== key) {
        this.#records.delete(key);
        await this.#copies.delete(key);
        continue;
      }
      this.#images.set(record.id, record);
      this.#records.put(key, record);
    }
  }

  get(id: Digest): ImageRecord | undefined {
    return this.#images.get(id);
  }

  /** Also the removed ones that are still held. */
  all(): readonly ImageRecord[] {
    return [...this.#images.values()];
  }

  listed(): readonly ImageRecord[] {
    return this.all().filter((image) => !image.removed);
  }

  /** By id, name or unambiguous id prefix; a name that looks like a prefix is taken as a name first. */
  find(text: string): ImageRecord | undefined {
    const listed = this.listed();
    const hex = text.startsWith("sha256:") ? text.slice("sha256:".length) : text;
    if (isDigest(`sha256:${hex}`)) return listed.find((image) => image.id === `sha256:${hex}`);
    const named = findNamed(listed, text);
    if (named !== undefined || !/^[0-9a-f]+$/.test(hex)) return named;
    const matches = listed.filter((image) => hexOf(image.id).startsWith(hex));
    if (matches.length > 1) throw ambiguous(text, matches);
    return matches[0];
  }

  /** The image that `name@digest` stands for. */
  findDigest(name: string, digest: Digest): ImageRecord | undefined {
    return this.listed().find((image) => image.repoDigests.includes(`${name}@${digest}`));
  }

  /** Whether anything of this repository is here. */
  hasRepository(name: string): boolean {
    return this.listed().some((image) =>
      [...image.repoTags, ...image.repoDigests].some((own) => /^(?::|@)/.test(own.slice(name.length)) && own.startsWith(name)),
    );
  }

  /** Adds the image or its new names. A tag that stood for another image moves. */
  async add(pulled: PulledImage): Promise<void> {
    const { reference, digest } = pulled;
    const repoDigest = `${reference.name}@${digest}`;
    // With a digest in the reference the tag beside it was never looked up, so it proves nothing.
    const tag = reference.digest === undefined ? tagged(reference) : undefined;
    const changed: ImageRecord[] = [];
    for (const other of this.all()) {
      if (other.id === pulled.id) continue;
      const repoTags = other.repoTags.filter((own) => own !== tag);
      const repoDigests = other.repoDigests.filter((own) => own !== repoDigest);
      if (repoTags.length !== other.repoTags.length || repoDigests.length !== other.repoDigests.length) {
        changed.push({ ...other, repoTags, repoDigests });
      }
    }
    const old = this.#images.get(pulled.id);
    const before = old === undefined || old.removed ? { ...pulled, repoTags: [], repoDigests: [] } : old;
    // The same image may come by manifests that say different things of it. Nobody makes another's image one that cannot be started.
    const isCheckpoint = pulled.checkpointOf !== undefined && before.checkpointOf !== undefined;
    const record = {
      id: pulled.id,
      repoTags: withName(before.repoTags, tag),
      repoDigests: withName(before.repoDigests, repoDigest),
      configJson: pulled.configJson,
      chainIds: pulled.chainIds,
      ...(isCheckpoint ? { checkpointOf: pulled.checkpointOf } : {}),
      removed: false,
      changedAtMs: 0,
    };
    await this.#save([...changed, record]);
  }

  /** Takes the names away; the record stays for those who hold the layers. Absent at once, durable when it resolves. */
  async hide(id: Digest): Promise<void> {
    const record = this.#images.get(id);
    if (record === undefined) return;
    try {
      await this.#save([{ ...record, repoTags: [], repoDigests: [], removed: true }]);
    } catch (error) {
      // The store keeps room for this on a full disk; the copy is older than its record and loses at the next start.
      if (errnoName(error) !== "ENOSPC" && errnoName(error) !== "EDQUOT") throw error;
    }
  }

  async forget(id: Digest): Promise<void> {
    this.#records.delete(hexOf(id));
    this.#images.delete(id);
    await this.#copies.delete(hexOf(id));
  }

  async #save(records: readonly ImageRecord[]): Promise<void> {
    const stamped = records.map((record) => ({ ...record, changedAtMs: Date.now() }));
    // In one go, so that nobody ever sees a tag twice or not at all.
    for (const record of stamped) {
      this.#records.put(hexOf(record.id), record);
      this.#images.set(record.id, record);
    }
    for (const record of stamped) await this.#copies.put(hexOf(record.id), record);
    await this.#records.flush();
  }
}

function withName(names: readonly string[], name: string | undefined): readonly string[] {
  return name === undefined || names.includes(name) ? names : [...names, name];
}

function findNamed(images: readonly ImageRecord[], text: string): ImageRecord | undefined {
  let reference: Reference;
  try {
    reference = parseReference(text);
  } catch {
    return undefined; // a name that cannot be is not here either
  }
  if (reference.digest !== undefined) {
    return images.find((image) => image.repoDigests.includes(`${reference.name}@${reference.digest}`));
  }
  return images.find((image) => image.repoTags.includes(formatReference(reference)));
}

function ambiguous(prefix: string, matches: readonly ImageRecord[]): RuntimeError {
  const named = matches
    .slice(0, maxNamedCandidates)
    .map((image) => `${image.id.slice(0, 19)} (${image.repoTags[0] ?? image.repoDigests[0] ?? "no name"})`);
  const more = matches.length > named.length ? ` and ${matches.length - named.length} more` : "";
  return new RuntimeError(
    "invalid_argument",
    `${prefix} stands for several images: ${named.join(", ")}${more}; give more of the id`,
  );
}
