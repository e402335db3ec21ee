/** Builds small OCI images as layouts on disk and in memory, without any image tool. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { type TarEntry, tar } from "./tar.ts";

export type Compression = "gzip" | "zstd" | "none";

export interface LayerSource {
  /** Entries, or a whole (perhaps broken) tar stream. */
  readonly content: readonly TarEntry[] | Uint8Array;
  readonly compression?: Compression;
  /** Bytes to serve in place of the compressed stream, for lies. */
  readonly blob?: Uint8Array;
  /** Diff id to claim in the config, for lies. */
  readonly diffId?: string;
}

/** The config's `config` object, with the spec's own field names. */
export interface ContainerConfig {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly StopSignal?: string;
  readonly Volumes?: Readonly<Record<string, object>>;
  readonly Labels?: Readonly<Record<string, string>>;
}

export interface ImageOptions {
  readonly config?: ContainerConfig;
  /** On top of what the builder itself puts in. */
  readonly layers?: readonly LayerSource[];
  /** Of the builder's own layer, and default of the others. */
  readonly compression?: Compression;
  readonly architecture?: string;
  readonly os?: string;
  /** Tag in the layout's index.json; default "latest". */
  readonly tag?: string;
  /** Docker schema 2 media types in place of OCI's. */
  readonly docker?: boolean;
  /** Of the manifest. */
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface BuiltImage {
  /** The OCI layout on disk. */
  readonly dir: string;
  readonly tag: string;
  /** The image id: digest of the config. */
  readonly id: string;
  readonly manifestDigest: string;
  readonly manifestType: string;
  readonly manifest: Buffer;
  readonly layerDigests: readonly string[];
  readonly diffIds: readonly string[];
  /** Everything but the manifest, by digest. */
  readonly blobs: ReadonlyMap<string, Buffer>;
}

export const sha256 = (data: Uint8Array): string => `sha256:${createHash("sha256").update(data).digest("hex")}`;

export const goArch = process.arch === "x64" ? "amd64" : process.arch;

const types = {
  oci: {
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    gzip: "application/vnd.oci.image.layer.v1.tar+gzip",
    zstd: "application/vnd.oci.image.layer.v1.tar+zstd",
    none: "application/vnd.oci.image.layer.v1.tar",
  },
  docker: {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    gzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    zstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
    none: "application/vnd.docker.image.rootfs.diff.tar",
  },
} as const;

function compress(data: Buffer, compression: Compression): Buffer {
  if (compression === "gzip") return gzipSync(data);
  return compression === "zstd" ? zstdCompressSync(data) : data;
}

/** An image with exactly the given layers (none at all is allowed), written to `dir` as an OCI layout. */
export function buildImage(dir: string, options: ImageOptions = {}): BuiltImage {
  const type = options.docker === true ? types.docker : types.oci;
  const blobs = new Map<string, Buffer>();
  const add = (data: Buffer, mediaType: string): { mediaType: string; digest: string; size: number } => {
    const digest = sha256(data);
    blobs.set(digest, data);
    return { mediaType, digest, size: data.length };
  };
  const diffIds: string[] = [];
  const layers = (options.layers ?? []).map((layer) => {
    const compression = layer.compression ?? options.compression ?? "gzip";
    const plain = layer.content instanceof Uint8Array ? Buffer.from(layer.content) : tar(layer.content);
    diffIds.push(layer.diffId ?? sha256(plain));
    return add(layer.blob === undefined ? compress(plain, compression) : Buffer.from(layer.blob), type[compression]);
  });
  const config = add(
    Buffer.from(
      JSON.stringify({
        architecture: options.architecture ?? goArch,
        os: options.os ?? "linux",
        config: options.config ?? {},
        rootfs: { type: "layers", diff_ids: diffIds },
        history: diffIds.map(() => ({ created_by: "test" })),
      }),
    ),
    type.config,
  );
  const manifest = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: type.manifest, config, layers, annotations: options.annotations }),
  );
  const image: BuiltImage = {
    dir,
    tag: options.tag ?? "latest",
    id: config.digest,
    manifestDigest: sha256(manifest),
    manifestType: type.manifest,
    manifest,
    layerDigests: layers.map((layer) => layer.digest),
    diffIds,
    blobs,
  };
  writeLayout(image);
  return image;
}

function writeLayout(image: BuiltImage): void {
  const blobDir = join(image.dir, "blobs", "sha256");
  mkdirSync(blobDir, { recursive: true });
  for (const [digest, data] of [...image.blobs, [image.manifestDigest, image.manifest] as const]) {
    writeFileSync(join(blobDir, digest.replace("sha256:", "")), data);
  }
  const entry = {
    mediaType: image.manifestType,
    digest: image.manifestDigest,
    size: image.manifest.length,
    annotations: { "org.opencontainers.image.ref.name": image.tag },
  };
  writeFileSync(join(image.dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  writeFileSync(join(image.dir, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
}

const busyboxPath = "/bin/busybox";

/** The files of a small Unix made of Debian's static busybox: applets, passwd, group, the usual directories. */
export function busyboxEntries(): TarEntry[] {
  const directories = ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin", "sbin", "var"];
  const applets = execFileSync(busyboxPath, ["--list"], { encoding: "utf8" }).trim().split("\n");
  return [
    ...directories.map((name): TarEntry => ({ name: `${name}/`, type: "5", mode: name === "root" ? 0o700 : 0o755 })),
    { name: "tmp/", type: "5", mode: 0o1777 },
    { name: "bin/busybox", mode: 0o755, content: readFileSync(busyboxPath) },
    ...applets
      .filter((name) => name !== "busybox")
      .map((name): TarEntry => ({ name: `bin/${name}`, type: "2", link: "busybox" })),
    {
      name: "etc/passwd",
      content:
        "root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    },
    {
      name: "etc/group",
      content: "root:x:0:\nbin:x:1:\nusers:x:100:user\nuser:x:1000:\nextra:x:2000:user,nobody\nnogroup:x:65534:\n",
    },
    { name: "home/user/", type: "5", uid: 1000, gid: 1000 },
  ];
}

/** An image that runs: busybox below, `options.layers` on top. Default command: /bin/sh, default PATH. */
export function buildBusyboxImage(dir: string, options: ImageOptions = {}): BuiltImage {
  return buildImage(dir, {
    ...options,
    config: { Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], Cmd: ["/bin/sh"], ...options.config },
    layers: [{ content: busyboxEntries() }, ...(options.layers ?? [])],
  });
}
