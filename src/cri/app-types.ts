/**
 * What every verb of this folder gets. `createCri` in app.ts makes the CriApp from its parts, `recover` in recover.ts makes it ready,
 * and src/server maps each RPC onto the function of the same name:
 *
 *     export async function runPodSandbox(app: CriApp, ctx: Context, request: RunPodSandboxRequest): Promise<RunPodSandboxResponse>
 *
 * | RPC | file |
 * |---|---|
 * | version, status, runtimeConfig, updateRuntimeConfig | runtime-version.ts, runtime-status.ts, runtime-config.ts, runtime-config-update.ts |
 * | runPodSandbox, stopPodSandbox, removePodSandbox, podSandboxStatus, listPodSandbox | sandbox-run.ts, -stop.ts, -remove.ts, -status.ts, -list.ts |
 * | createContainer, startContainer, stopContainer, removeContainer, containerStatus, listContainers | container-create.ts, -start.ts, -stop.ts, -remove.ts, -status.ts, -list.ts |
 * | listPodSandbox, listContainers, listContainerStats, listImages as streams | sandbox-list-stream.ts, container-list-stream.ts, container-stats-stream.ts, image-list-stream.ts |
 * | podSandboxStats, listPodSandboxStats, streamPodSandboxStats | sandbox-stats.ts, -stats-list.ts, -stats-stream.ts |
 * | listMetricDescriptors, listPodSandboxMetrics, streamPodSandboxMetrics | metric-descriptors.ts, sandbox-metrics.ts, -metrics-stream.ts |
 * | updateContainerResources, updatePodSandboxResources | container-update.ts, sandbox-update.ts |
 * | getContainerEvents | container-events.ts |
 * | containerStats, listContainerStats, execSync, reopenContainerLog | container-stats.ts, container-stats-list.ts, exec-sync.ts, log-reopen.ts |
 * | exec, attach, portForward | exec.ts, attach.ts, port-forward.ts |
 * | pullImage, imageStatus, listImages, removeImage, imageFsInfo | image-pull.ts, -status.ts, -list.ts, -remove.ts, -fs-info.ts |
 */
import type { Runtime } from "../core/runtime.ts";
import type { ImageService } from "../image/image-service.ts";
import type { KeyedLock } from "../lib/lock.ts";
import type { PodNetwork } from "../network/pod-network.ts";
import type { NodePlugins, NodeView } from "../nri/node-plugins.ts";
import type { Store } from "../store/store.ts";
import type { StreamingUrls } from "../streaming/streaming-server.ts";
import type { CriEvents } from "./events.ts";
import type { LivePods } from "./live-pods.ts";
import type { NameReservations } from "./name-reservations.ts";
import type { Operations } from "./operations.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { SpecCache } from "./spec-cache.ts";
import type { StopLedger } from "./stop-ledger.ts";
import type { StopRequests } from "./stop-requests.ts";
import type { TeardownRetries } from "./teardown-retries.ts";
import type { Host } from "./translate-node.ts";
import type {
  AdjustContainer,
  ResolveResources,
  RootLabel,
  TranslateContainer,
  TranslateSandbox,
  TranslationOptions,
} from "./translation.ts";
import type { UsageSamples } from "./usage-samples.ts";
import type { WritableLayerUsage } from "./writable-layer-usage.ts";

/** The part of pino's logger that is used; a pino logger is one. */
export interface CriLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface CriClock {
  /** Nanoseconds since the Unix epoch. */
  nowNs(): bigint;
}

export interface CriConfig {
  /** As a client sees it, semver. */
  readonly runtimeVersion: string;
  /** ROOT, such as /var/lib/caisson: absolute. */
  readonly rootDir: string;
  /** STATE, such as /run/caisson: absolute. */
  readonly stateDir: string;
  /** Directory of the pinned network namespaces: /run/netns. */
  readonly netnsDir: string;
  readonly cgroupDriver: "cgroupfs" | "systemd";
  /** What pods of each runtime handler get; "" is the default, which has a name as well. */
  readonly handlers: ReadonlyMap<string, TranslationOptions>;
  /** Most bytes kept of an ExecSync's two streams together; the reply must stay under 16 MiB. */
  readonly execOutputBytes: number;
  /** How long the end of a container is waited for after SIGKILL. */
  readonly killPatienceMs: number;
  /** How long ExecSync reads on after the command's end while others hold its pipes. */
  readonly execDrainMs: number;
  /** Whether CreateContainer takes a checkpoint archive in place of an image. */
  readonly restoreFromArchives: boolean;
  /** What the default handler can do, for Status. */
  readonly features: { readonly recursiveReadOnlyMounts: boolean; readonly userNamespaces: boolean };
  /** What verbose Status shows of the configuration: plain JSON data without secrets. */
  readonly shown: Readonly<Record<string, unknown>>;
}

/** One call. `signal` fires when the caller goes away or its deadline passes. */
export interface Context {
  readonly signal: AbortSignal;
  readonly log: CriLog;
}

/** What the composition root hands in. */
export interface CriParts {
  readonly runtime: Runtime;
  readonly images: ImageService;
  readonly network: PodNetwork;
  readonly store: Store;
  readonly streaming: StreamingUrls;
  readonly config: CriConfig;
  readonly log: CriLog;
  readonly clock: CriClock;
  readonly translateSandbox: TranslateSandbox;
  readonly translateContainer: TranslateContainer;
  readonly rootLabel: RootLabel;
  /** The node's files where logs lie, looked at with care. */
  readonly logHost: Pick<Host, "lstat" | "makeDirectory">;
  readonly resolveResources: ResolveResources;
  /** Both absent: there are no NRI plugins. */
  readonly adjustContainer?: AdjustContainer;
  readonly openPlugins?: (node: NodeView) => NodePlugins;
}

export interface CriApp extends CriParts {
  /** False until recovery is done: every RPC then answers UNAVAILABLE. */
  ready: boolean;
  /** Fires when the daemon ends: operations under way roll back or stop waiting. */
  readonly stopping: AbortSignal;
  /** Keys are ids of pods and containers. Never held while waiting for a process to end. */
  readonly locks: KeyedLock;
  readonly names: NameReservations;
  readonly operations: Operations;
  readonly sandboxes: Registry<SandboxRecord>;
  readonly containers: Registry<ContainerRecord>;
  /** Connections to the shims of the pods that live. */
  readonly pods: LivePods;
  readonly stops: StopRequests;
  readonly events: CriEvents;
  readonly samples: UsageSamples;
  readonly writableLayers: WritableLayerUsage;
  readonly specs: SpecCache;
  readonly plugins: NodePlugins | undefined;
  readonly teardowns: TeardownRetries;
  readonly ledger: StopLedger;
  /** This installation's mark on every object; set by recovery. */
  instance: { readonly id: string; readonly bootId: string };
  /** Names the log in which events are numbered; set by recovery. */
  eventLog: string;
}
