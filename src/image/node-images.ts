import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { step } from "../lib/step.ts";
import { credentialsKey, credentialsOf } from "./auth.ts";
import { applyChanges } from "./changes.ts";
import type { Digest } from "./digest.ts";
import { parseConfig } from "./documents.ts";
import type { FsUsage, Image, ImageService, PullAuth } from "./image-service.ts";
import type { ImageSet } from "./image-set.ts";
import type { LayerStore } from "./layer-store.ts";
import type { Puller } from "./puller.ts";
import type { ImageRecord } from "./records.ts";
import { formatReference, parseReference, type Reference } from "./reference.ts";
import { SharedTasks } from "./shared-task.ts";
import type { SourceThread } from "./source-thread.ts";
import type { Unpacker } from "./unpacker.ts";

export interface NodeImagesParts {
  readonly unpacker: Unpacker;
  readonly rootDir: string;
  readonly layers: LayerStore;
  readonly images: ImageSet;
  readonly puller: Puller;
  readonly thread: SourceThread;
  readonly pinned: (names: readonly string[]) => boolean;
  readonly log: Log;
  readonly mentions: () => string;
}

const eraseWaitMs = 10_000;

export class NodeImages implements ImageService {
  readonly #parts: NodeImagesParts;
  readonly #pulls = new SharedTasks<Digest>();
  readonly #stopping = new AbortController();
  /** Ids of images by holder. */
  readonly #holders = new Map<string, Set<Digest>>();
  /** Layers of running pulls, which no record names yet. */
  readonly #leases = new Set<readonly Digest[]>();
  readonly #views = new WeakMap<ImageRecord, Image>();
  #recovered = false;

  constructor(parts: NodeImagesParts) {
    this.#parts = parts;
  }

  async pull(text: string, auth: PullAuth | undefined, signal: AbortSignal): Promise<string> {
    const reference = parseReference(text);
    const key = JSON.stringify([formatReference(reference), credentialsKey(credentialsOf(auth)), auth?.serverAddress ?? ""]);
    const either = AbortSignal.any([signal, this.#stopping.signal]);
    return await this.#pulls.run(key, either, (own) => this.#pull(reference, auth, own));
  }

  async unpackChanges(
    archives: readonly string[],
    directory: string,
    lowers: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    for (const archive of archives) {
      await applyChanges(this.#parts.unpacker, archive, directory, lowers, signal);
    }
  }

  async #pull(reference: Reference, auth: PullAuth | undefined, signal: AbortSignal): Promise<Digest> {
    const { images, puller, log } = this.#parts;
    const name = formatReference(reference);
    const begunMs = performance.now();
    const source = await puller.source(reference, auth);
    let leased: readonly Digest[] | undefined;
    const lease = (chain: readonly Digest[]): void => {
      leased = chain;
      this.#leases.add(chain);
    };
    try {
      const present = await this.#present(source, reference, lease, signal);
      const pulled = present ?? (await puller.fetch(source, reference, lease, signal));
      signal.throwIfAborted();
      await step("image.record", () => images.add(pulled));
      log.info(
        { image: name, id: pulled.id, ms: Math.round(performance.now() - begunMs), fresh: present === undefined },
        "image pulled",
      );
      return pulled.id;
    } finally {
      if (leased !== undefined) this.#leases.delete(leased);
      await this.#collect();
    }
  }

  /** The image that the reference still stands for, if it is here; the registry is asked, because only it knows who may pull. */
  async #present(
    source: Awaited<ReturnType<Puller["source"]>>,
    reference: Reference,
    lease: (chain: readonly Digest[]) => void,
    signal: AbortSignal,
  ) {
    const { images } = this.#parts;
    if (!images.hasRepository(reference.name)) return undefined;
    const digest = await source.hint(reference.digest ?? reference.tag ?? "latest", signal);
    // A registry that answers for a digest with another one is not believed.
    if (digest === undefined || (reference.digest !== undefined && digest !== reference.digest)) return undefined;
    const image = images.findDigest(reference.name, digest);
    if (image === undefined) return undefined;
    lease(image.chainIds);
    return {
      id: image.id,
      reference,
      digest,
      configJson: image.configJson,
      chainIds: image.chainIds,
      checkpointOf: image.checkpointOf,
    };
  }

  find(reference: string): Image | undefined {
    const record = this.#parts.images.find(reference);
    return record === undefined ? undefined : this.#view(record);
  }

  list(): readonly Image[] {
    return this.#parts.images.listed().map((record) => this.#view(record));
  }

  #view(record: ImageRecord): Image {
    const known = this.#views.get(record);
    if (known !== undefined) return known;
    const { layers, pinned } = this.#parts;
    const unpacked = record.chainIds.map((chainId) => layers.get(chainId)?.diskBytes ?? 0);
    const bytes = unpacked.reduce((total, size) => total + size, record.configJson.length);
    const dirs = record.chainIds.toReversed().map((chainId) => layers.pathOf(chainId));
    const image: Image = Object.freeze({
      id: record.id,
      repoTags: record.repoTags,
      repoDigests: record.repoDigests,
      sizeBytes: BigInt(bytes),
      config: parseConfig(Buffer.from(record.configJson), record.id).config,
      configJson: record.configJson,
      chainId: record.chainIds.at(-1) ?? "",
      checkpointOf: record.checkpointOf,
      pinned: pinned([...record.repoTags, ...record.repoDigests]),
      layerDirs: dirs.length === 0 ? [layers.emptyPath] : dirs,
    });
    this.#views.set(record, image);
    return image;
  }

  async remove(reference: string): Promise<void> {
    const { images, layers } = this.#parts;
    const record = images.find(reference);
    if (record === undefined) return;
    if (this.#isHeld(record.id) || !this.#recovered) await images.hide(record.id);
    else await step("image.forget", () => images.forget(record.id));
    await this.#collect();
    // A kubelet that is short of space looks at once whether this helped.
    await Promise.race([layers.erased(), sleep(eraseWaitMs, undefined, { ref: false })]);
  }

  hold(imageId: string, holder: string): void {
    // Its layers are there, or the container would not be: without its record they cannot be told from garbage.
    if (this.#parts.images.get(imageId) === undefined) {
      this.#parts.log.warn(
        { image: imageId, holder },
        "a container's image is not on record; no layers are removed while it exists",
      );
    }
    this.#holders.set(holder, (this.#holders.get(holder) ?? new Set()).add(imageId));
  }

  async release(holder: string): Promise<void> {
    if (this.#holders.delete(holder)) await this.#collect();
  }

  async recovered(): Promise<void> {
    this.#recovered = true;
    await this.#collect();
  }

  async fsUsage(): Promise<FsUsage> {
    const layers = this.#parts.layers.all();
    return {
      mountpoint: this.#parts.rootDir,
      usedBytes: BigInt(layers.reduce((total, layer) => total + layer.diskBytes, 0)),
      inodesUsed: BigInt(layers.reduce((total, layer) => total + layer.inodes, 0)),
      timestampNs: BigInt(Date.now()) * 1_000_000n,
    };
  }

  /** Stops pulls and ends the thread that reads for them. What is still being erased is left to the next start. */
  async close(): Promise<void> {
    this.#stopping.abort(new RuntimeError("unavailable", "the daemon is stopping"));
    this.#parts.layers.stopErasing();
    await this.#parts.thread.close();
  }

  #isHeld(id: Digest): boolean {
    return this.#held().has(id);
  }

  #held(): ReadonlySet<Digest> {
    return new Set([...this.#holders.values()].flatMap((ids) => [...ids]));
  }

  /** A call that did what it was asked for does not fail because something else cannot be cleaned up; the next one tries again. */
  async #collect(): Promise<void> {
    // Until then holders of before the start are missing.
    if (!this.#recovered) return;
    try {
      await this.#removeGarbage();
    } catch (error) {
      this.#parts.log.error({ err: error }, "images or layers that nobody needs could not be removed");
    }
  }

  /** Removed images without holders, layers that neither an image nor a running pull names. */
  async #removeGarbage(): Promise<void> {
    const { images, layers } = this.#parts;
    for (const image of images.all()) {
      if (image.removed && !this.#isHeld(image.id)) await step("image.forget", () => images.forget(image.id));
    }
    for (const id of this.#held()) if (images.get(id) === undefined) return;
    const needed = new Set([...images.all().flatMap((image) => image.chainIds), ...[...this.#leases].flat()]);
    const garbage = layers.all().flatMap((layer) => (needed.has(layer.chainId) ? [] : [layer.chainId]));
    if (garbage.length === 0) return;
    // Directories of layers have the digits of their chain's digest for their name.
    const mentions = this.#parts.mentions();
    const unused = garbage.filter((id) => !mentions.includes(id.slice(id.indexOf(":") + 1)));
    if (unused.length > 0) await step("image.remove-layers", () => layers.remove(unused));
  }
}
