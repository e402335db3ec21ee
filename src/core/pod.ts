/** A pod on this host, through its shim. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path/posix";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { attachToContainer, type ContainerInputs } from "./container-attach.ts";
import { cgroupsPathOf, createContainer, removeAttachPoint } from "./container-create.ts";
import { execInContainer, streamInContainer } from "./container-exec.ts";
import { stateOf } from "./container-exit.ts";
import { checkpointContainer } from "./container-restore.ts";
import type { CheckpointOptions } from "./criu/checkpoint-options.ts";
import { whileConnectionsHeld, whileFrozen } from "./criu/hold.ts";
import { planIpcObjects, refuseIpcObjects } from "./criu/ipc-objects.ts";
import { livePorts } from "./criu/live-connections.ts";
import { savedPorts } from "./criu/saved-sockets.ts";
import { HostRootfs } from "./host-rootfs.ts";
import { openImageTree } from "./image-tree.ts";
import { planAttach, planNetworkCounters, planReaper, planSysctls, type RunStep } from "./namespace/pod-namespaces.ts";
import { sysctlPath } from "./namespace/sysctl-path.ts";
import { namespacePaths } from "./namespace-paths.ts";
import { NetworkCounters } from "./network-counters.ts";
import type { OciSpec } from "./oci.ts";
import { podPin } from "./plan-schema.ts";
import { planConnect, socketOf } from "./pod-connect.ts";
import { removePodRemains } from "./pod-remains.ts";
import type { PodTools } from "./pod-tools.ts";
import { podProcPath, procTakesPidns } from "./proc-source.ts";
import { sweepResctrl } from "./resctrl.ts";
import { planOverlay } from "./rootfs/overlay-plan.ts";
import { prepareWritableLayer } from "./rootfs/writable-layer.ts";
import type {
  AttachedStreams,
  AttachRequest,
  ContainerExit,
  ContainerSpec,
  ContainerState,
  ExecRequest,
  ExecResult,
  ImageLayers,
  ImageTree,
  InterfaceCounters,
  Leftover,
  Pod,
  PodSpec,
  ProcessIdentity,
  Rootfs,
  RootfsLayers,
  StreamedExec,
  StreamedExecRequest,
} from "./runtime.ts";
import type { ShimLink } from "./shim-link.ts";

/** Bounds plans of the pod itself, which take milliseconds. */
const runDeadlineMs = 30_000;
const longestPauseMs = 100;
const killSignal = 9;

export class HostPod implements Pod {
  readonly id: string;
  readonly shim: ProcessIdentity;
  readonly #spec: PodSpec;
  readonly #tools: PodTools;
  readonly #link: ShimLink;
  readonly #inits = new Map<string, ProcessIdentity>();
  readonly #cgroups = new Map<string, string>();
  readonly #inputs: ContainerInputs = new Map();
  readonly #network: NetworkCounters | undefined;
  #paths: Pod["namespacePaths"] | undefined;

  constructor(spec: PodSpec, tools: PodTools, link: ShimLink) {
    this.id = spec.id;
    this.shim = link.identity;
    this.#spec = spec;
    this.#tools = tools;
    this.#link = link;
    this.#network = spec.network === "host" ? undefined : new NetworkCounters(() => this.#openCounters());
  }

  get namespacePaths(): Pod["namespacePaths"] {
    this.#paths ??= namespacePaths(this.#spec, this.shim);
    return this.#paths;
  }

  /** Runs a step of the pod's own set-up; descriptors that it sends back are the caller's. */
  async run(step: RunStep, what: string, signal: AbortSignal, fds: readonly number[] = []): Promise<readonly number[]> {
    const request = { ...step, fds, deadlineMs: runDeadlineMs, what: `${what} of pod ${this.id}`, signal };
    return (await (await this.#link.shim()).run(request)).fds;
  }

  /** Starts process 1 of the pod's PID namespace. */
  async startReaper(signal: AbortSignal): Promise<void> {
    const fds = await this.run(
      planReaper(this.#spec, !procTakesPidns(this.#tools, await this.#link.shim())),
      "PID namespace",
      signal,
    );
    const path = podProcPath(this.#spec.runDir);
    try {
      if (fds.length === 0) return;
      await mkdir(path, { mode: 0o700 });
      await this.run(planAttach(path), "procfs", signal, fds);
    } finally {
      for (const fd of fds) addon.close(fd);
    }
  }

  async applySysctls(sysctls: Readonly<Record<string, string>>, signal: AbortSignal): Promise<void> {
    const entries = Object.entries(sysctls).map(([key, value]): [string, string] => [sysctlPath(key), value]);
    if (entries.length > 0) await this.run(planSysctls(this.#spec, new Map(entries)), "sysctls", signal);
  }

  async openRootfs(layers: RootfsLayers, signal: AbortSignal): Promise<Rootfs> {
    await prepareWritableLayer(layers, this.#spec.user);
    const userns = this.#spec.user === null ? undefined : podPin.user;
    const step = { cloneKinds: 0, plan: planOverlay({ ...layers, userns }) };
    const [fd] = await this.run(step, "root filesystem", signal).catch((error: unknown) => {
      throw userns === undefined ? error : explainIdmap(error);
    });
    if (fd === undefined) throw new RuntimeError("internal", `the shim of pod ${this.id} sent no root filesystem`);
    return new HostRootfs(fd);
  }

  async openImage(layers: ImageLayers, path: string, signal: AbortSignal): Promise<ImageTree> {
    const userns = this.#spec.user === null ? undefined : podPin.user;
    const attachPath = join(this.#tools.stateDir, "containers");
    return await openImageTree(layers, { userns, path, attachPath }, (step) =>
      this.run(step, "image mount", signal).catch((error: unknown) => {
        throw userns === undefined ? error : explainIdmap(error);
      }),
    );
  }

  async create(
    spec: ContainerSpec,
    rootfs: Rootfs,
    signal: AbortSignal,
  ): Promise<{ readonly process: ProcessIdentity; readonly oci: OciSpec }> {
    const { pidNamespace } = spec;
    const target =
      pidNamespace.kind === "target"
        ? await this.#initOf(pidNamespace.containerId)
        : pidNamespace.kind === "process"
          ? pidNamespace.process
          : undefined;
    const input = { tools: this.#tools, shim: await this.#link.shim(), pod: this.#spec, spec, rootfs, target, signal };
    const created = await createContainer(input);
    this.#inits.set(spec.id, created.process);
    this.#cgroups.set(spec.id, cgroupsPathOf(spec.oci));
    return created;
  }

  async start(containerId: string, signal: AbortSignal): Promise<{ readonly startedAtNs: bigint }> {
    return await (await this.#link.shim()).start(containerId, signal);
  }

  async execSync(containerId: string, oci: OciSpec, request: ExecRequest, signal: AbortSignal): Promise<ExecResult> {
    const init = await this.#initOf(containerId);
    const input = { tools: this.#tools, shim: await this.#link.shim(), pod: this.#spec, containerId, oci, init, request, signal };
    return await execInContainer(input);
  }

  async exec(containerId: string, oci: OciSpec, request: StreamedExecRequest, signal: AbortSignal): Promise<StreamedExec> {
    const init = await this.#initOf(containerId);
    const input = { tools: this.#tools, shim: await this.#link.shim(), pod: this.#spec, containerId, oci, init, request, signal };
    return await streamInContainer(input);
  }

  async attach(containerId: string, request: AttachRequest, signal: AbortSignal): Promise<AttachedStreams> {
    return await attachToContainer(await this.#link.shim(), this.#inputs, containerId, request, signal);
  }

  async connect(port: number, signal: AbortSignal): Promise<Duplex> {
    return socketOf(this.id, await this.run(planConnect(this.#spec, port), `port ${port}`, signal));
  }

  async checkpoint(
    containerId: string,
    oci: OciSpec,
    options: CheckpointOptions & { readonly held?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const init = await this.#initOf(containerId);
    const shim = await this.#link.shim();
    await checkpointContainer({ tools: this.#tools, shim, pod: this.#spec, containerId, oci, init, options, signal });
  }

  async whileFrozen<T>(cgroupsPaths: readonly string[], deadlineMs: number, work: () => Promise<T>): Promise<T> {
    const directories = cgroupsPaths.map((path) => this.#tools.cgroups.freezer(path));
    const shim = await this.#link.shim();
    const init = (await this.list()).find(({ phase }) => phase === "running");
    await this.#refuseIpcObjects();
    return await whileFrozen(shim, directories, deadlineMs, async () => {
      // One may have been made in between.
      await this.#refuseIpcObjects();
      // The node's own network is not ours to hold.
      const ports = this.#spec.network === "host" || init === undefined ? Buffer.alloc(0) : livePorts(init.process.pid);
      return await whileConnectionsHeld(shim, ports, deadlineMs, work);
    });
  }

  /** Those of the node stay where they are. */
  async #refuseIpcObjects(): Promise<void> {
    if (this.#spec.ipc === "host") return;
    refuseIpcObjects(this.id, await this.run(planIpcObjects(), "IPC objects", AbortSignal.timeout(runDeadlineMs)));
  }

  async whileConnectionsHeld<T>(directories: readonly string[], deadlineMs: number, work: () => Promise<T>): Promise<T> {
    if (this.#spec.network === "host") return await work();
    return await whileConnectionsHeld(await this.#link.shim(), savedPorts(directories), deadlineMs, work);
  }

  async signal(containerId: string, signal: number, scope: "init" | "all"): Promise<void> {
    await unlessMissing((await this.#link.shim()).signal(containerId, signal, scope));
  }

  async reopenLog(containerId: string, signal: AbortSignal): Promise<void> {
    await (await this.#link.shim()).reopenLog(containerId, signal);
  }

  async remove(containerId: string, cgroupsPath: string, signal: AbortSignal): Promise<void> {
    await this.#forget(containerId, signal);
    this.#inits.delete(containerId);
    await this.#tools.cgroups.clear(cgroupsPath, signal);
    sweepResctrl(containerId);
    this.#cgroups.delete(containerId);
    await removeAttachPoint(this.#tools.stateDir, containerId);
    this.#inputs.get(containerId)?.[Symbol.dispose]();
    this.#inputs.delete(containerId);
  }

  async networkCounters(): Promise<readonly InterfaceCounters[] | undefined> {
    return await this.#network?.read();
  }

  async list(): Promise<readonly ContainerState[]> {
    return (await (await this.#link.shim()).list()).map(stateOf);
  }

  async acknowledgeExit(containerId: string): Promise<void> {
    await unlessMissing((await this.#link.shim()).ackExit(containerId));
  }

  onExit(listener: (exit: ContainerExit) => void): void {
    this.#link.onExit(listener);
  }

  onShimLost(listener: () => void): void {
    this.#link.onLost(() => {
      this.#network?.close();
      listener();
    });
  }

  async destroy(signal: AbortSignal): Promise<readonly Leftover[]> {
    this.#network?.close();
    await this.#link.end(signal);
    this.#closeInputs();
    for (const [id, cgroupsPath] of this.#cgroups) {
      await this.#tools.cgroups.clear(cgroupsPath, signal);
      sweepResctrl(id);
      await removeAttachPoint(this.#tools.stateDir, id);
    }
    return await removePodRemains(this.#spec);
  }

  disconnect(): void {
    this.#network?.close();
    this.#closeInputs();
    this.#link.disconnect();
  }

  #closeInputs(): void {
    for (const input of this.#inputs.values()) input[Symbol.dispose]();
    this.#inputs.clear();
  }

  async #openCounters(): Promise<number> {
    const [fd] = await this.run(planNetworkCounters(), "network counters", AbortSignal.timeout(runDeadlineMs));
    if (fd === undefined) throw new RuntimeError("internal", `the shim of pod ${this.id} sent no network counters`);
    return fd;
  }

  /** Whatever its state: one that still runs is killed first. */
  async #forget(containerId: string, signal: AbortSignal): Promise<void> {
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
      try {
        return await (await this.#link.shim()).forget(containerId, signal);
      } catch (error) {
        if (codeOf(error) === "not_found") return;
        if (codeOf(error) !== "failed_precondition") throw error;
        await this.signal(containerId, killSignal, "all");
        await sleep(pauseMs, undefined, { signal });
      }
    }
  }

  async #initOf(containerId: string): Promise<ProcessIdentity> {
    const known = this.#inits.get(containerId);
    if (known !== undefined) return known;
    for (const { id, process } of await this.list()) this.#inits.set(id, process);
    const found = this.#inits.get(containerId);
    if (found === undefined) throw new RuntimeError("not_found", `container ${containerId} is not in pod ${this.id}`);
    return found;
  }
}

/** The kernel says only EINVAL when a file system cannot be id-mapped at all. */
function explainIdmap(error: unknown): unknown {
  const { errnoName, detail } = error instanceof RuntimeError ? error.fields : {};
  if (errnoName !== "EINVAL" || !String(detail).startsWith("id map of ")) return error;
  const reason = "its file system cannot be id-mapped on this kernel, which pods with a user namespace need";
  return new RuntimeError("failed_precondition", `layer ${String(detail).slice("id map of ".length)}: ${reason}`, {}, error);
}

async function unlessMissing(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (codeOf(error) !== "not_found") throw error;
  }
}
