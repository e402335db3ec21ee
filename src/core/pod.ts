/** A pod on this host, through its shim. */
import { readdirSync, readlinkSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { cgroupsPathOf, createContainer, removeAttachPoint } from "./container-create.ts";
import { execInContainer } from "./container-exec.ts";
import { exitOf, stateOf } from "./container-exit.ts";
import { HostRootfs } from "./host-rootfs.ts";
import { planAttach, planReaper, planSysctls, type RunStep } from "./namespace/pod-namespaces.ts";
import type { OciSpec } from "./oci.ts";
import { podPin } from "./plan-schema.ts";
import { removePodRemains } from "./pod-remains.ts";
import type { PodTools } from "./pod-tools.ts";
import { podProcPath, procTakesPidns } from "./proc-source.ts";
import { planOverlay } from "./rootfs/overlay-plan.ts";
import { prepareWritableLayer } from "./rootfs/writable-layer.ts";
import type {
  ContainerExit,
  ContainerSpec,
  ContainerState,
  ExecRequest,
  ExecResult,
  Pod,
  PodSpec,
  ProcessIdentity,
  Rootfs,
  RootfsLayers,
} from "./runtime.ts";
import type { ShimListeners } from "./shim/events.ts";
import type { ProcessHandle } from "./shim/process-handle.ts";
import type { Shim } from "./shim/shim.ts";

/** Bounds plans of the pod itself, which take milliseconds. */
const runDeadlineMs = 30_000;
const reconnectPauseMs = 50;
const reconnectPatienceMs = 2_000;
const longestPauseMs = 100;
const killSignal = 9;

export type Connect = (listeners: ShimListeners, signal?: AbortSignal) => Promise<Shim>;

export class HostPod implements Pod {
  readonly id: string;
  readonly shim: ProcessIdentity;
  readonly #spec: PodSpec;
  readonly #tools: PodTools;
  readonly #process: ProcessHandle;
  readonly #connect: Connect;
  readonly #inits = new Map<string, ProcessIdentity>();
  readonly #cgroups = new Map<string, string>();
  /** Exits that came before somebody listened. */
  #early: ContainerExit[] = [];
  #exitListener: ((exit: ContainerExit) => void) | undefined;
  #lostListener: (() => void) | undefined;
  #client: Shim | undefined;
  #reconnecting: Promise<void> = Promise.resolve();
  #ending = false;
  #lost = false;
  #paths: Pod["namespacePaths"] | undefined;

  private constructor(spec: PodSpec, tools: PodTools, process: ProcessHandle, connect: Connect) {
    this.id = spec.id;
    this.#spec = spec;
    this.#tools = tools;
    this.#process = process;
    this.#connect = connect;
    this.shim = process.identity;
    process.ended.then(
      () => this.#shimEnded(),
      () => this.#shimEnded(),
    );
  }

  /** Connects to a shim that runs. */
  static async open(
    spec: PodSpec,
    tools: PodTools,
    process: ProcessHandle,
    connect: Connect,
    signal: AbortSignal,
  ): Promise<HostPod> {
    const pod = new HostPod(spec, tools, process, connect);
    pod.#client = await connect(pod.#listeners(), signal);
    return pod;
  }

  /** Takes the connection that starting the shim has made; `listeners` were given to it. */
  static started(spec: PodSpec, tools: PodTools, connect: Connect, start: StartShim): Promise<HostPod> {
    return startedPod(start, (process, shim, relay) => {
      const pod = new HostPod(spec, tools, process, connect);
      pod.#client = shim;
      relay.target = pod.#listeners();
      return pod;
    });
  }

  get namespacePaths(): Pod["namespacePaths"] {
    this.#paths ??= this.#findNamespacePaths();
    return this.#paths;
  }

  /** Runs a step of the pod's own set-up; descriptors that it sends back are the caller's. */
  async run(step: RunStep, what: string, signal: AbortSignal, fds: readonly number[] = []): Promise<readonly number[]> {
    const request = { ...step, fds, deadlineMs: runDeadlineMs, what: `${what} of pod ${this.id}`, signal };
    return (await (await this.#shim()).run(request)).fds;
  }

  /** Starts process 1 of the pod's PID namespace. */
  async startReaper(signal: AbortSignal): Promise<void> {
    const fds = await this.run(planReaper(this.#spec, !procTakesPidns(this.#tools, await this.#shim())), "PID namespace", signal);
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

  async create(
    spec: ContainerSpec,
    rootfs: Rootfs,
    signal: AbortSignal,
  ): Promise<{ readonly process: ProcessIdentity; readonly oci: OciSpec }> {
    const { pidNamespace } = spec;
    const target = pidNamespace.kind === "target" ? await this.#initOf(pidNamespace.containerId) : undefined;
    const input = { tools: this.#tools, shim: await this.#shim(), pod: this.#spec, spec, rootfs, target, signal };
    const created = await createContainer(input);
    this.#inits.set(spec.id, created.process);
    this.#cgroups.set(spec.id, cgroupsPathOf(spec.oci));
    return created;
  }

  async start(containerId: string, signal: AbortSignal): Promise<{ readonly startedAtNs: bigint }> {
    return await (await this.#shim()).start(containerId, signal);
  }

  async execSync(containerId: string, oci: OciSpec, request: ExecRequest, signal: AbortSignal): Promise<ExecResult> {
    const init = await this.#initOf(containerId);
    const input = { tools: this.#tools, shim: await this.#shim(), pod: this.#spec, containerId, oci, init, request, signal };
    return await execInContainer(input);
  }

  async signal(containerId: string, signal: number, scope: "init" | "all"): Promise<void> {
    await unlessMissing((await this.#shim()).signal(containerId, signal, scope));
  }

  async reopenLog(containerId: string, signal: AbortSignal): Promise<void> {
    await (await this.#shim()).reopenLog(containerId, signal);
  }

  async remove(containerId: string, cgroupsPath: string, signal: AbortSignal): Promise<void> {
    await this.#forget(containerId, signal);
    this.#inits.delete(containerId);
    await this.#tools.cgroups.clear(cgroupsPath, signal);
    this.#cgroups.delete(containerId);
    removeAttachPoint(this.#tools.stateDir, containerId);
  }

  async list(): Promise<readonly ContainerState[]> {
    return (await (await this.#shim()).list()).map(stateOf);
  }

  async acknowledgeExit(containerId: string): Promise<void> {
    await unlessMissing((await this.#shim()).ackExit(containerId));
  }

  onExit(listener: (exit: ContainerExit) => void): void {
    this.#exitListener = listener;
    for (const exit of this.#early.splice(0)) listener(exit);
  }

  onShimLost(listener: () => void): void {
    this.#lostListener = listener;
    if (this.#lost) queueMicrotask(listener);
  }

  async destroy(signal: AbortSignal): Promise<void> {
    this.#ending = true;
    try {
      await this.#client?.shutdown(signal);
    } catch (error) {
      if (codeOf(error) === "canceled") throw error;
      this.#process.kill(killSignal);
    }
    await untilEnded(this.#process, signal);
    this.disconnect();
    for (const [id, cgroupsPath] of this.#cgroups) {
      await this.#tools.cgroups.clear(cgroupsPath, signal);
      removeAttachPoint(this.#tools.stateDir, id);
    }
    removePodRemains(this.#spec);
  }

  disconnect(): void {
    this.#ending = true;
    this.#client?.disconnect();
    this.#client = undefined;
    this.#process[Symbol.dispose]();
  }

  /** Whatever its state: one that still runs is killed first. */
  async #forget(containerId: string, signal: AbortSignal): Promise<void> {
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
      try {
        return await (await this.#shim()).forget(containerId, signal);
      } catch (error) {
        if (codeOf(error) === "not_found") return;
        if (codeOf(error) !== "failed_precondition") throw error;
        await this.signal(containerId, killSignal, "all");
        await sleep(pauseMs, undefined, { signal });
      }
    }
  }

  /** The connection; a shim that is just becoming a newer binary is waited for. */
  async #shim(): Promise<Shim> {
    if (this.#client === undefined && !this.#ending && !this.#lost) {
      await Promise.race([this.#reconnecting, sleep(reconnectPatienceMs, undefined, { ref: false })]);
    }
    if (this.#client !== undefined) return this.#client;
    const reason = this.#lost ? "has ended" : "is not connected";
    throw new RuntimeError("unavailable", `the shim of pod ${this.id} ${reason}`, { pod: this.id });
  }

  #listeners(): ShimListeners {
    return {
      onExit: (told) => {
        const exit = exitOf(told);
        if (this.#exitListener === undefined) this.#early.push(exit);
        else this.#exitListener(exit);
      },
      onLost: (error) => {
        this.#reconnecting = this.#reconnect(error);
      },
    };
  }

  /** A shim that became a newer binary, or that dropped us for being slow, still lives: only its end is the pod's end. */
  async #reconnect(reason: RuntimeError): Promise<void> {
    this.#client = undefined;
    this.#tools.log.debug({ err: reason, pod: this.id }, "connection to a shim ended");
    while (!this.#ending && !this.#lost) {
      await sleep(reconnectPauseMs);
      if (this.#ending || this.#lost) return;
      try {
        this.#client = await this.#connect(this.#listeners());
        return;
      } catch (error) {
        this.#tools.log.debug({ err: error, pod: this.id }, "a shim does not answer yet");
      }
    }
  }

  #shimEnded(): void {
    if (this.#ending || this.#lost) return;
    this.#lost = true;
    this.#client?.disconnect();
    this.#client = undefined;
    this.#lostListener?.();
  }

  async #initOf(containerId: string): Promise<ProcessIdentity> {
    const known = this.#inits.get(containerId);
    if (known !== undefined) return known;
    for (const { id, process } of await this.list()) this.#inits.set(id, process);
    const found = this.#inits.get(containerId);
    if (found === undefined) throw new RuntimeError("not_found", `container ${containerId} is not in pod ${this.id}`);
    return found;
  }

  /** The shim's pins by way of its descriptors: they stay for the pod's life. */
  #findNamespacePaths(): Pod["namespacePaths"] {
    const { pid } = this.shim;
    const paths: { -readonly [K in keyof Pod["namespacePaths"]]: Pod["namespacePaths"][K] } = {};
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      const path = `/proc/${pid}/fd/${fd}`;
      const kind = namespaceKinds.get(/^([a-z]+):\[/.exec(linkOf(path))?.[1] ?? "");
      if (kind !== undefined) paths[kind] = path;
    }
    if (this.#spec.netnsPath !== null) paths.network = this.#spec.netnsPath;
    return paths;
  }
}

const namespaceKinds = new Map<string, keyof Pod["namespacePaths"]>([
  ["net", "network"],
  ["ipc", "ipc"],
  ["uts", "uts"],
  ["pid", "pid"],
  ["user", "user"],
]);

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

/** The kernel says only EINVAL when a file system cannot be id-mapped at all. */
function explainIdmap(error: unknown): unknown {
  const { errnoName, detail } = error instanceof RuntimeError ? error.fields : {};
  if (errnoName !== "EINVAL" || !String(detail).startsWith("id map of ")) return error;
  const reason = "its file system cannot be id-mapped on this kernel, which pods with a user namespace need";
  return new RuntimeError("failed_precondition", `layer ${String(detail).slice("id map of ".length)}: ${reason}`, {}, error);
}

/** Dots and slashes may both separate; whichever comes first does, and the other is a character of a name (sysctl.d(5)). */
export function sysctlPath(key: string): string {
  const separator = /[./]/.exec(key)?.[0];
  return separator === "." ? key.replace(/[./]/g, (found) => (found === "." ? "/" : ".")) : key;
}

async function unlessMissing(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (codeOf(error) !== "not_found") throw error;
  }
}

async function untilEnded(process: ProcessHandle, signal: AbortSignal): Promise<void> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = () =>
    aborted.reject(new RuntimeError("deadline_exceeded", `process ${process.identity.pid} has not ended in time`));
  signal.addEventListener("abort", onAbort, { once: true });
  // Waiting for a shim keeps no program alive by itself; whoever ends a pod wants to see its end.
  const alive = setInterval(() => {}, 60_000);
  try {
    if (signal.aborted) onAbort();
    await Promise.race([process.ended, aborted.promise]);
  } finally {
    clearInterval(alive);
    signal.removeEventListener("abort", onAbort);
  }
}

/** Starts a shim with these listeners. */
export type StartShim = (listeners: ShimListeners) => Promise<{ readonly shim: Shim; readonly process: ProcessHandle }>;

/** Events may come before there is a pod to take them: none do before the first container, but types cannot know. */
async function startedPod(
  start: StartShim,
  make: (process: ProcessHandle, shim: Shim, relay: { target: ShimListeners | undefined }) => HostPod,
): Promise<HostPod> {
  const relay: { target: ShimListeners | undefined } = { target: undefined };
  const { shim, process } = await start({
    onExit: (exit) => relay.target?.onExit(exit),
    onLost: (error) => relay.target?.onLost(error),
  });
  return make(process, shim, relay);
}
