/**
 * The composition root: what is made in which order, and what ends in which. Start: lock both directories, listen (every call is
 * UNAVAILABLE), store, core, images, network, CRI, recovery, ready. Stop: no new calls, let the running ones end, let go of the
 * shims (containers go on), close the store.
 */
import { existsSync, mkdirSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Config } from "./config.ts";
import { LibraryContainers } from "./containers/library-containers.ts";
import { CdiDevices } from "./core/device/cdi.ts";
import { createHostRuntime } from "./core/host-runtime.ts";
import type { Runtime } from "./core/runtime.ts";
import { adjustContainerOn } from "./cri/adjust-container.ts";
import { type Cri, createCri, systemClock } from "./cri/app.ts";
import type { CriConfig } from "./cri/app-types.ts";
import { replayEvents } from "./cri/event-replay.ts";
import { examine } from "./cri/examine.ts";
import { type CgroupDriver, chooseCgroupDriver, identifyInstance } from "./cri/instance.ts";
import { recover } from "./cri/recover.ts";
import { ledgerSentences } from "./cri/stop-obstacles.ts";
import { rootLabelOn, translateContainerOn } from "./cri/translate-container.ts";
import { logHost, type NodeFacts, readTranslationNode } from "./cri/translate-node.ts";
import { resolveResources } from "./cri/translate-resources.ts";
import { translateSandbox } from "./cri/translate-sandbox.ts";
import type { TranslationOptions } from "./cri/translation.ts";
import type { InfoResponse } from "./gen/caisson/v1/node.ts";
import { openImageService } from "./image/open-image-service.ts";
import { messageOf, RuntimeError } from "./lib/errors.ts";
import type { Log } from "./lib/log.ts";
import { buildVersion } from "./lib/version.ts";
import { addon } from "./native/addon.ts";
import { lockDirectory } from "./native/file-lock.ts";
import { returnFreedMemory } from "./native/freed-memory.ts";
import { openServiceNotify, type ServiceNotify } from "./native/service-notify.ts";
import { openPodNetwork } from "./network/cni-network.ts";
import { NodePlugins, type NriOptions } from "./nri/node-plugins.ts";
import type { Gate } from "./server/call.ts";
import { containerService } from "./server/container-service.ts";
import { type GrpcServer, serveGrpc } from "./server/grpc-server.ts";
import { imageService } from "./server/image-service.ts";
import { nodeService } from "./server/node-service.ts";
import { runtimeService } from "./server/runtime-service.ts";
import { type NodeStore, openStore } from "./store/sqlite-store.ts";
import { openStreamingServer, type StreamingOptions } from "./streaming/streaming-server.ts";

/** How long running calls get to end by themselves when the daemon stops. */
const graceMs = 5000;
const loopDelayResolutionMs = 100;
/** Variables of the daemon's environment that a helper gets; nothing else of it. */
const passedOn: ReadonlySet<string> = new Set(["CAISSON_DENY_SYSCALLS"]);

/** From src/ and from dist/ alike. */
const shortestSliceUs = 100;
const callsNice = -10;
const nativeDir = (config: Config): string => config.runtime.nativeDir || join(import.meta.dirname, "../build/native");

export interface Daemon {
  /** Resolves when calls are answered; rejects when the daemon cannot start, having undone what it had made. */
  readonly ready: Promise<void>;
  /** Ends everything but the containers. Works at any moment, also during the start; a second call joins the first. */
  stop(): Promise<void>;
}

/** Starts the daemon with this configuration. */
export function startDaemon(config: Config, log: Log): Daemon {
  answerSoon(log);
  const daemon = new CaissonDaemon(config, log);
  const ready = daemon.start();
  // The caller awaits it, perhaps only after something else has failed.
  ready.catch(() => {});
  return { ready, stop: () => daemon.stop() };
}

/**
 * This thread's work comes in bits of less than a slice: with the shortest one it gets its turn as soon as it has something to do, and
 * with a higher priority also when it has had more than its share beside a pull, which else gets its own back in whole ticks (4 ms). It
 * counts within the daemon's own cgroup only, nothing that is started here inherits it, and whoever asked for less than 0 or more keeps it.
 */
function answerSoon(log: Log): void {
  const nice = getPriority();
  try {
    addon.setSlices(shortestSliceUs, nice === 0 ? callsNice : nice);
  } catch (error) {
    log.debug({ err: error }, "calls wait for a whole slice of who else runs");
  }
}

class CaissonDaemon {
  readonly #config: Config;
  readonly #log: Log;
  readonly #startedAtNs = BigInt(Date.now()) * 1_000_000n;
  readonly #loopDelay = monitorEventLoopDelay({ resolution: loopDelayResolutionMs });
  readonly #notify: ServiceNotify;
  /** Ends streams, which would keep their connections open. */
  readonly #closing = new AbortController();
  /** Ended newest first. */
  readonly #parts: { readonly what: string; readonly end: () => Promise<void> | void }[] = [];
  /** Why calls are not answered; empty when they are. */
  #closed = "caissond is starting";
  #server: GrpcServer | undefined;
  #store: NodeStore | undefined;
  #runtime: Runtime | undefined;
  #cri: Cri | undefined;
  #containers: LibraryContainers | undefined;
  #stopping: Promise<void> | undefined;

  constructor(config: Config, log: Log) {
    this.#config = config;
    this.#log = log;
    this.#notify = openServiceNotify(process.env, (error) => log.warn({ err: error }, "the service manager was not told"));
  }

  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const config = this.#config;
    this.#loopDelay.enable();
    this.#own("loop delay", () => void this.#loopDelay.disable());
    const freed = returnFreedMemory();
    this.#own("freed memory", () => freed[Symbol.dispose]());
    this.#own("service manager", () => this.#notify.close());
    this.#lock(config.root, "stop it, or give this one its own --root");
    this.#lock(config.state, "stop it, or give this one its own --state");
    const server = await this.#serve();
    this.#store = this.#openStore();
    // Before the images: what these containers use of them is not to be removed.
    const containers = new LibraryContainers(join(config.state, "library"));
    this.#containers = containers;
    const cri = await this.#openCri(this.#store, containers);
    this.#closed = "caissond is starting: records and pods are being read back";
    await recover(cri.app);
    // Before the first pod is made, so that those that are installed have seen every one.
    await cri.app.plugins?.start();
    if (this.#stopping !== undefined) throw new RuntimeError("canceled", "caissond was stopped while it started");
    this.#closed = "";
    server.health.set(true);
    this.#notify.send("READY=1");
    this.#notify.startWatchdog();
    const ms = Math.round(Number(BigInt(Date.now()) * 1_000_000n - this.#startedAtNs) / 1e6);
    this.#log.info({ version: buildVersion(), socket: config.listen, ms }, "ready");
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#closed = "caissond is stopping";
    this.#notify.send("STOPPING=1");
    this.#closing.abort();
    // First, although it was made early: the calls under way need everything else.
    await this.#server?.close(graceMs);
    for (let part = this.#parts.pop(); part !== undefined; part = this.#parts.pop()) {
      try {
        await part.end();
      } catch (error) {
        this.#log.warn({ err: error }, `${part.what} did not end: ${messageOf(error)}`);
      }
    }
  }

  #own(what: string, end: () => Promise<void> | void): void {
    this.#parts.push({ what, end });
  }

  #lock(directory: string, remedy: string): void {
    // Searchable: roots in user namespaces pass through it to their mount points.
    mkdirSync(directory, { recursive: true, mode: 0o711 });
    const lock = lockDirectory(directory, remedy);
    this.#own(`lock of ${directory}`, () => lock[Symbol.dispose]());
  }

  async #serve(): Promise<GrpcServer> {
    const gate: Gate = {
      log: this.#log,
      closing: this.#closing.signal,
      requireReady: () => {
        if (this.#closed !== "") throw new RuntimeError("unavailable", this.#closed);
      },
    };
    const app = (): Cri["app"] => {
      if (this.#cri === undefined) throw new RuntimeError("unavailable", "caissond is starting");
      return this.#cri.app;
    };
    const node = nodeService(gate, {
      info: () => this.#info(),
      resolve: (id) => this.#resolve(id),
      examine: (context, request) => examine(app(), request, context.signal),
      timeline: (id) => this.#store?.timeline(id) ?? [],
      events: (context, request, send) => replayEvents(app(), context, request, send),
    });
    const container = containerService(gate, () => {
      if (this.#containers === undefined) throw new RuntimeError("unavailable", "caissond is starting");
      return this.#containers;
    });
    const services = [runtimeService(gate, app), imageService(gate, app), node, container];
    const server = await serveGrpc(this.#config.listen, services, this.#log);
    this.#server = server;
    return server;
  }

  #openStore(): NodeStore {
    const { root, store: limits } = this.#config;
    const store = openStore({
      directory: root,
      log: this.#log,
      ballastBytes: limits.ballastBytes,
      eventsPerObject: limits.eventsPerObject,
      eventsTotal: limits.eventsTotal,
    });
    this.#own("store", () => store.close());
    return store;
  }

  async #openCri(store: NodeStore, containers: LibraryContainers): Promise<Cri> {
    const config = this.#config;
    const log = this.#log;
    // What systemd's own sd_booted() looks at.
    const cgroupDriver = chooseCgroupDriver(store, config.runtime.cgroupDriver, existsSync("/run/systemd/system"));
    const { id: instance } = await identifyInstance({ store, config: { rootDir: config.root, stateDir: config.state } });
    const runtime = await createHostRuntime({
      stateDir: config.state,
      shimPath: join(nativeDir(config), "caisson-shim"),
      shimEnv: Object.entries(process.env).flatMap(([name, value]) => (passedOn.has(name) ? [`${name}=${value}`] : [])),
      logLineBytes: config.runtime.maxLogLine,
      criuPath: config.checkpoint.criu || undefined,
      cgroupDriver,
      instance,
      log,
    });
    this.#runtime = runtime;
    this.#own("runtime", () => runtime[Symbol.asyncDispose]());
    for (const limitation of runtime.limitations) log.warn({}, limitation);
    const images = await openImageService(config, store, log, () => containers.mentions());
    this.#own("images", () => images.close());
    const network = await openPodNetwork({
      confDirs: config.cni.confDirs,
      binDirs: config.cni.binDirs,
      cacheDir: config.cni.cacheDir,
      lockDir: join(config.state, "network"),
      deadlineMs: config.cni.pluginTimeoutS * 1000,
      ipPreference: config.cni.ipPreference,
      onNotice: (sentence) => log.info({}, sentence),
    });
    this.#own("network", () => network.close());
    const cdi = new CdiDevices({ directories: config.cdi.specDirs, onProblem: (sentence) => log.warn({}, sentence) });
    const node = await readTranslationNode(runtime.cgroupVersion, cdi);
    const streaming = await openStreamingServer(streamingOptions(config, log));
    const cri = createCri({
      runtime,
      images,
      network,
      store,
      streaming,
      log,
      config: criConfig(config, cgroupDriver, node.facts),
      clock: systemClock(),
      translateSandbox,
      translateContainer: translateContainerOn(node),
      rootLabel: rootLabelOn(node),
      logHost: logHost(),
      resolveResources: (asked) => resolveResources(asked, node.facts),
      adjustContainer: adjustContainerOn(node),
      ...(config.nri.enabled ? { openPlugins: (view) => new NodePlugins(nriOptions(config), view, log) } : {}),
    });
    this.#cri = cri;
    this.#own("pods", () => cri.close());
    // Sessions end before the pods that they are about are let go.
    this.#own("streaming", () => streaming.close());
    this.#own("NRI plugins", () => cri.app.plugins?.close());
    return cri;
  }

  #resolve(asked: string): string {
    const found = asked === "" ? [] : (this.#store?.objectsLike(asked, 2) ?? []);
    const [first] = found;
    if (first === undefined) throw new RuntimeError("not_found", `nothing is recorded of ${asked || "an empty id"}`);
    if (found.length > 1 && first !== asked) throw new RuntimeError("invalid_argument", `${asked} stands for several objects`);
    return first;
  }

  #info(): InfoResponse {
    const delay = this.#loopDelay;
    // The histogram counts the timer's own interval in.
    const over = (ns: number): bigint =>
      delay.count === 0 ? 0n : BigInt(Math.max(0, Math.round(ns - loopDelayResolutionMs * 1e6)));
    const info: InfoResponse = {
      version: buildVersion(),
      pid: BigInt(process.pid),
      ready: this.#closed === "",
      rootDir: this.#config.root,
      stateDir: this.#config.state,
      socket: this.#config.listen,
      startedAt: this.#startedAtNs,
      limitations: [...(this.#runtime?.limitations ?? [])],
      leftovers: this.#cri?.app.ledger.all().flatMap(ledgerSentences) ?? [],
      cgroupVersion: this.#runtime?.cgroupVersion ?? "",
      databaseRebuilt: this.#store?.rebuilt ?? "",
      loopDelayP50: over(delay.percentile(50)),
      loopDelayP99: over(delay.percentile(99)),
      loopDelayMax: over(delay.max),
    };
    delay.reset();
    return info;
  }
}

function nriOptions({ nri }: Config): NriOptions {
  return { ...nri, tolerateAnnotation: nri.tolerateMissingAnnotation, runtimeVersion: buildVersion() };
}

function streamingOptions({ streaming }: Config, log: Log): StreamingOptions {
  const { address, port, tlsCert, tlsKey, clientCa, idleTimeoutS, tokenTtlS, maxPendingTokens } = streaming;
  return {
    address,
    port,
    tls: tlsCert === "" ? undefined : { cert: tlsCert, key: tlsKey, clientCa: clientCa || undefined },
    idleMs: idleTimeoutS * 1000,
    ttlMs: tokenTtlS * 1000,
    mostPending: maxPendingTokens,
    log,
  };
}

/** The default under both of its names, then the profiles. */
function handlersOf({ runtime, runtimes, cdi }: Config, cgroupDriver: CgroupDriver): CriConfig["handlers"] {
  const options = (profile: Config["runtimes"][string] = {}): TranslationOptions => {
    const { absentMountSources, defaultCapabilities, defaultSysctls, shmBytes, privilegedHostDevices } = {
      ...runtime,
      ...profile,
    };
    const cdiAnnotations = cdi.fromAnnotations;
    return {
      cgroupDriver,
      absentMountSources,
      defaultCapabilities,
      defaultSysctls,
      shmBytes,
      privilegedHostDevices,
      cdiAnnotations,
    };
  };
  const profiles = Object.entries(runtimes).map(([name, profile]): [string, TranslationOptions] => [name, options(profile)]);
  return new Map([["", options()], ["caisson", options()], ...profiles]);
}

function criConfig(config: Config, cgroupDriver: CgroupDriver, facts: NodeFacts): CriConfig {
  const { runtime } = config;
  return {
    runtimeVersion: buildVersion(),
    rootDir: config.root,
    stateDir: config.state,
    netnsDir: runtime.netnsDir,
    cgroupDriver,
    handlers: handlersOf(config, cgroupDriver),
    execOutputBytes: runtime.execOutputBytes,
    killPatienceMs: runtime.killPatienceS * 1000,
    execDrainMs: runtime.execDrainMs,
    restoreFromArchives: config.checkpoint.restore,
    features: { recursiveReadOnlyMounts: facts.recursiveReadOnly, userNamespaces: facts.userNamespaces },
    shown: { ...config },
  };
}
