/** What is kept of images and layers, and where. */
import type { Digest } from "./digest.ts";

export interface LayerRecord {
  readonly chainId: Digest;
  readonly diffId: Digest;
  /** What the unpacked layer occupies. */
  readonly diskBytes: number;
  readonly inodes: number;
}

export interface ImageRecord {
  readonly id: Digest;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly configJson: string;
  /** Bottom first. */
  readonly chainIds: readonly Digest[];
  /** Name of the container whose checkpoint it holds, by its annotation. */
  readonly checkpointOf?: string | undefined;
  /** Its names are gone, but containers hold its layers. */
  readonly removed: boolean;
  /** Of the last change; the newer of two copies counts. */
  readonly changedAtMs: number;
}

/** A collection of the store; `store/` has it with more. */
export interface RecordCollection<T> {
  load(): ReadonlyMap<string, T>;
  /** Durable against a crash of the daemon when it returns. */
  put(key: string, document: T): void;
  delete(key: string): void;
  /** Durable against power loss when it resolves. */
  flush(): Promise<void>;
}

export interface RecordStore {
  collection<T>(name: "images" | "layers"): RecordCollection<T>;
}
