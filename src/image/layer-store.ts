/**
 * Unpacked layers, by chain id. Not by diff id, which would share a little more between images: what a directory must contain
 * depends on the layers below it (attributes of directories that the archive only implies, hard links to their files, whether a
 * whiteout means anything), so equal archives over different bases are different directories.
 *
 *   HEX.partial-RANDOM/{fs,pending}   being unpacked; removed at the next start
 *   HEX/{fs,layer.json}               complete: it got its name by one rename
 *   HEX.removing-RANDOM/              on its way out; removed at the next start
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rmdir, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { errnoName, messageOf, RuntimeError } from "../lib/errors.ts";
import { KeyedLock } from "../lib/lock.ts";
import type { Log } from "../lib/log.ts";
import { step } from "../lib/step.ts";
import { type Digest, digestAlgorithm, hexOf } from "./digest.ts";
import type { Descriptor } from "./documents.ts";
import type { LayerRecord, RecordCollection } from "./records.ts";
import { readDocument, syncNames, writeDurably } from "./sidecar.ts";
import type { PullSource } from "./source.ts";
import type { Unpacked, Unpacker } from "./unpacker.ts";

export interface LayerOrder {
  readonly source: PullSource;
  readonly blob: Descriptor;
  readonly diffId: Digest;
  readonly chainId: Digest;
  /** Chain ids of the layers below, bottom first. */
  readonly below: readonly Digest[];
  /** Resolves when the layers below are complete; called once, when this layer's own bytes are unpacked. */
  readonly belowReady: (signal: AbortSignal) => Promise<unknown>;
}

const emptyName = "empty";

export class LayerStore {
  readonly #dir: string;
  readonly #records: RecordCollection<LayerRecord>;
  readonly #unpacker: Unpacker;
  readonly #log: Log;
  readonly #layers = new Map<Digest, LayerRecord>();
  readonly #commits = new KeyedLock();
  readonly #erasing = new Set<Promise<void>>();
  readonly #stop = new AbortController();

  constructor(dir: string, records: RecordCollection<LayerRecord>, unpacker: Unpacker, log: Log) {
    this.#dir = dir;
    this.#records = records;
    this.#unpacker = unpacker;
    this.#log = log;
  }

  /** Sweeps what a crash left half-made, and takes stock. */
  async open(): Promise<void> {
    await mkdir(join(this.#dir, emptyName, "fs"), { recursive: true, mode: 0o700 });
    const recorded = this.#records.load();
    for (const name of await readdir(this.#dir)) {
      if (name === emptyName) continue;
      const record = name.includes(".")
        ? undefined
        : (recorded.get(name) ?? (await readDocument<LayerRecord>(join(this.#dir, name, "layer.json"))));
      if (record === undefined || hexOf(record.chainId) !== name || !(await this.#isThere(name))) await this.#discard(name);
      else {
        this.#layers.set(record.chainId, record);
        if (!recorded.has(name)) this.#records.put(name, record);
      }
    }
    for (const name of recorded.keys()) if (!this.#layers.has(`sha256:${name}`)) this.#records.delete(name);
  }

  async #isThere(name: string): Promise<boolean> {
    const found = await stat(join(this.#dir, name, "fs")).catch(() => undefined);
    return found?.isDirectory() ?? false;
  }

  get(chainId: Digest): LayerRecord | undefined {
    return this.#layers.get(chainId);
  }

  all(): readonly LayerRecord[] {
    return [...this.#layers.values()];
  }

  /** Directory of the layer's files. */
  pathOf(chainId: Digest): string {
    return join(this.#dir, hexOf(chainId), "fs");
  }

  /** For images without layers. */
  get emptyPath(): string {
    return join(this.#dir, emptyName, "fs");
  }

  /** Fetches, unpacks, verifies and commits a layer. */
  async make(order: LayerOrder, slot: <T>(work: () => Promise<T>) => Promise<T>, signal: AbortSignal): Promise<LayerRecord> {
    const partial = join(this.#dir, `${hexOf(order.chainId)}.partial-${randomBytes(6).toString("hex")}`);
    const what = `layer ${order.blob.digest} of ${order.source.name}`;
    try {
      const unpacked = await slot(() => step("image.unpack-layer", () => this.#unpack(order, partial, what, signal)));
      await order.belowReady(signal);
      const record = await this.#settle(order, partial, unpacked, what, signal);
      await this.#commits.run(order.chainId, signal, () => step("image.commit-layer", () => this.#commit(record, partial)));
      return record;
    } catch (error) {
      await this.#erasePath(partial);
      signal.throwIfAborted();
      throw diskFull(error, what);
    }
  }

  async #unpack(order: LayerOrder, partial: string, what: string, signal: AbortSignal): Promise<Unpacked> {
    await mkdir(partial, { mode: 0o700 });
    await mkdir(join(partial, "fs"), { mode: 0o755 });
    const { source, blob } = order;
    const sha512 = digestAlgorithm(blob.digest) === "sha512";
    const unpacked = await this.#unpacker.apply(
      (fd) => source.feed(blob, fd, signal),
      join(partial, "fs"),
      join(partial, "pending"),
      sha512,
      order.below.length === 0,
      what,
      signal,
    );
    if (unpacked.blobHex !== hexOf(blob.digest) || unpacked.blobBytes !== blob.sizeBytes) {
      throw new RuntimeError("data_loss", `${what} has digest ${unpacked.blobHex}, which is not the one it was asked for by`);
    }
    if (`sha256:${unpacked.tarHex}` !== order.diffId) {
      throw new RuntimeError(
        "data_loss",
        `${what} unpacks to sha256:${unpacked.tarHex}, the image's config says ${order.diffId}`,
      );
    }
    if (unpacked.strippedXattrs > 0) {
      this.#log.debug(
        { layer: blob.digest, count: unpacked.strippedXattrs },
        "extended attributes that no layer may set were left out",
      );
    }
    return unpacked;
  }

  async #settle(order: LayerOrder, partial: string, unpacked: Unpacked, what: string, signal: AbortSignal): Promise<LayerRecord> {
    const lowers = order.below.toReversed().map((chainId) => this.pathOf(chainId));
    const pending = join(partial, "pending");
    const more =
      unpacked.pending === 0
        ? { inodes: 0, diskBytes: 0 }
        : await this.#unpacker.settle(join(partial, "fs"), pending, lowers, what, signal);
    await unlink(pending);
    const record: LayerRecord = {
      chainId: order.chainId,
      diffId: order.diffId,
      diskBytes: unpacked.diskBytes + more.diskBytes,
      inodes: unpacked.inodes + more.inodes,
    };
    await writeDurably(join(partial, "layer.json"), JSON.stringify(record));
    return record;
  }

  async #commit(record: LayerRecord, partial: string): Promise<void> {
    const name = hexOf(record.chainId);
    // Somebody with other credentials was faster.
    if (this.#layers.has(record.chainId)) return await this.#erasePath(partial);
    // The helper flushed the files before; after this rename the layer counts as complete, also after a power loss.
    await rename(partial, join(this.#dir, name));
    await syncNames(this.#dir);
    this.#records.put(name, record);
    this.#layers.set(record.chainId, record);
  }

  /** Takes the layers away: out of use when it is called, out of sight when it resolves. Their space is freed after that. */
  async remove(chainIds: readonly Digest[]): Promise<void> {
    for (const chainId of chainIds) {
      this.#records.delete(hexOf(chainId));
      this.#layers.delete(chainId);
    }
    for (const chainId of chainIds) await this.#commits.run(chainId, undefined, () => this.#removeOne(chainId));
  }

  async #removeOne(chainId: Digest): Promise<void> {
    // It may have been pulled again while we waited.
    if (!this.#layers.has(chainId)) await this.#discard(hexOf(chainId));
  }

  /** Renames, which needs no space and no time, and erases in the background: with many files that can take longer than a call. */
  async #discard(name: string): Promise<void> {
    const leaving = name.includes(".") ? name : `${name}.removing-${randomBytes(6).toString("hex")}`;
    try {
      if (leaving !== name) await rename(join(this.#dir, name), join(this.#dir, leaving));
    } catch (error) {
      if (errnoName(error) !== "ENOENT") this.#log.warn({ err: error, layer: name }, "a layer cannot be removed now");
      return;
    }
    const erasing = this.#erase(leaving).finally(() => this.#erasing.delete(erasing));
    this.#erasing.add(erasing);
  }

  /** Resolves when the space of all that was removed so far is free. */
  async erased(): Promise<void> {
    await Promise.all(this.#erasing);
  }

  /** Lets what is not erased yet be found by the next start. */
  stopErasing(): void {
    this.#stop.abort();
  }

  async #erase(name: string): Promise<void> {
    await this.#erasePath(join(this.#dir, name));
  }

  /** Never throws: what cannot be removed now is found by the next start. */
  async #erasePath(path: string): Promise<void> {
    try {
      await this.#unpacker.clear(path, this.#stop.signal);
      await rmdir(path);
    } catch (error) {
      if (errnoName(error) === "ENOENT" || this.#stop.signal.aborted) return;
      if (errnoName(error) === "ENOTDIR") await unlink(path).catch(() => undefined);
      else this.#log.warn({ path, error: messageOf(error) }, "could not be removed, trying again at the next start");
    }
  }
}

/** Node's own file calls know the full disk as an errno only. */
function diskFull(error: unknown, what: string): unknown {
  const name = errnoName(error);
  if (name !== "ENOSPC" && name !== "EDQUOT") return error;
  return new RuntimeError(
    "resource_exhausted",
    `${what}: no space left on the image filesystem; remove images or grow it`,
    {},
    error,
  );
}
