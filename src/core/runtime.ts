/**
 * The core's face: what cri/ and later the library and its service build on. It knows neither CRI nor gRPC. Implementations are in
 * pod.ts and container.ts; app.ts makes the one Runtime.
 */
import type { Duplex, Readable, Writable } from "node:stream";
import type { CheckpointOptions, RestoreOptions } from "./criu/checkpoint-options.ts";
import type { SocketPlace } from "./criu/saved-sockets.ts";
import type { OciIdMapping, OciResources, OciSpec } from "./oci.ts";
import type { OtherNamespaces } from "./other-namespaces.ts";

/** A process named so that a recycled pid is noticed. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks after boot. */
  readonly startTicks: bigint;
}

export interface PodSpec {
  /** 64 lower-case hex characters. */
  readonly id: string;
  readonly hostname: string;
  /** host: share the node's. new: made and pinned for the pod's life. */
  readonly network: "new" | "host";
  readonly ipc: "new" | "host";
  readonly uts: "new" | "host";
  /** pod: one PID namespace for all containers, with a reaper as process 1. */
  readonly pid: "pod" | "none";
  /** The pod's user namespace, which then owns every other one. */
  readonly user: { readonly uid: readonly OciIdMapping[]; readonly gid: readonly OciIdMapping[] } | null;
  /** The pod's own directory below the state directory, made by the core, 0700. */
  readonly runDir: string;
  /** Where the network namespace is pinned, or null with network "host". */
  readonly netnsPath: string | null;
  /** Size of the pod's /dev/shm tmpfs; ignored with ipc "host". */
  readonly shmBytes: number;
}

export interface RootfsLayers {
  /** Directories of unpacked layers on the host, topmost first, at least one. */
  readonly lowers: readonly string[];
  /** The writable layer; made by the core, 0711 owned by the container's root. */
  readonly upper: string;
  readonly work: string;
  /** SELinux label of everything in it; absent or empty: the files' own. */
  readonly mountLabel?: string;
}

export interface ImageLayers {
  /** Directories of unpacked layers on the host, topmost first, at least one. */
  readonly lowers: readonly string[];
  /** An empty directory beside them, made by the core where there is only one layer: the kernel makes no overlay of one. */
  readonly spare: string;
}

/** What an image holds, read-only, as a detached mount. Closing it unmounts it unless a container took it. */
export interface ImageTree extends AsyncDisposable {
  readonly fd: number;
}

/** A container's root as a detached mount, before any process has it. Closing it unmounts it unless a container took it. */
export interface Rootfs extends AsyncDisposable {
  readonly fd: number;
  /**
   * Reads a regular file of at most `maxBytes` through RESOLVE_IN_ROOT; undefined when it is missing. Anything else than a regular
   * file, or a larger one, is `invalid_argument` (CVE-2024-9676, CVE-2025-4437).
   */
  readFile(path: string, maxBytes: number): Promise<Buffer | undefined>;
  /** Whether the path exists in the root, and what it is. */
  kindOf(path: string): "file" | "directory" | "other" | undefined;
}

export type PidNamespace =
  | { readonly kind: "private" | "pod" | "host" }
  | { readonly kind: "target"; readonly containerId: string }
  | { readonly kind: "process"; readonly process: ProcessIdentity };

export interface Relabel {
  readonly path: string;
  readonly follow: boolean;
  readonly label: string;
}

export interface ContainerSpec {
  /** 64 lower-case hex characters. */
  readonly id: string;
  /** What the container is. `linux.namespaces` is filled in by the core, with the paths of what is joined. */
  readonly oci: OciSpec;
  readonly rootfs: RootfsLayers;
  readonly pidNamespace: PidNamespace;
  /** What it has instead of the pod's. */
  readonly namespaces?: OtherNamespaces;
  /** Ignored on cgroup v1, where the kernel has no useful one. */
  readonly cgroupNamespace: "private" | "host";
  /** Absolute host path of the CRI log, or null: output is discarded. */
  readonly logPath: string | null;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** Image-declared volumes: content of `path` in the root is copied into `hostPath` (made empty by the caller) before it is mounted. */
  readonly volumes: readonly { readonly path: string; readonly hostPath: string }[];
  /** Trees of the host that get this SELinux label first. follow: the path is a link to a descriptor. */
  readonly relabels?: readonly Relabel[];
  /** Instead of its program: from a checkpoint. It then waits, frozen, for start. */
  readonly restore?: ContainerRestore;
  /** Mounts of `oci` whose content is a tree that is already open; lent until `create` returns. */
  readonly trees?: readonly { readonly destination: string; readonly fd: number }[];
}

/** What `checkpoint` has saved; nothing in it is trusted. */
export interface ContainerRestore {
  readonly imagesDirectory: string;
  readonly options: Omit<RestoreOptions, "imagesDirectory">;
  /** Connections that have no place there are restored as closed. */
  readonly sockets: SocketPlace;
}

export interface ContainerExit {
  readonly containerId: string;
  /** Exit code, 128+signal when killed by a signal, 255 when it is not known. */
  readonly exitCode: number;
  readonly signal: number;
  /** False when the status was lost with the shim: reason `Unknown`. */
  readonly known: boolean;
  readonly oomKilled: boolean;
  readonly finishedAtNs: bigint;
  /** 0n when the container never started. */
  readonly startedAtNs: bigint;
  readonly logDroppedBytes: bigint;
}

/** What a shim says of one of its containers. */
export interface ContainerState {
  readonly id: string;
  readonly phase: "creating" | "parked" | "starting" | "running" | "exited";
  readonly process: ProcessIdentity;
  readonly startedAtNs: bigint;
  readonly exit: ContainerExit | undefined;
}

export interface ExecRequest {
  readonly args: readonly string[];
  /** 0: none. */
  readonly timeoutMs: number;
  /** Most bytes kept of both streams together; the rest is read and dropped. */
  readonly maxOutputBytes: number;
  /** How long output is still read after the process has ended while others hold the pipes. */
  readonly drainMs: number;
}

export interface ExecResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly exitCode: number;
  readonly timedOut: boolean;
}

export interface TerminalSize {
  /** 1 to 65535 each. */
  readonly rows: number;
  readonly columns: number;
}

export interface StreamedExecRequest {
  readonly args: readonly string[];
  readonly terminal: boolean;
  readonly size: TerminalSize | undefined;
  /** What the process gets; the rest is the null device. Of a terminal there is always stdout, and never stderr. */
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** How long output is still taken after the process has ended while others hold the pipes. */
  readonly drainMs: number;
}

/**
 * Streams wait for who reads them: a process whose output is not taken waits too. All have to be read or destroyed. The process ends by
 * itself or with the container; it outlives the daemon, if it can do without its streams.
 */
export interface StreamedExec {
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  /** The process's end; its output may follow. Rejects with `unavailable` when the shim is lost. */
  readonly ended: Promise<{ readonly known: boolean; readonly exitCode: number }>;
  resize(size: TerminalSize): Promise<void>;
}

export interface AttachRequest {
  readonly stdin: boolean;
  /** The container's: its stdin ends for good with the first client's. */
  readonly stdinOnce: boolean;
  readonly stderr: boolean;
}

/** Destroying the streams detaches. stdout and stderr end with the container; until then it waits for who reads them, for a while. */
export interface AttachedStreams {
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  readonly stderr: Readable | undefined;
  /** At the end of the streams: whether they were given up because nobody read them for too long. */
  cutOff(): boolean;
  resize(size: TerminalSize): Promise<void>;
}

/** Numbers of one cgroup at one moment; undefined: the kernel does not tell. Times in nanoseconds, sizes in bytes. */
export interface CgroupStats {
  readonly timestampNs: bigint;
  readonly cpuUsageNs: bigint | undefined;
  readonly memoryUsage: bigint | undefined;
  readonly memoryWorkingSet: bigint | undefined;
  readonly memoryLimit: bigint | undefined;
  readonly memoryRss: bigint | undefined;
  readonly memoryPageFaults: bigint | undefined;
  readonly memoryMajorPageFaults: bigint | undefined;
  readonly swapUsage: bigint | undefined;
  readonly swapLimit: bigint | undefined;
  /** Threads, as the pids controller counts them. */
  readonly processCount: bigint | undefined;
  readonly cpuPressure: Pressure | undefined;
  readonly memoryPressure: Pressure | undefined;
  readonly ioPressure: Pressure | undefined;
}

/** How much of the time something (`some`) or everything (`full`) waited for a resource. */
export interface Pressure {
  readonly some: PressureLine;
  readonly full: PressureLine | undefined;
}

export interface PressureLine {
  /** Percent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly totalNs: bigint;
}

/** A process that keeps something from being freed. */
export interface Holder extends ProcessIdentity {
  /** Its name for the kernel, at most 15 bytes. */
  readonly command: string;
  /** Letter of /proc/PID/stat; D: a thread of it is in an uninterruptible wait. */
  readonly state: string;
  /** The kernel's function that it waits in, or empty. */
  readonly waitsIn: string;
}

/** A mount that was let go of while somebody else used it. */
export interface Leftover {
  readonly path: string;
  readonly holders: readonly Holder[];
}

/** Limits that have been changed. */
export interface ResourceChange {
  /** Puts the former values back. */
  undo(): Promise<void>;
}

/** Everything that monitoring asks for, at the price of some more files. */
export interface CgroupMetrics extends CgroupStats {
  readonly cpuUserNs: bigint | undefined;
  readonly cpuSystemNs: bigint | undefined;
  readonly cpuPeriods: bigint | undefined;
  readonly cpuThrottledPeriods: bigint | undefined;
  readonly cpuThrottledNs: bigint | undefined;
  readonly memoryCache: bigint | undefined;
  readonly memoryMappedFile: bigint | undefined;
  readonly memoryKernel: bigint | undefined;
  readonly memoryPeak: bigint | undefined;
  readonly memoryActiveFile: bigint | undefined;
  readonly memoryInactiveFile: bigint | undefined;
  /** How often the limit was hit. */
  readonly memoryLimitHits: bigint | undefined;
  /** Of the cgroup itself, without those below it. */
  readonly memoryOwnPageFaults: bigint | undefined;
  readonly memoryOwnMajorPageFaults: bigint | undefined;
  readonly oomKills: bigint | undefined;
  /** undefined: no limit. */
  readonly processLimit: bigint | undefined;
  /** Processes of the cgroup itself, and what they have open together. */
  readonly processes: bigint;
  readonly descriptors: bigint;
  readonly sockets: bigint;
  /** RLIMIT_NOFILE of the first of them; undefined: no limit, or no process. */
  readonly softOpenFiles: bigint | undefined;
  readonly devices: readonly DeviceIo[];
  readonly hugepages: readonly HugepageUsage[];
}

export interface DeviceIo {
  /** As "/dev/sda", or "8:0" where it has no name. */
  readonly device: string;
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

/** A filesystem as a whole. */
export interface DiskFacts {
  readonly device: string;
  readonly bytes: bigint;
  readonly inodes: bigint;
  readonly inodesFree: bigint;
}

export interface HugepageUsage {
  /** As "2MB". */
  readonly pageSize: string;
  readonly usage: bigint;
  readonly peak: bigint | undefined;
}

/** Counters of one network interface since it was made. */
export interface InterfaceCounters {
  readonly name: string;
  readonly rxBytes: bigint;
  readonly rxPackets: bigint;
  readonly rxErrors: bigint;
  readonly rxDropped: bigint;
  readonly txBytes: bigint;
  readonly txPackets: bigint;
  readonly txErrors: bigint;
  readonly txDropped: bigint;
}

export interface Pod {
  readonly id: string;
  readonly shim: ProcessIdentity;
  /** Paths through which host tools reach the pod's namespaces; absent: the node's. */
  readonly namespacePaths: Readonly<Partial<Record<"network" | "ipc" | "uts" | "pid" | "user", string>>>;

  /** Sets sysctls (dotted or slashed keys, already checked by the caller) in the pod's namespaces. */
  applySysctls(sysctls: Readonly<Record<string, string>>, signal: AbortSignal): Promise<void>;
  openRootfs(layers: RootfsLayers, signal: AbortSignal): Promise<Rootfs>;
  /**
   * A file or directory of an image, or all of it with an empty path, for a mount. The path is resolved inside the image only.
   * `invalid_argument` when it is not there or is neither.
   */
  openImage(layers: ImageLayers, path: string, signal: AbortSignal): Promise<ImageTree>;
  /** Cgroup, plan, fork; on return init is parked. The final OCI spec (with namespaces) comes back for the bundle and for verbose info. */
  create(
    spec: ContainerSpec,
    rootfs: Rootfs,
    signal: AbortSignal,
  ): Promise<{ readonly process: ProcessIdentity; readonly oci: OciSpec }>;
  /** Releases a parked init; returns at its execve. A failing execve is `failed_precondition`-free: code `invalid_argument` with the reason, and init is gone. */
  start(containerId: string, signal: AbortSignal): Promise<{ readonly startedAtNs: bigint }>;
  execSync(containerId: string, oci: OciSpec, request: ExecRequest, signal: AbortSignal): Promise<ExecResult>;
  /** Resolves when the command has been executed. */
  exec(containerId: string, oci: OciSpec, request: StreamedExecRequest, signal: AbortSignal): Promise<StreamedExec>;
  attach(containerId: string, request: AttachRequest, signal: AbortSignal): Promise<AttachedStreams>;
  /** A connection to a port of the pod's loopback device, IPv4 before IPv6; half-open ends are possible. */
  connect(port: number, signal: AbortSignal): Promise<Duplex>;
  /** Saves a running container. With `held` it is frozen already by whileFrozen. When it fails the container goes on as before. */
  checkpoint(
    containerId: string,
    oci: OciSpec,
    options: CheckpointOptions & { readonly held?: boolean },
    signal: AbortSignal,
  ): Promise<void>;
  /** All of these cgroups stand still while `work` runs, at one moment, at most `deadlineMs`: whoever is killed, they are thawed. */
  whileFrozen<T>(cgroupsPaths: readonly string[], deadlineMs: number, work: () => Promise<T>): Promise<T>;
  /** Nothing arrives on connections between what is saved in these directories while `work` restores it. */
  whileConnectionsHeld<T>(directories: readonly string[], deadlineMs: number, work: () => Promise<T>): Promise<T>;
  /** To init alone, or to everything in the container's cgroup. A container that is gone: no error. */
  signal(containerId: string, signal: number, scope: "init" | "all"): Promise<void>;
  reopenLog(containerId: string, signal: AbortSignal): Promise<void>;
  /** Kills a parked init, drops the exited container from the shim, removes its cgroup. Idempotent. */
  remove(containerId: string, cgroupsPath: string, signal: AbortSignal): Promise<void>;
  /** Interfaces of the pod's own network namespace without the loopback; undefined: it is in the node's. One read. */
  networkCounters(): Promise<readonly InterfaceCounters[] | undefined>;
  /** What the shim holds now. */
  list(): Promise<readonly ContainerState[]>;
  acknowledgeExit(containerId: string): Promise<void>;
  /** Called once per exit, also for exits that happened while nobody was connected. Set before anything else after a reconnect. */
  onExit(listener: (exit: ContainerExit) => void): void;
  /** Called once when the shim died without having been asked to. */
  onShimLost(listener: () => void): void;
  /** Kills everything, ends the shim, unpins namespaces, unmounts /dev/shm, removes runDir; tells what others still use. Idempotent. */
  destroy(signal: AbortSignal): Promise<readonly Leftover[]>;
  /** Lets go of the connection; the shim and its containers go on. */
  disconnect(): void;
}

export interface Runtime {
  readonly cgroupVersion: "v1" | "v2" | "hybrid";
  startPod(spec: PodSpec, signal: AbortSignal): Promise<Pod>;
  /** Reconnects to the shim of a pod; undefined: it is gone, and `destroyRemains` is due. */
  reconnectPod(spec: PodSpec, signal: AbortSignal): Promise<Pod | undefined>;
  /** After a dead shim, ahead of CNI DEL, which still needs the pinned namespace: kills the processes of these cgroups and below, and
   *  waits until none is left. Removes nothing. Missing cgroups are success. */
  killRemains(cgroupsPaths: readonly string[], signal: AbortSignal): Promise<void>;
  /** Removes a cgroup of ours with no process in it, in every hierarchy; a missing one is success. */
  removeCgroup(cgroupsPath: string, signal: AbortSignal): Promise<void>;
  /** Whether a cgroup exists in any hierarchy. */
  cgroupExists(cgroupsPath: string): boolean;
  /** Names of the cgroups right below one, in all hierarchies; empty when it is missing. */
  cgroupsIn(cgroupsPath: string): Promise<readonly string[]>;
  /** Removes a cgroup where neither a process nor another cgroup is in it; else it stays. */
  removeEmptyCgroup(cgroupsPath: string): Promise<void>;
  /** After a dead shim: kills the processes of these cgroups, removes them, unpins, unmounts, removes runDir. Idempotent. */
  destroyRemains(spec: PodSpec, cgroupsPaths: readonly string[], signal: AbortSignal): Promise<readonly Leftover[]>;
  /** Processes in a cgroup and below it, some of very many; empty when it is missing. */
  holdersIn(cgroupsPath: string): Promise<readonly Holder[]>;
  /** Resolves when all of them have ended. */
  untilAllEnded(processes: readonly ProcessIdentity[]): Promise<void>;
  /** The exit record that a shim left on disk before it died, if any. */
  exitRecordOf(spec: PodSpec, containerId: string): Promise<ContainerExit | undefined>;
  /** Reads each file once; undefined: there is no such cgroup. */
  stats(cgroupsPath: string): Promise<CgroupStats | undefined>;
  metrics(cgroupsPath: string): Promise<CgroupMetrics | undefined>;
  /** Whether a directory of a writable layer hides what the layers below have at its place. */
  isOpaqueDirectory(path: string): boolean;
  /** The filesystem that holds this path. */
  diskOf(path: string): Promise<DiskFacts>;
  /** All or nothing; current values are put back when one is refused. A memory limit below what cannot be freed is
   *  `failed_precondition`, and nothing is killed for it. */
  updateResources(cgroupsPath: string, resources: OciResources): Promise<ResourceChange>;
  /** Sentences about what the machine lacks (capabilities, limits, controllers), for the log, Status and doctor. */
  readonly limitations: readonly string[];
}
