/** From a reference to a manifest and a config for this machine. */
import { RuntimeError } from "../lib/errors.ts";
import { type Digest, digestAlgorithm } from "./digest.ts";
import { type ConfigDocument, type Manifest, parseConfig, parseManifest } from "./documents.ts";
import { candidates, type Platform, runsOn } from "./platform.ts";
import { formatReference, type Reference } from "./reference.ts";
import { maxConfigBytes, type PullSource, type RawDocument } from "./source.ts";

const maxIndexDepth = 3;
/** Entries of an index without a platform, whose configs have to be fetched. */
const maxTried = 8;

export interface Resolved {
  /** Of the document that the reference stands for: a manifest or an index. */
  readonly digest: Digest;
  readonly manifest: Manifest;
  readonly config: ConfigDocument;
  readonly configJson: string;
  /** As the manifest says, or an index that leads to it. */
  readonly checkpointOf: string | undefined;
}

/** Finds the image for `platform` behind the reference. */
export async function resolveImage(
  source: PullSource,
  reference: Reference,
  platform: Platform,
  signal: AbortSignal,
): Promise<Resolved> {
  const top = await source.manifest(reference.digest ?? reference.tag ?? "latest", signal);
  const budget = { left: maxTried };
  const search: Search = { source, platform, budget, signal };
  const found = await choose(search, top, formatReference(reference), 0);
  if (found === undefined) {
    const wanted = `${platform.os}/${platform.architecture}`;
    throw new RuntimeError(
      "not_found",
      `${formatReference(reference)} has no image for ${wanted}: no match for platform in manifest`,
    );
  }
  return { digest: top.digest, ...found };
}

interface Search {
  readonly source: PullSource;
  readonly platform: Platform;
  readonly budget: { left: number };
  readonly signal: AbortSignal;
}

type Found = Pick<Resolved, "manifest" | "config" | "configJson" | "checkpointOf">;

async function choose(search: Search, raw: RawDocument, what: string, depth: number): Promise<Found | undefined> {
  const document = parseManifest(raw.data, raw.contentType, what);
  if (document.kind === "manifest") return await withConfig(search, document, what);
  if (depth === maxIndexDepth)
    throw new RuntimeError("invalid_argument", `${what} is invalid: indexes are nested deeper than ${maxIndexDepth}`);
  for (const entry of candidates(search.platform, document.manifests)) {
    if (entry.platform === undefined && search.budget.left-- <= 0) return undefined;
    const inner = await search.source.manifest(entry.digest, search.signal);
    if (inner.data.length !== entry.sizeBytes)
      throw new RuntimeError("data_loss", `manifest ${entry.digest} has not the size that ${what} says`);
    const contentType = agreed(inner.contentType, entry.mediaType, entry.digest);
    const found = await choose(search, { ...inner, contentType }, `${what} (${entry.digest})`, depth + 1);
    const fits = entry.platform !== undefined || (found !== undefined && runsOn(search.platform, found.config.platform));
    if (found !== undefined && fits) return { ...found, checkpointOf: found.checkpointOf ?? document.checkpointOf };
  }
  return undefined;
}

/** The descriptor's type decides; parseManifest holds the document against it. A header may only be vaguer. */
function agreed(header: string, described: string, digest: Digest): string {
  const sent = header.split(";")[0]?.trim() ?? "";
  if (described === "" || !sent.startsWith("application/vnd.") || sent === described) return described || header;
  throw new RuntimeError(
    "invalid_argument",
    `manifest ${digest} is invalid: it was sent as ${sent} and described as ${described}`,
  );
}

async function withConfig(search: Search, manifest: Manifest, what: string): Promise<Found> {
  const name = `config of ${what}`;
  if (digestAlgorithm(manifest.config.digest) !== "sha256")
    throw new RuntimeError("invalid_argument", `${name} has no sha256 digest, which image ids are`);
  const data = await search.source.document(manifest.config, maxConfigBytes, name, search.signal);
  const config = parseConfig(data, name);
  if (config.diffIds.length !== manifest.layers.length) {
    throw new RuntimeError(
      "invalid_argument",
      `${what} is invalid: ${manifest.layers.length} layers, but its config lists ${config.diffIds.length}`,
    );
  }
  return { manifest, config, configJson: data.toString("utf8"), checkpointOf: manifest.checkpointOf };
}
