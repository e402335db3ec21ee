/** The face of image/: what cri/ builds on. */

export interface PullAuth {
  readonly username: string;
  readonly password: string;
  /** base64 of "user:password", as docker's config.json has it. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

/** The part of an OCI image config that matters for running it. */
export interface ImageConfig {
  readonly architecture: string;
  readonly os: string;
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

export interface Image {
  /** "sha256:<64 hex>": digest of the config blob. */
  readonly id: string;
  /** "docker.io/library/busybox:latest" */
  readonly repoTags: readonly string[];
  /** "docker.io/library/busybox@sha256:..." */
  readonly repoDigests: readonly string[];
  readonly sizeBytes: bigint;
  readonly config: ImageConfig;
  /** The config blob as it came. */
  readonly configJson: string;
  readonly chainId: string;
  readonly pinned: boolean;
  /** Name of the container whose checkpoint it holds, as who pushed it says: nothing to start, but to restore. */
  readonly checkpointOf?: string | undefined;
  /** Directories of the unpacked layers, topmost first; at least one (an empty one for an image without layers). */
  readonly layerDirs: readonly string[];
}

export interface FsUsage {
  readonly mountpoint: string;
  readonly usedBytes: bigint;
  readonly inodesUsed: bigint;
  readonly timestampNs: bigint;
}

export interface ImageService {
  /** Returns the image's id. Concurrent equal pulls share one download, per credential. */
  pull(reference: string, auth: PullAuth | undefined, signal: AbortSignal): Promise<string>;
  /** By name, name:tag, name@digest, id or unambiguous id prefix. Undefined: not here. */
  find(reference: string): Image | undefined;
  list(): readonly Image[];
  /** Removes every name of the image; absent is success. Layers in use (see `hold`) go when they are released. */
  remove(reference: string): Promise<void>;
  /**
   * Applies archives of changes to a writable layer that nobody uses yet, one after the other, under the rules of layers: nothing in
   * them gets out of `directory`. lowers: directories of the layers below, topmost first; none: it stands alone.
   */
  unpackChanges(archives: readonly string[], directory: string, lowers: readonly string[], signal: AbortSignal): Promise<void>;
  /** Keeps the image's layers while `holder` (a container id) lives, which may hold several images; also called at recovery. */
  hold(imageId: string, holder: string): void;
  /** Of all images that it holds. */
  release(holder: string): Promise<void>;
  /** Says that `hold` has been called for all that lived before this start: from now on what nobody needs is removed. */
  recovered(): Promise<void>;
  fsUsage(): Promise<FsUsage>;
}
