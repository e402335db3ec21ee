/** One pull: source, image, layers, record. */
import { RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { credentialsKey, credentialsOf } from "./auth.ts";
import { chainIds, type Digest } from "./digest.ts";
import { loadEndpoints } from "./hosts.ts";
import type { PullAuth } from "./image-service.ts";
import type { PulledImage } from "./image-set.ts";
import type { LayerOrder, LayerStore } from "./layer-store.ts";
import { type Platform, runsOn } from "./platform.ts";
import type { LayerRecord } from "./records.ts";
import { formatReference, parseReference, type Reference } from "./reference.ts";
import { type Resolved, resolveImage } from "./resolve.ts";
import { SharedTasks } from "./shared-task.ts";
import { Slots } from "./slots.ts";
import type { PullSource } from "./source.ts";
import { RemoteSource, type SourceThread } from "./source-thread.ts";

export interface PullerOptions {
  readonly thread: SourceThread;
  readonly layers: LayerStore;
  readonly platform: Platform;
  readonly hostsDir: string;
  /** Layout directories by repository name. */
  readonly localLayouts: Readonly<Record<string, string>>;
  readonly maxConcurrentDownloads: number;
  readonly log: Log;
}

export class Puller {
  readonly #options: PullerOptions;
  readonly #layouts: ReadonlyMap<string, string>;
  #lastSource = 0;
  /** Across pulls: one download per layer and credentials. */
  readonly #making = new SharedTasks<LayerRecord>();

  constructor(options: PullerOptions) {
    this.#options = options;
    this.#layouts = new Map(Object.entries(options.localLayouts).map(([name, dir]) => [parseReference(name).name, dir]));
  }

  async source(reference: Reference, auth: PullAuth | undefined): Promise<PullSource> {
    const { thread, hostsDir } = this.#options;
    const { name } = reference;
    const id = ++this.#lastSource;
    const dir = this.#layouts.get(name);
    if (dir !== undefined) return new RemoteSource(thread, { id, kind: "layout", name, dir }, name, "layout");
    const credentials = credentialsOf(auth);
    const endpoints = await loadEndpoints(hostsDir, reference.domain);
    const options = { endpoints, reference, credentials, serverAddress: auth?.serverAddress ?? "" };
    return new RemoteSource(thread, { id, kind: "registry", options }, name, credentialsKey(credentials));
  }

  /** Finds the image; `lease` is told its layers before any of them is looked for. */
  async fetch(
    source: PullSource,
    reference: Reference,
    lease: (chain: readonly Digest[]) => void,
    signal: AbortSignal,
  ): Promise<PulledImage> {
    const { platform, log } = this.#options;
    const resolved = await resolveImage(source, reference, platform, signal);
    if (!runsOn(platform, resolved.config.platform)) {
      const offered = `${resolved.config.platform.os}/${resolved.config.platform.architecture}`;
      log.warn({ image: formatReference(reference) }, `the image is for ${offered}; its programs may not run here`);
    }
    const chain = chainIds(resolved.config.diffIds);
    lease(chain);
    await this.#makeLayers(source, resolved, chain, signal);
    return {
      id: resolved.manifest.config.digest,
      reference,
      digest: resolved.digest,
      configJson: resolved.configJson,
      chainIds: chain,
      checkpointOf: resolved.checkpointOf,
    };
  }

  /** All at once, as far as slots go. The first that fails stops the others; returns when none of them runs any more. */
  async #makeLayers(source: PullSource, resolved: Resolved, chain: readonly Digest[], signal: AbortSignal): Promise<void> {
    const failed = new AbortController();
    const both = AbortSignal.any([signal, failed.signal]);
    const slots = new Slots(this.#options.maxConcurrentDownloads);
    const layers = chain.map((_, index) => {
      const made = this.#ensure({ source, resolved, chain, slots }, index, both);
      made.catch((error: unknown) => failed.abort(error));
      return made;
    });
    await Promise.allSettled(layers);
    await Promise.all(layers);
  }

  /** Joins whoever makes this layer already. Its wait for the layers below lives as long as it does, not as long as this pull. */
  async #ensure(pull: LayersOfPull, index: number, signal: AbortSignal): Promise<LayerRecord> {
    const { layers } = this.#options;
    const { source, resolved, chain, slots } = pull;
    const blob = resolved.manifest.layers[index];
    const diffId = resolved.config.diffIds[index];
    const chainId = chain[index];
    if (blob === undefined || diffId === undefined || chainId === undefined)
      throw new RuntimeError("internal", `no layer ${index}`);
    const present = layers.get(chainId);
    if (present !== undefined) return present;
    const belowReady: LayerOrder["belowReady"] = async (own) =>
      index === 0 ? undefined : await this.#ensure(pull, index - 1, own);
    const order = { source, blob, diffId, chainId, below: chain.slice(0, index), belowReady };
    return await this.#making.run(`${source.credentialsKey} ${chainId}`, signal, (own) =>
      layers.make(order, (work) => slots.run(own, work), own),
    );
  }
}

interface LayersOfPull {
  readonly source: PullSource;
  readonly resolved: Resolved;
  readonly chain: readonly Digest[];
  readonly slots: Slots;
}
