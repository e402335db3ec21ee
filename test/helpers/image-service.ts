/** The image service alone, on a temporary root and with records in memory. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NodeImages } from "../../src/image/node-images.ts";
import { type ImageOptions, openImages } from "../../src/image/open-image-service.ts";
import { hostPlatform } from "../../src/image/platform.ts";
import type { RecordCollection, RecordStore } from "../../src/image/records.ts";
import type { Log } from "../../src/lib/log.ts";
import { addon } from "../../src/native/addon.ts";

/** Documents that survive a reopening of the service, as a database would keep them. */
export class MemoryRecords implements RecordStore {
  readonly collections = new Map<string, Map<string, unknown>>();

  collection<T>(name: "images" | "layers"): RecordCollection<T> {
    const documents = (this.collections.get(name) ?? new Map<string, unknown>()) as Map<string, T>;
    this.collections.set(name, documents);
    return {
      load: () => new Map(documents),
      put: (key, document) => void documents.set(key, structuredClone(document)),
      delete: (key) => void documents.delete(key),
      flush: async () => {},
    };
  }
}

export interface LogLine {
  readonly level: string;
  readonly fields: unknown;
  readonly text: string;
}

/** Keeps what is logged. */
export function recordingLog(lines: LogLine[]): Log {
  const write =
    (level: string) =>
    (fields: unknown, text = ""): void =>
      void lines.push({ level, fields, text });
  const log = {
    trace: write("trace"),
    debug: write("debug"),
    info: write("info"),
    warn: write("warn"),
    error: write("error"),
    fatal: write("fatal"),
    child: () => log,
  };
  return log as unknown as Log;
}

export class ImageNode implements AsyncDisposable {
  readonly root = mkdtempSync(join(tmpdir(), "caisson-images-"));
  readonly records = new MemoryRecords();
  readonly log: LogLine[] = [];
  images!: NodeImages;
  readonly #options: Partial<ImageOptions>;

  private constructor(options: Partial<ImageOptions>) {
    this.#options = options;
  }

  /** `recovered` has been called. */
  static async start(options: Partial<ImageOptions> = {}): Promise<ImageNode> {
    const node = new ImageNode(options);
    await node.reopen();
    await node.images.recovered();
    return node;
  }

  /** As after a restart of the daemon, before recovery. */
  async reopen(): Promise<void> {
    await this.images?.close();
    this.images = await openImages({
      rootDir: this.root,
      records: this.records,
      hostsDir: join(this.root, "hosts.d"),
      localLayouts: {},
      pinned: [],
      maxConcurrentDownloads: 3,
      progressTimeoutMs: 20_000,
      maxLayerBytes: 1 << 30,
      maxLayerEntries: 100_000,
      platform: hostPlatform(),
      unpackPath: join(import.meta.dirname, "../../build/native/caisson-unpack"),
      native: addon,
      log: recordingLog(this.log),
      ...this.#options,
    });
  }

  async pull(reference: string, signal: AbortSignal = new AbortController().signal): Promise<string> {
    return await this.images.pull(reference, undefined, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.images.close();
    rmSync(this.root, { recursive: true, force: true, maxRetries: 5 }); // a helper may be dying in there
  }
}
