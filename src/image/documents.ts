/** Manifests, indexes and configs: checked once, and only what was checked is passed on. */
import { RuntimeError } from "../lib/errors.ts";
import { type Digest, isDigest } from "./digest.ts";
import type { ImageConfig } from "./image-service.ts";
import { arrayAt, checkSpelling, isObject, type JsonObject, objectAt, parseJson, stringAt, stringsAt } from "./json.ts";
import { configTypes, indexTypes, isLayerType, isSchemaOne, manifestTypes } from "./media-types.ts";
import type { Platform } from "./platform.ts";

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export interface IndexEntry extends Descriptor {
  readonly platform: Platform | undefined;
  readonly annotations: JsonObject;
}

/** What the one who pushed it says of an image. */
interface Annotated {
  /** Name of the container whose checkpoint it holds, instead of programs to start. */
  readonly checkpointOf: string | undefined;
}

export interface Index extends Annotated {
  readonly kind: "index";
  readonly manifests: readonly IndexEntry[];
}

export interface Manifest extends Annotated {
  readonly kind: "manifest";
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export interface ConfigDocument {
  readonly platform: Platform;
  readonly diffIds: readonly Digest[];
  readonly config: ImageConfig;
}

/** As those tools write them that make images of checkpoints. */
const checkpointAnnotations = ["io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"];
const longestName = 253;
/** overlayfs takes no more lower directories. */
const maxLayers = 500;
const maxIndexEntries = 4096;

function invalid(what: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `${what} is invalid: ${why}`);
}

function descriptor(value: unknown, what: string): Descriptor & { readonly raw: JsonObject } {
  if (!isObject(value)) throw invalid(what, "a descriptor is not an object");
  checkSpelling(value, ["mediaType", "digest", "size", "platform", "urls"], what);
  const digest = stringAt(value, "digest", what);
  const size = value.size;
  if (!isDigest(digest)) throw invalid(what, `${JSON.stringify(digest.slice(0, 200))} is not a digest`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw invalid(what, "a descriptor has no valid size");
  // `urls` of foreign layers is left behind here: credentials and trust end at the registry that was named (CVE-2020-15157).
  return { mediaType: stringAt(value, "mediaType", what), digest, sizeBytes: size, raw: value };
}

function plain(value: unknown, what: string): Descriptor {
  const { mediaType, digest, sizeBytes } = descriptor(value, what);
  return { mediaType, digest, sizeBytes };
}

function platformOf(value: unknown, what: string): Platform | undefined {
  if (!isObject(value)) return undefined;
  checkSpelling(value, ["os", "architecture", "variant"], what);
  return {
    os: stringAt(value, "os", what),
    architecture: stringAt(value, "architecture", what),
    variant: stringAt(value, "variant", what),
  };
}

/**
 * Decides once what a document is. `contentType` comes from the registry's header or the descriptor that led here, "" when nobody
 * said. A document whose meaning depends on who reads it is refused (CVE-2021-41190).
 */
export function parseManifest(data: Uint8Array, contentType: string, what: string): Index | Manifest {
  const document = parseJson(data, what);
  checkSpelling(document, ["schemaVersion", "mediaType", "manifests", "config", "layers", "annotations"], what);
  const own = stringAt(document, "mediaType", what);
  const claimed = contentType.split(";")[0]?.trim().toLowerCase() ?? "";
  const known = (type: string): boolean => indexTypes.has(type) || manifestTypes.has(type);
  if (isSchemaOne(claimed) || document.schemaVersion === 1) {
    throw new RuntimeError(
      "unimplemented",
      `${what} is in Docker's schema 1 format, which is no longer supported; push the image again`,
    );
  }
  if (own !== "" && known(claimed) && own !== claimed) throw invalid(what, `it was sent as ${claimed} but calls itself ${own}`);
  if (document.schemaVersion !== 2) throw invalid(what, "schemaVersion is not 2");
  const isIndex = "manifests" in document;
  if (isIndex && ("layers" in document || "config" in document)) throw invalid(what, "it is both a manifest and an index");
  const type = known(claimed) ? claimed : own;
  if (type !== "" && !known(type)) throw invalid(what, `${type} is neither a manifest nor an index of images`);
  if (type !== "" && indexTypes.has(type) !== isIndex) throw invalid(what, `its content does not fit its type ${type}`);
  return isIndex ? parseIndex(document, what) : parseImageManifest(document, what);
}

function parseIndex(document: JsonObject, what: string): Index {
  const entries = arrayAt(document, "manifests", what);
  if (entries.length > maxIndexEntries) throw invalid(what, `it has more than ${maxIndexEntries} entries`);
  const manifests = entries.map((entry): IndexEntry => {
    const { raw, ...rest } = descriptor(entry, what);
    return { ...rest, platform: platformOf(raw.platform, what), annotations: objectAt(raw, "annotations", what) };
  });
  return { kind: "index", manifests, checkpointOf: checkpointName(document, what) };
}

function checkpointName(document: JsonObject, what: string): string | undefined {
  const annotations = objectAt(document, "annotations", what);
  const found = checkpointAnnotations.map((name) => annotations[name]).find((value) => value !== undefined);
  return typeof found === "string" ? found.slice(0, longestName) : undefined;
}

function parseImageManifest(document: JsonObject, what: string): Manifest {
  const config = plain(document.config, what);
  const layers = arrayAt(document, "layers", what).map((layer) => plain(layer, what));
  if (!configTypes.has(config.mediaType)) {
    throw invalid(what, `its config is ${JSON.stringify(config.mediaType)}: an artifact, not an image that can run`);
  }
  if (layers.length > maxLayers) throw invalid(what, `it has ${layers.length} layers, more than ${maxLayers}`);
  const odd = layers.find((layer) => !isLayerType(layer.mediaType));
  if (odd !== undefined) throw invalid(what, `layer type ${JSON.stringify(odd.mediaType)} is unknown`);
  return { kind: "manifest", config, layers, checkpointOf: checkpointName(document, what) };
}

/** The config blob. */
export function parseConfig(data: Uint8Array, what: string): ConfigDocument {
  const document = parseJson(data, what);
  checkSpelling(document, ["architecture", "os", "variant", "config", "rootfs"], what);
  const rootfs = objectAt(document, "rootfs", what);
  checkSpelling(rootfs, ["type", "diff_ids"], what);
  const diffIds = stringsAt(rootfs, "diff_ids", what);
  if (!diffIds.every(isDigest) || !diffIds.every((id) => id.startsWith("sha256:")))
    throw invalid(what, "diff_ids are not sha256 digests");
  const run = objectAt(document, "config", what);
  const fields = ["User", "Env", "Entrypoint", "Cmd", "WorkingDir", "StopSignal", "Volumes", "Labels"];
  checkSpelling(run, fields, what);
  const platform = {
    os: stringAt(document, "os", what),
    architecture: stringAt(document, "architecture", what),
    variant: stringAt(document, "variant", what),
  };
  const labels = Object.entries(objectAt(run, "Labels", what)).map(([key, value]) => [key, String(value ?? "")] as const);
  return {
    platform,
    diffIds,
    config: {
      architecture: platform.architecture,
      os: platform.os,
      user: stringAt(run, "User", what),
      env: stringsAt(run, "Env", what),
      entrypoint: stringsAt(run, "Entrypoint", what),
      cmd: stringsAt(run, "Cmd", what),
      workingDir: stringAt(run, "WorkingDir", what),
      stopSignal: stringAt(run, "StopSignal", what),
      volumes: Object.keys(objectAt(run, "Volumes", what)),
      labels: Object.fromEntries(labels),
    },
  };
}
