/** Images of this node: pulled, unpacked, named, kept while containers need them. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Config } from "../config.ts";
import type { Log } from "../lib/log.ts";
import { addon } from "../native/addon.ts";
import { ImageSet } from "./image-set.ts";
import { LayerStore } from "./layer-store.ts";
import { NodeImages } from "./node-images.ts";
import { pinnedBy } from "./pinned.ts";
import { hostPlatform, type Platform } from "./platform.ts";
import { Puller } from "./puller.ts";
import type { ImageRecord, LayerRecord, RecordStore } from "./records.ts";
import { DocumentDirectory } from "./sidecar.ts";
import { SourceThread } from "./source-thread.ts";
import { type SpawnFunctions, Unpacker } from "./unpacker.ts";

/** From src/image and from dist/image alike. */
const builtNativeDir = join(import.meta.dirname, "../../build/native");
/** gzip reaches 1030:1 on zeros alone; looked at only beyond 1 GiB. */
const maxRatio = 1100;

export interface ImageOptions {
  readonly rootDir: string;
  readonly records: RecordStore;
  readonly hostsDir: string;
  readonly localLayouts: Readonly<Record<string, string>>;
  readonly pinned: readonly string[];
  readonly maxConcurrentDownloads: number;
  /** 0: never. */
  readonly progressTimeoutMs: number;
  readonly maxLayerBytes: number;
  readonly maxLayerEntries: number;
  readonly platform: Platform;
  /** The helper's binary. */
  readonly unpackPath: string;
  readonly native: SpawnFunctions;
  readonly log: Log;
  /** What others than pods say of directories that they use: a layer whose directory is named there stays. */
  readonly mentions?: (() => string) | undefined;
}

/** Opens the images below the configured root and sweeps what a crash left half-made there. */
export async function openImageService(
  config: Config,
  records: RecordStore,
  log: Log,
  mentions?: () => string,
): Promise<NodeImages> {
  const { image, registry } = config;
  const nativeDir = config.runtime.nativeDir === "" ? builtNativeDir : config.runtime.nativeDir;
  return await openImages({
    rootDir: config.root,
    records,
    hostsDir: registry.hostsDir,
    localLayouts: registry.localLayouts,
    pinned: image.pinned,
    maxConcurrentDownloads: image.maxConcurrentDownloads,
    progressTimeoutMs: image.pullProgressTimeoutS * 1000,
    maxLayerBytes: image.maxLayerBytes,
    maxLayerEntries: image.maxLayerEntries,
    platform: hostPlatform(),
    unpackPath: join(nativeDir, "caisson-unpack"),
    native: addon,
    log,
    mentions,
  });
}

/** The same with every part named, for tests and for use as a library. */
export async function openImages(options: ImageOptions): Promise<NodeImages> {
  const { rootDir, records, log } = options;
  const layersDir = join(rootDir, "layers");
  await mkdir(layersDir, { recursive: true, mode: 0o700 });
  const limits = { maxLayerBytes: options.maxLayerBytes, maxLayerEntries: options.maxLayerEntries, maxRatio };
  const unpacker = new Unpacker(options.native, options.unpackPath, limits);
  const layers = new LayerStore(layersDir, records.collection<LayerRecord>("layers"), unpacker, log);
  await layers.open();
  const copies = new DocumentDirectory<ImageRecord>(join(rootDir, "images"));
  const images = new ImageSet(records.collection<ImageRecord>("images"), copies);
  await images.open((record) => record.chainIds.every((chainId) => layers.get(chainId) !== undefined));
  const thread = new SourceThread({ progressTimeoutMs: options.progressTimeoutMs, log });
  const puller = new Puller({
    thread,
    layers,
    platform: options.platform,
    hostsDir: options.hostsDir,
    localLayouts: options.localLayouts,
    maxConcurrentDownloads: options.maxConcurrentDownloads,
    log,
  });
  const { mentions = () => "" } = options;
  return new NodeImages({ unpacker, rootDir, layers, images, puller, thread, pinned: pinnedBy(options.pinned), log, mentions });
}
