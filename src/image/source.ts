import type { Descriptor } from "./documents.ts";

/** A manifest or index as it came, with its digest computed from the bytes. */
export interface RawDocument {
  readonly data: Buffer;
  readonly digest: string;
  /** Content-Type header, or the media type of the descriptor in a layout; "" when unknown. */
  readonly contentType: string;
}

/** One repository's documents, on behalf of one pull. */
interface Documents {
  /** For messages. */
  readonly name: string;
  /** Tells a cache who asks: equal keys have equal rights. */
  readonly credentialsKey: string;
  /** What the tag or digest stands for, as a hint that costs little; undefined: ask for the document. Proves that it may be read. */
  hint(tagOrDigest: string, signal: AbortSignal): Promise<string | undefined>;
  /** The document behind a tag or digest. A digest is verified. */
  manifest(tagOrDigest: string, signal: AbortSignal): Promise<RawDocument>;
  /** A small blob, verified. */
  document(descriptor: Descriptor, maxBytes: number, what: string, signal: AbortSignal): Promise<Buffer>;
}

/** Where one repository's content is read from, by the thread that reads. */
export interface Source extends Documents {
  /** A blob's bytes from `offset` on. It may end early or fail; then it is asked for again. Nothing is verified. */
  blob(descriptor: Descriptor, offset: number, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
}

/** The same as a pull sees it, which never touches the bytes of a blob. */
export interface PullSource extends Documents {
  /**
   * Writes the blob into a pipe at its reader's pace. The descriptor stays the caller's and must be open until this has returned or
   * thrown. Returns early when nobody reads any more. Nothing is verified but the size.
   */
  feed(descriptor: Descriptor, fd: number, signal: AbortSignal): Promise<void>;
}

/** Manifests and indexes: as other clients cap them. */
export const maxManifestBytes = 4 << 20;
export const maxConfigBytes = 4 << 20;
