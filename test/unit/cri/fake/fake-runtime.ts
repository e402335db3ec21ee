import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import type { Duplex } from "node:stream";
import type { OciResources, OciSpec } from "../../../../src/core/oci.ts";
import type {
  AttachedStreams,
  AttachRequest,
  CgroupMetrics,
  CgroupStats,
  ContainerExit,
  ContainerSpec,
  ContainerState,
  DiskFacts,
  ExecRequest,
  ExecResult,
  Holder,
  ImageTree,
  InterfaceCounters,
  Leftover,
  Pod,
  PodSpec,
  ResourceChange,
  Rootfs,
  Runtime,
  StreamedExec,
  StreamedExecRequest,
} from "../../../../src/core/runtime.ts";
import { RuntimeError } from "../../../../src/lib/errors.ts";

interface FakeContainer {
  readonly id: string;
  phase: ContainerState["phase"];
  startedAtNs: bigint;
  exit: ContainerExit | undefined;
  acknowledged: boolean;
  signals: number[];
}

/** A helper process: it outlives the daemons (FakePod) that connect to it. */
export class FakeShim {
  readonly spec: PodSpec;
  readonly containers = new Map<string, FakeContainer>();
  readonly startTicks: bigint;
  alive = true;
  client: FakePod | undefined;

  constructor(spec: PodSpec, startTicks: bigint) {
    this.spec = spec;
    this.startTicks = startTicks;
  }

  exit(containerId: string, facts: Partial<ContainerExit> = {}): void {
    const container = this.containers.get(containerId);
    if (container === undefined || container.phase === "exited") return;
    container.phase = "exited";
    container.exit = {
      containerId,
      exitCode: 0,
      signal: 0,
      known: true,
      oomKilled: false,
      finishedAtNs: 5_000n,
      startedAtNs: container.startedAtNs,
      logDroppedBytes: 0n,
      ...facts,
    };
    this.client?.exitListener?.(container.exit);
  }

  /** kill -9 of the helper. */
  die(): void {
    this.alive = false;
    this.client?.lostListener?.();
  }
}

export class FakePod implements Pod {
  readonly #shim: FakeShim;
  readonly #world: FakeRuntime;
  exitListener: ((exit: ContainerExit) => void) | undefined;
  lostListener: (() => void) | undefined;

  constructor(shim: FakeShim, world: FakeRuntime) {
    this.#shim = shim;
    this.#world = world;
    shim.client = this;
  }

  get id(): string {
    return this.#shim.spec.id;
  }
  get shim() {
    return { pid: 100, startTicks: this.#shim.startTicks };
  }
  get namespacePaths() {
    const { netnsPath } = this.#shim.spec;
    return netnsPath === null ? {} : { network: netnsPath };
  }

  readonly checkpoints: string[] = [];
  async checkpoint(containerId: string): Promise<void> {
    this.checkpoints.push(containerId);
  }
  async whileConnectionsHeld<T>(_directories: readonly string[], _deadlineMs: number, work: () => Promise<T>): Promise<T> {
    return await work();
  }

  async whileFrozen<T>(_paths: readonly string[], _deadlineMs: number, work: () => Promise<T>): Promise<T> {
    return await work();
  }
  async applySysctls(sysctls: Readonly<Record<string, string>>): Promise<void> {
    await this.#world.called("applySysctls");
    this.#world.sysctls.push(sysctls);
  }

  async openRootfs(): Promise<Rootfs> {
    await this.#world.called("openRootfs");
    this.#world.openRoots++;
    return {
      fd: 3,
      readFile: async () => undefined,
      kindOf: () => undefined,
      [Symbol.asyncDispose]: async () => {
        this.#world.openRoots--;
      },
    };
  }

  async openImage(_layers: unknown, path: string): Promise<ImageTree> {
    await this.#world.called("openImage");
    if (path === "missing") throw new RuntimeError("invalid_argument", '"missing" does not exist in the image');
    this.#world.openRoots++;
    return {
      fd: 4,
      [Symbol.asyncDispose]: async () => {
        this.#world.openRoots--;
      },
    };
  }

  async create(spec: ContainerSpec) {
    await this.#world.called("create");
    this.#need();
    const path = spec.oci.linux.cgroupsPath ?? "";
    this.#world.cgroups.add(path).add(dirname(path));
    const container: FakeContainer = {
      id: spec.id,
      phase: "parked",
      startedAtNs: 0n,
      exit: undefined,
      acknowledged: false,
      signals: [],
    };
    this.#shim.containers.set(spec.id, container);
    await this.#world.called("created");
    return { process: { pid: 1000 + this.#shim.containers.size, startTicks: 7n }, oci: spec.oci };
  }

  async start(id: string) {
    await this.#world.called("start");
    this.#need();
    const container = this.#container(id);
    container.phase = "running";
    container.startedAtNs = 4_000n;
    return { startedAtNs: 4_000n };
  }

  async execSync(_id: string, _oci: OciSpec, request: ExecRequest): Promise<ExecResult> {
    await this.#world.called("execSync");
    this.#world.execs.push(request);
    return this.#world.execResult;
  }

  async exec(id: string, _oci: OciSpec, request: StreamedExecRequest): Promise<StreamedExec> {
    await this.#world.called("exec");
    this.#container(id);
    return this.#world.streamedExec(request);
  }

  async attach(id: string, request: AttachRequest): Promise<AttachedStreams> {
    await this.#world.called("attach");
    this.#container(id);
    return this.#world.attached(request);
  }

  async connect(port: number): Promise<Duplex> {
    await this.#world.called("connect");
    return this.#world.connected(port);
  }

  async signal(id: string, signal: number, scope: "init" | "all"): Promise<void> {
    await this.#world.called("signal");
    this.#need();
    const container = this.#shim.containers.get(id);
    if (container === undefined) return;
    container.signals.push(signal);
    this.#world.signals.push({ id, signal, scope });
    if (signal === 9 ? this.#world.dieOnKill : this.#world.dieOnSignal) {
      this.#shim.exit(id, { exitCode: 128 + signal, signal, startedAtNs: container.startedAtNs });
    }
  }

  async reopenLog(id: string): Promise<void> {
    await this.#world.called("reopenLog");
    this.#container(id);
  }

  async remove(id: string, cgroupsPath: string): Promise<void> {
    await this.#world.called("remove");
    this.#need();
    this.#shim.containers.delete(id);
    this.#world.cgroups.delete(cgroupsPath);
  }

  async networkCounters(): Promise<readonly InterfaceCounters[] | undefined> {
    await this.#world.called("networkCounters");
    return this.#shim.spec.network === "host" ? undefined : this.#world.interfaces;
  }

  async list(): Promise<readonly ContainerState[]> {
    await this.#world.called("list");
    return [...this.#shim.containers.values()].map((c) => ({
      id: c.id,
      phase: c.phase,
      process: { pid: 1000, startTicks: 7n },
      startedAtNs: c.startedAtNs,
      exit: c.exit,
    }));
  }

  async acknowledgeExit(id: string): Promise<void> {
    const container = this.#shim.containers.get(id);
    if (container !== undefined) container.acknowledged = true;
  }

  onExit(listener: (exit: ContainerExit) => void): void {
    this.exitListener = listener;
    for (const container of this.#shim.containers.values()) {
      if (container.exit !== undefined && !container.acknowledged) listener(container.exit);
    }
  }

  onShimLost(listener: () => void): void {
    this.lostListener = listener;
  }

  async destroy(): Promise<readonly Leftover[]> {
    await this.#world.called("destroy");
    for (const id of this.#shim.containers.keys()) this.#shim.exit(id, { exitCode: 137, signal: 9 });
    this.#shim.alive = false;
    this.#world.wipe(this.#shim.spec);
    return this.#world.leftovers;
  }

  disconnect(): void {
    if (this.#shim.client === this) this.#shim.client = undefined;
  }

  #need(): void {
    if (!this.#shim.alive) throw new RuntimeError("unavailable", "the helper is gone");
  }

  #container(id: string): FakeContainer {
    const container = this.#shim.containers.get(id);
    if (container === undefined) throw new RuntimeError("not_found", `the helper has no container ${id}`);
    return container;
  }
}

/** The machine below the daemon. It survives "restarts" of the daemon; `reboot` ends everything on it. */
export class FakeRuntime implements Runtime {
  readonly cgroupVersion = "hybrid" as const;
  readonly limitations: string[] = [];
  /** Mounts that are in use when a pod goes. */
  leftovers: readonly Leftover[] = [];
  /** Processes of every cgroup, for who asks. */
  holders: readonly Holder[] = [];
  holdersEnd = Promise.withResolvers<void>();
  readonly shims = new Map<string, FakeShim>();
  readonly cgroups = new Set<string>();
  readonly signals: { id: string; signal: number; scope: string }[] = [];
  readonly sysctls: Readonly<Record<string, string>>[] = [];
  readonly execs: ExecRequest[] = [];
  readonly calls: string[] = [];
  readonly killed: string[] = [];
  readonly exitRecords = new Map<string, ContainerExit>();
  execResult: ExecResult = { stdout: Buffer.from("out"), stderr: Buffer.from("err"), exitCode: 0, timedOut: false };
  streamedExec: (request: StreamedExecRequest) => StreamedExec = () => {
    throw new RuntimeError("internal", "the test does not stream");
  };
  attached: (request: AttachRequest) => AttachedStreams = () => {
    throw new RuntimeError("internal", "the test does not attach");
  };
  connected: (port: number) => Duplex = () => {
    throw new RuntimeError("internal", "the test does not connect");
  };
  readonly limits = new Map<string, OciResources>();
  metricsOf: (path: string) => CgroupMetrics | undefined = () => undefined;
  interfaces: readonly InterfaceCounters[] = [];
  statsOf: (path: string) => CgroupStats | undefined = () => undefined;
  dieOnSignal = true;
  dieOnKill = true;
  unreachable = false;
  openRoots = 0;
  #failures = new Map<string, unknown>();
  #gates = new Map<string, Promise<void>>();
  #ticks = 0n;

  /** The next calls of that name fail until `heal`. */
  fail(call: string, error: unknown = new RuntimeError("internal", `${call} failed as the test wants`)): void {
    this.#failures.set(call, error);
  }

  heal(call: string): void {
    this.#failures.delete(call);
  }

  /** Calls of that name wait until the returned function is called. */
  hold(call: string): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#gates.set(call, promise);
    return () => {
      this.#gates.delete(call);
      resolve();
    };
  }

  async called(call: string): Promise<void> {
    this.calls.push(call);
    await this.#gates.get(call);
    if (this.#failures.has(call)) throw this.#failures.get(call);
  }

  async startPod(spec: PodSpec): Promise<Pod> {
    await this.called("startPod");
    mkdirSync(spec.runDir, { recursive: true, mode: 0o700 });
    if (spec.netnsPath !== null) {
      mkdirSync(dirname(spec.netnsPath), { recursive: true });
      writeFileSync(spec.netnsPath, "");
    }
    this.#ticks += 1n;
    const shim = new FakeShim(spec, this.#ticks);
    this.shims.set(spec.id, shim);
    return new FakePod(shim, this);
  }

  async reconnectPod(spec: PodSpec): Promise<Pod | undefined> {
    await this.called("reconnectPod");
    if (this.unreachable) throw new RuntimeError("unavailable", "no answer");
    const shim = this.shims.get(spec.id);
    return shim?.alive === true ? new FakePod(shim, this) : undefined;
  }

  async killRemains(cgroupsPaths: readonly string[]): Promise<void> {
    await this.called("killRemains");
    this.killed.push(...cgroupsPaths);
  }

  async removeCgroup(cgroupsPath: string): Promise<void> {
    this.cgroups.delete(cgroupsPath);
  }

  async cgroupsIn(parent: string): Promise<readonly string[]> {
    return [...this.cgroups].filter((path) => dirname(path) === parent).map((path) => basename(path));
  }

  cgroupExists(cgroupsPath: string): boolean {
    return this.cgroups.has(cgroupsPath);
  }

  async removeEmptyCgroup(cgroupsPath: string): Promise<void> {
    if ([...this.cgroups].every((path) => dirname(path) !== cgroupsPath)) this.cgroups.delete(cgroupsPath);
  }

  async destroyRemains(spec: PodSpec, cgroupsPaths: readonly string[]): Promise<readonly Leftover[]> {
    await this.called("destroyRemains");
    for (const path of cgroupsPaths) this.cgroups.delete(path);
    this.wipe(spec);
    return this.leftovers;
  }

  async holdersIn(): Promise<readonly Holder[]> {
    return this.holders;
  }

  async untilAllEnded(): Promise<void> {
    await this.holdersEnd.promise;
  }

  async exitRecordOf(_spec: PodSpec, containerId: string): Promise<ContainerExit | undefined> {
    return this.exitRecords.get(containerId);
  }

  async metrics(cgroupsPath: string): Promise<CgroupMetrics | undefined> {
    await this.called("metrics");
    return this.metricsOf(cgroupsPath);
  }

  isOpaqueDirectory(): boolean {
    return false;
  }

  async diskOf(): Promise<DiskFacts> {
    return { device: "/dev/sda1", bytes: 1000n, inodes: 100n, inodesFree: 40n };
  }

  async stats(cgroupsPath: string): Promise<CgroupStats | undefined> {
    await this.called("stats");
    return this.statsOf(cgroupsPath);
  }

  async updateResources(path: string, resources: OciResources): Promise<ResourceChange> {
    await this.called("updateResources");
    const before = this.limits.get(path);
    this.limits.set(path, resources);
    return {
      undo: async () => {
        if (before === undefined) this.limits.delete(path);
        else this.limits.set(path, before);
      },
    };
  }

  wipe(spec: PodSpec): void {
    this.shims.delete(spec.id);
    rmSync(spec.runDir, { recursive: true, force: true });
    if (spec.netnsPath !== null && existsSync(spec.netnsPath)) rmSync(spec.netnsPath);
  }

  reboot(): void {
    this.shims.clear();
    this.cgroups.clear();
  }
}
