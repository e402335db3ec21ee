/** The pod network by CNI plugins. Different pods run side by side; calls for one pod run one after another. */
import { mkdirSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, RuntimeError, wrapError } from "../lib/errors.ts";
import { KeyedLock } from "../lib/lock.ts";
import { attachmentOf, ifName } from "./attachment.ts";
import { AttachmentLock } from "./attachment-lock.ts";
import { addChain, checkChain, collectChain, deleteChain, hasCollection, statusOfChain } from "./chain.ts";
import { type IpPreference, podAddresses } from "./cni-result.ts";
import { type LoadedNetwork, type LoadResult, loadNetwork } from "./configuration.ts";
import { DirectoryWatch } from "./directory-watch.ts";
import { ExclusiveGate } from "./exclusive-gate.ts";
import { serialiseNetworkList } from "./network-list.ts";
import type { NetworkStatus, PodNetwork, PodNetworkRequest, PodNetworkResult } from "./pod-network.ts";
import { type CachedAttachment, ResultCache } from "./result-cache.ts";
import { type UnownedObject, unownedAttachments, unownedLeases } from "./unowned.ts";

export interface PodNetworkOptions {
  /** Directories of configuration lists, the first with a valid one wins. Missing ones are made. */
  readonly confDirs: readonly string[];
  /** Directories of plugins, searched in order. */
  readonly binDirs: readonly string[];
  /** Where attachments are remembered; made 0700. */
  readonly cacheDir: string;
  /** Where attachments are locked, below the state directory; made 0700. */
  readonly lockDir: string;
  /** Called with a sentence for people: a skipped file, a network that came or went. */
  readonly onNotice?: (sentence: string) => void;
  /** Which address is the primary one: "cni" keeps the plugins' order. */
  readonly ipPreference?: IpPreference;
  /** For the whole list of plugins in an ADD or CHECK, for each plugin in a DEL. */
  readonly deadlineMs?: number;
}

const defaultDeadlineMs = 110_000;
/** How often plugins of a 1.1 network are asked for their STATUS at most; the kubelet asks us every 5 s. */
const statusAgeMs = 10_000;
const statusDeadlineMs = 5000;

/** While a plugin frees things no pod can come or go. */
const collectDeadlineMs = 15_000;
const collectRetryMs = 2_000;

const nsfsMagic = 0x6e736673n;

/** After a reboot the pin is gone or is an empty file, and plugins fail on a path that is no namespace; with none they clean up. */
async function isNamespace(path: string): Promise<boolean> {
  if (path === "") return false;
  try {
    return (await statfs(path, { bigint: true })).type === nsfsMagic;
  } catch {
    return false;
  }
}

function sameNetwork(a: LoadedNetwork | undefined, b: LoadedNetwork | undefined): boolean {
  return a?.file === b?.file && (a && serialiseNetworkList(a.list)) === (b && serialiseNetworkList(b.list));
}

class CniNetwork implements PodNetwork {
  readonly #options: PodNetworkOptions;
  readonly #locks = new KeyedLock();
  readonly #gate = new ExclusiveGate();
  readonly #cache: ResultCache;
  readonly #watches: DirectoryWatch[];
  #network: LoadedNetwork | undefined;
  #problems: readonly string[] = [];
  #loading: Promise<void> = Promise.resolve();
  #closed = false;
  /** What the plugins answered to STATUS, and when: undefined means ready. */
  #pluginStatus: { readonly list: unknown; readonly atMs: number; readonly error: unknown } | undefined;
  #asking = false;

  constructor(options: PodNetworkOptions) {
    this.#options = options;
    this.#cache = new ResultCache(options.cacheDir);
    for (const directory of options.confDirs) this.#makeDirectory(directory);
    this.#watches = options.confDirs.map((directory) => new DirectoryWatch(directory, () => void this.load()));
  }

  /** Reads the configuration anew; also when one is being read already, which may have missed the latest change. */
  async load(): Promise<void> {
    this.#loading = this.#loading.then(() => this.#load());
    await this.#loading;
  }

  status(): NetworkStatus {
    for (const watch of this.#watches) watch.verify();
    const network = this.#network;
    if (network === undefined) {
      const found = this.#problems.length > 0 ? `: ${this.#problems.join("; ")}` : "";
      return this.#notReady(
        "",
        `cni plugin not initialized: no valid network configuration in ${this.#options.confDirs.join(", ")}${found}`,
      );
    }
    this.#askPlugins(network);
    const { name } = network.list;
    if (this.#pluginStatus?.list === network.list && this.#pluginStatus.error !== undefined) {
      return this.#notReady(name, `network ${name} is not ready: ${messageOf(this.#pluginStatus.error)}`);
    }
    return { ready: true, reason: "", message: "", networkName: name };
  }

  async attach(request: PodNetworkRequest, signal: AbortSignal): Promise<PodNetworkResult> {
    return await this.#alone(request.podId, signal, async (lock) => {
      // A second ADD without a DEL is forbidden: what an interrupted one left is taken back first.
      await this.#detachAll(request, signal, lock);
      await this.#loading;
      const network = this.#network;
      if (network === undefined) throw new RuntimeError("unavailable", this.status().message);
      return await this.#attachTo(network, request, signal, lock);
    });
  }

  async detach(request: PodNetworkRequest, signal: AbortSignal): Promise<void> {
    await this.#alone(request.podId, signal, async (lock) => {
      await this.#detachAll(request, signal, lock);
      lock.remove();
    });
  }

  async check(request: PodNetworkRequest, signal: AbortSignal): Promise<void> {
    await this.#alone(request.podId, signal, async (lock) => {
      for (const { list, attachment, result } of await this.#cache.find(request.podId)) {
        if (result === undefined)
          throw new RuntimeError("failed_precondition", `pod ${request.podId} is not attached completely`);
        const chain = { list, attachment: { ...attachment, netns: request.netnsPath }, binDirs: this.#options.binDirs, lock };
        await checkChain(chain, result, this.#deadline(signal));
      }
    });
  }

  async collect(isKnown: (podId: string) => boolean, signal: AbortSignal): Promise<void> {
    const unknown = (await this.#cache.all()).map(({ attachment }) => attachment.containerId).filter((id) => !isKnown(id));
    for (const podId of new Set(unknown)) {
      await this.#alone(podId, signal, async (lock) => {
        this.#notice(`pod ${podId} is not known any more; it is detached from its network`);
        // Not ended by the signal: half a DEL cannot be repeated.
        for (const cached of await this.#cache.find(podId)) await this.#delete(cached, cached.attachment.netns, undefined, lock);
        lock.remove();
      });
    }
    await this.#loading;
    const list = this.#network?.list;
    if (list === undefined || !hasCollection(list)) return;
    const collect = async (): Promise<void> => {
      const attached = (await this.#cache.all()).filter((cached) => cached.list.name === list.name);
      const valid = attached.map(({ attachment }) => ({ containerID: attachment.containerId, ifname: ifName }));
      await collectChain(list, this.#options.binDirs, valid, () =>
        AbortSignal.any([signal, AbortSignal.timeout(collectDeadlineMs)]),
      );
    };
    while (!(await this.#collectAlone(collect))) await sleep(collectRetryMs, undefined, { signal, ref: false });
  }

  /** A plugin that an earlier daemon left behind may still be working as well. */
  async #collectAlone(collect: () => Promise<void>): Promise<boolean> {
    return AttachmentLock.allFree(this.#options.lockDir) && (await this.#gate.tryAlone(collect));
  }

  async unowned(isKnown: (podId: string) => boolean): Promise<readonly UnownedObject[]> {
    const attachments = await this.#cache.all();
    const list = this.#network?.list;
    const leases = list === undefined ? [] : await unownedLeases(list, attachments, isKnown);
    return [...unownedAttachments(attachments, isKnown), ...leases];
  }

  close(): void {
    this.#closed = true;
    for (const watch of this.#watches) watch.close();
  }

  /** Nobody else works on this pod's attachment meanwhile: no call of ours, and no plugin that an earlier daemon left behind. */
  async #alone<T>(podId: string, signal: AbortSignal, work: (lock: AttachmentLock) => Promise<T>): Promise<T> {
    return await this.#locks.run(podId, signal, async () => {
      const patienceMs = this.#options.deadlineMs ?? defaultDeadlineMs;
      return await this.#gate.pass(async () => {
        using lock = await AttachmentLock.take({ directory: this.#options.lockDir, podId, patienceMs }, signal);
        return await work(lock);
      });
    });
  }

  async #attachTo(
    { list }: LoadedNetwork,
    request: PodNetworkRequest,
    signal: AbortSignal,
    lock: AttachmentLock,
  ): Promise<PodNetworkResult> {
    const attachment = attachmentOf(request);
    if (request.portMappings.length > 0 && list.plugins.every(({ capabilities }) => !capabilities.has("portMappings"))) {
      this.#notice(`pod ${request.namespace}/${request.name} asks for host ports; no plugin of network ${list.name} does them`);
    }
    const chain = { list, attachment, binDirs: this.#options.binDirs, lock };
    const cached = await this.#cache.write(list, attachment, undefined);
    try {
      const result = await addChain(chain, this.#deadline(signal));
      const ips = podAddresses(result, ifName, this.#options.ipPreference ?? "cni");
      await this.#cache.write(list, attachment, result);
      return { ips, cniResult: result };
    } catch (error) {
      const failure = wrapError(`network ${list.name} of pod ${request.namespace}/${request.name}`, error, {
        network: list.name,
      });
      await this.#undoAttach(cached, failure, lock);
      throw failure;
    }
  }

  /** A failed DEL leaves the cache file, so that detach() tries again; the error of the ADD says so. */
  async #undoAttach(cached: CachedAttachment, failure: RuntimeError, lock: AttachmentLock): Promise<void> {
    try {
      await this.#delete(cached, cached.attachment.netns, undefined, lock);
    } catch (error) {
      failure.message += `; taking it back failed as well and will be tried again: ${messageOf(error)}`;
    }
  }

  async #detachAll(request: PodNetworkRequest, signal: AbortSignal, lock: AttachmentLock): Promise<void> {
    for (const cached of await this.#cache.find(request.podId)) {
      try {
        await this.#delete(cached, request.netnsPath, signal, lock);
      } catch (error) {
        throw wrapError(`detaching pod ${request.namespace}/${request.name} from network ${cached.list.name}`, error);
      }
    }
  }

  async #delete(cached: CachedAttachment, netns: string, signal: AbortSignal | undefined, lock: AttachmentLock): Promise<void> {
    const attachment = { ...cached.attachment, netns: (await isNamespace(netns)) ? netns : "" };
    const chain = { list: cached.list, attachment, binDirs: this.#options.binDirs, lock };
    await deleteChain(chain, cached.result, () => this.#deadline(signal));
    await this.#cache.forget(cached);
  }

  #deadline(signal?: AbortSignal): AbortSignal {
    const deadline = AbortSignal.timeout(this.#options.deadlineMs ?? defaultDeadlineMs);
    return signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
  }

  async #load(): Promise<void> {
    if (this.#closed) return;
    const before = this.#network;
    const { network: found, problems } = await this.#find(before);
    const network = sameNetwork(found, before) ? before : found;
    for (const problem of problems) if (!this.#problems.includes(problem)) this.#notice(problem);
    this.#problems = problems;
    this.#network = network;
    if (network !== undefined && network !== before) this.#notice(`network ${network.list.name} is loaded from ${network.file}`);
    if (network === undefined && before !== undefined) this.#notice(`network ${before.list.name} is gone`);
    if (network !== undefined) this.#askPlugins(network);
  }

  /** Never rejects: a later load must not fail because of this one. */
  async #find(before: LoadedNetwork | undefined): Promise<LoadResult> {
    try {
      return await loadNetwork(this.#options.confDirs, before);
    } catch (error) {
      return { network: before, problems: [`the network configuration cannot be read: ${messageOf(error)}`] };
    }
  }

  /** In the background: an answer is shown by the next status(). */
  #askPlugins({ list }: LoadedNetwork): void {
    const known = this.#pluginStatus;
    if (this.#asking || this.#closed || (known?.list === list && Date.now() - known.atMs < statusAgeMs)) return;
    if (list.cniVersion !== "1.1.0") return;
    this.#asking = true;
    statusOfChain(list, this.#options.binDirs, AbortSignal.timeout(statusDeadlineMs))
      .then(
        () => undefined,
        (error: unknown) => error,
      )
      .then((error) => {
        this.#asking = false;
        this.#pluginStatus = { list, atMs: Date.now(), error };
      });
  }

  #notReady(networkName: string, message: string): NetworkStatus {
    return { ready: false, reason: "NetworkPluginNotReady", message, networkName };
  }

  #makeDirectory(directory: string): void {
    try {
      mkdirSync(directory, { recursive: true, mode: 0o755 });
    } catch (error) {
      // The nearest directory above is watched until somebody else makes it.
      this.#notice(`cannot make ${directory}: ${messageOf(error)}`);
    }
  }

  #notice(sentence: string): void {
    this.#options.onNotice?.(sentence);
  }
}

/** Loads the configuration and watches it. Fails only when the machine does: no configuration is a status. */
export async function openPodNetwork(options: PodNetworkOptions): Promise<PodNetwork> {
  const network = new CniNetwork(options);
  await network.load();
  return network;
}
