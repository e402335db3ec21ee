/** All plugins of the node: those that connect and those that are installed; what the CRI verbs ask of them. */
import type { Server, Socket } from "node:net";
import type {
  Container,
  ContainerAdjustment,
  ContainerEviction,
  ContainerUpdate,
  LinuxResources,
  PodSandbox,
  UpdateContainersRequest,
  UpdatePodSandboxRequest,
} from "../gen/nri/v1alpha1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { listenUnix } from "../lib/unix-listener.ts";
import { Adjustments } from "./adjustments.ts";
import { Keeper } from "./keeper.ts";
import { installedPlugins } from "./launch.ts";
import type { EventName, MethodName, NoticeName, RequestOf, ResponseOf } from "./methods.ts";
import { Owners } from "./owners.ts";
import { Plugin, type PluginOptions } from "./plugin.ts";
import { isNamed, isSame } from "./plugin-name.ts";
import { checkAllowed, type Rejectable } from "./policy.ts";
import { asksForPlugins, checkPresent, type Requirement, requiredFor } from "./required.ts";
import { SyncGate } from "./sync-gate.ts";
import { RefusedCall } from "./ttrpc-client.ts";
import { Updates } from "./updates.ts";

export interface NriOptions extends Requirement {
  readonly socket: string;
  /** Whether plugins may connect to the socket. */
  readonly external: boolean;
  readonly pluginDir: string;
  readonly configDir: string;
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly rejected: readonly Rejectable[];
  readonly runtimeVersion: string;
}

/** What plugins see and change of the node; the CRI side has it. */
export interface NodeView {
  /** In one tick with the call: nothing is left out or told twice. */
  everything(): Promise<{ readonly pods: readonly PodSandbox[]; readonly containers: readonly Container[] }>;
  /** Carries out what it can; what failed, without what may fail. */
  update(plugin: string, updates: readonly ContainerUpdate[]): Promise<readonly ContainerUpdate[]>;
  evict(plugin: string, evictions: readonly ContainerEviction[]): void;
}

export interface Adjusted {
  readonly adjustment: ContainerAdjustment;
  readonly updates: readonly ContainerUpdate[];
  readonly evictions: readonly ContainerEviction[];
}

export interface Updated {
  /** Of the container itself; undefined: nobody wants it otherwise. */
  readonly own: LinuxResources | undefined;
  readonly others: readonly ContainerUpdate[];
  readonly evictions: readonly ContainerEviction[];
}

/** Most connections of plugins that have not registered: each costs a buffer. */
const mostConnecting = 64;

export class NodePlugins {
  readonly #options: NriOptions;
  readonly #node: NodeView;
  readonly #log: Log;
  readonly #gate = new SyncGate();
  readonly #connecting = new Set<Plugin>();
  /** Pods of whose stop the plugins have been told, until they are removed. */
  readonly #stoppedPods = new Set<string>();
  #keepers: readonly Keeper[] = [];
  #plugins: readonly Plugin[] = [];
  #server: Server | undefined;
  #stopped = false;

  constructor(options: NriOptions, node: NodeView, log: Log) {
    this.#options = options;
    this.#node = node;
    this.#log = log;
  }

  /** Nobody is there, and for a pod with these annotations nobody has to be: callers need not describe anything. */
  idleFor(annotations: Readonly<Record<string, string>>): boolean {
    return this.#plugins.length === 0 && this.#options.required.length === 0 && !asksForPlugins(annotations);
  }

  /** Titles in the order in which they are called. */
  get connected(): readonly string[] {
    return this.#plugins.map(({ title }) => title);
  }

  /** Starts what is installed and waits until it has registered or failed; then others may connect. What fails is told in the log. */
  async start(): Promise<void> {
    const { pluginDir, configDir, external, socket } = this.#options;
    const installed = await installedPlugins(pluginDir, configDir, (sentence) => this.#log.warn({}, sentence)).catch(
      (error: unknown) => {
        this.#log.warn({ err: error }, `installed NRI plugins cannot be found: ${messageOf(error)}`);
        return [];
      },
    );
    this.#keepers = installed.map(
      ({ path }) => new Keeper(path, { configDir, log: this.#log, admit: ({ socket: own }, plugin) => this.#admit(own, plugin) }),
    );
    await Promise.all(this.#keepers.map((keeper) => keeper.start()));
    if (!external || this.#stopped) return;
    try {
      this.#server = await listenUnix(socket, (connection) => void this.#connected(connection), 0o700);
    } catch (error) {
      this.#log.warn({ err: error }, `NRI plugins cannot connect: ${messageOf(error)}; set nri.socket or nri.enabled`);
    }
  }

  /** Plugins are told of it first, and those that are installed may end by themselves for a moment. */
  async close(): Promise<void> {
    this.#stopped = true;
    this.#server?.close();
    for (const keeper of this.#keepers) keeper.restNow();
    await Promise.all(this.#plugins.map((plugin) => plugin.shutDown()));
    const why = new Error("the runtime stops");
    for (const plugin of [...this.#plugins, ...this.#connecting]) plugin.close(why);
    for (const keeper of this.#keepers) keeper.stop();
  }

  /** From telling the plugins of a new object until it is recorded. */
  enter(): Promise<Disposable> {
    return this.#gate.enter();
  }

  /** An event that plugins can forbid: a pod or container that a required one has not seen does not go on. */
  async ask<E extends NoticeName>(
    event: E,
    pod: PodSandbox,
    container: string | undefined,
    request: RequestOf<E>,
  ): Promise<void> {
    const required = this.#required(pod, container, event);
    for (const plugin of this.#wanting(event)) {
      await this.#guarded(plugin, event, required, () => plugin.notify(event, request));
    }
  }

  /** An event of what has happened, or cannot be held up: failures are told in the log. */
  async tell<E extends NoticeName>(event: E, request: RequestOf<E>): Promise<void> {
    if (!this.#isNews(event, request.pod?.id ?? "")) return;
    for (const plugin of this.#wanting(event)) {
      try {
        await this.#guarded(plugin, event, [], () => plugin.notify(event, request));
      } catch (error) {
        this.#log.warn({ err: error }, messageOf(error));
      }
    }
  }

  async updatePod(pod: PodSandbox, request: UpdatePodSandboxRequest): Promise<void> {
    const required = this.#required(pod, undefined, "UpdatePodSandbox");
    for (const plugin of this.#wanting("UpdatePodSandbox")) {
      await this.#call(plugin, "UpdatePodSandbox", request, required);
    }
  }

  /** What they want of a container that is about to be made. Rejects when they disagree, or want what is forbidden. */
  async adjust(pod: PodSandbox, container: Container): Promise<Adjusted> {
    const required = this.#required(pod, container.name, "CreateContainer");
    const wanted = new Adjustments(container);
    const asked = this.#wanting("CreateContainer");
    for (const plugin of asked) {
      const reply = await this.#call(plugin, "CreateContainer", { pod, container: wanted.container }, required);
      if (reply !== undefined) wanted.add(plugin.title, reply);
    }
    checkAllowed(this.#options.rejected, container, wanted.owners);
    await this.#validate(pod, wanted, asked);
    return { adjustment: wanted.adjustment, updates: wanted.updates, evictions: wanted.evictions };
  }

  async update(pod: PodSandbox, container: Container, linuxResources: LinuxResources | undefined): Promise<Updated> {
    const required = this.#required(pod, container.name, "UpdateContainer");
    const updates = new Updates(new Owners());
    const evictions: ContainerEviction[] = [];
    for (const plugin of this.#wanting("UpdateContainer")) {
      const reply = await this.#call(plugin, "UpdateContainer", { pod, container, linuxResources }, required);
      if (reply === undefined) continue;
      updates.add(plugin.title, reply.update);
      evictions.push(...reply.evict);
    }
    const own = updates.all.find(({ containerId }) => containerId === container.id)?.linux?.resources;
    return { own, others: updates.all.filter(({ containerId }) => containerId !== container.id), evictions };
  }

  /** Limits that they want for others now. A stop is never held up: failures are told in the log. */
  async stop(pod: PodSandbox, container: Container): Promise<readonly ContainerUpdate[]> {
    const updates = new Updates(new Owners());
    for (const plugin of this.#wanting("StopContainer")) {
      try {
        const reply = await this.#call(plugin, "StopContainer", { pod, container }, []);
        if (reply !== undefined) updates.add(plugin.title, reply.update);
      } catch (error) {
        this.#log.warn({ err: error }, messageOf(error));
      }
    }
    return updates.all.filter(({ containerId }) => containerId !== container.id);
  }

  async #validate(pod: PodSandbox, wanted: Adjustments, plugins: readonly Plugin[]): Promise<void> {
    for (const validator of this.#wanting("ValidateContainerAdjustment")) {
      // A validator that does not answer has not agreed.
      const required = [validator.title];
      const reply = await this.#call(
        validator,
        "ValidateContainerAdjustment",
        {
          pod,
          container: wanted.pristine,
          adjust: wanted.adjustment,
          update: [...wanted.updates],
          owners: wanted.owners.message(),
          plugins: plugins.map(({ name }) => ({ name: name.base, index: name.index })),
        },
        required,
      );
      if (reply?.reject !== true) continue;
      throw new RuntimeError(
        "permission_denied",
        `NRI plugin ${validator.title} rejects what plugins want of container ${wanted.pristine.name}: ${reply.reason}`,
      );
    }
  }

  /** A stop that has to be tried again is no second one. */
  #isNews(event: NoticeName, podId: string): boolean {
    if (event === "RemovePodSandbox") this.#stoppedPods.delete(podId);
    if (event !== "StopPodSandbox") return true;
    const news = !this.#stoppedPods.has(podId);
    this.#stoppedPods.add(podId);
    return news;
  }

  #wanting(event: EventName): readonly Plugin[] {
    return this.#plugins.filter((plugin) => plugin.wants(event));
  }

  /** Names of the required ones, which are all there. */
  #required(pod: PodSandbox, container: string | undefined, event: EventName): readonly string[] {
    const required = requiredFor(this.#options, pod, container);
    const what = `${event} of ${container === undefined ? "" : `container ${container} of `}pod ${pod.namespace}/${pod.name}`;
    checkPresent(
      required,
      this.#plugins.map(({ name }) => name),
      what,
    );
    return required;
  }

  async #call<M extends EventName & MethodName>(
    plugin: Plugin,
    method: M,
    request: RequestOf<M>,
    required: readonly string[],
  ): Promise<ResponseOf<M> | undefined> {
    return await this.#guarded(plugin, method, required, () => plugin.call(method, request));
  }

  /** A refusal is the call's; a plugin that is slow, gone or not to be understood is closed, and only the call's when it is required. */
  async #guarded<T>(
    plugin: Plugin,
    event: EventName,
    required: readonly string[],
    work: () => Promise<T>,
  ): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      const why = messageOf(error);
      if (error instanceof RefusedCall) {
        if (error.code === "unimplemented" && plugin.mayLack(event)) return undefined;
        throw new RuntimeError(error.code, `NRI plugin ${plugin.title} refuses ${event}: ${why}`, {}, error);
      }
      plugin.close(error instanceof Error ? error : new Error(why));
      if (!required.some((wanted) => isNamed(plugin.name, wanted))) return undefined;
      throw new RuntimeError("unavailable", `required NRI plugin ${plugin.title} did not carry out ${event}: ${why}`, {}, error);
    }
  }

  async #connected(socket: Socket): Promise<void> {
    if (this.#connecting.size >= mostConnecting) {
      this.#log.warn({}, `an NRI plugin was turned away: ${mostConnecting} others have connected and not registered`);
      socket.destroy();
      return;
    }
    try {
      await this.#admit(socket, undefined);
    } catch (error) {
      this.#log.warn({ err: error }, `an NRI plugin that has connected is not used: ${messageOf(error)}`);
    }
  }

  async #admit(socket: Socket, launched: PluginOptions["launched"]): Promise<Plugin> {
    const { runtimeVersion, registrationTimeoutMs, requestTimeoutMs } = this.#options;
    const plugin: Plugin = new Plugin(socket, {
      runtimeVersion,
      registrationTimeoutMs,
      requestTimeoutMs,
      launched,
      isTaken: (name) => [...this.#plugins, ...this.#connecting].some((other) => other !== plugin && isSame(other.name, name)),
      onUpdate: (asking, request) => this.#unsolicited(asking, request),
      onClose: (closed, why) => this.#forget(closed, why),
    });
    this.#connecting.add(plugin);
    try {
      await plugin.start();
      const updates = await this.#gate.alone(() => this.#synchronize(plugin));
      this.#log.info({ plugin: plugin.title }, "an NRI plugin is connected");
      await this.#node.update(plugin.title, updates);
      return plugin;
    } catch (error) {
      plugin.close(error instanceof Error ? error : new Error(messageOf(error)));
      throw error;
    } finally {
      this.#connecting.delete(plugin);
    }
  }

  async #synchronize(plugin: Plugin): Promise<readonly ContainerUpdate[]> {
    const { pods, containers } = await this.#node.everything();
    const updates = await plugin.synchronize(pods, containers);
    if (plugin.closed || this.#stopped) throw new RuntimeError("unavailable", "it has gone");
    this.#plugins = [...this.#plugins, plugin].sort((a, b) => (a.title < b.title ? -1 : 1));
    return updates;
  }

  #forget(plugin: Plugin, why: Error): void {
    if (!this.#plugins.includes(plugin)) return;
    this.#plugins = this.#plugins.filter((other) => other !== plugin);
    if (!this.#stopped) this.#log.warn({ plugin: plugin.title, err: why }, `an NRI plugin is closed: ${messageOf(why)}`);
  }

  async #unsolicited(plugin: Plugin, { update, evict }: UpdateContainersRequest): Promise<readonly ContainerUpdate[]> {
    this.#node.evict(plugin.title, evict);
    return await this.#node.update(plugin.title, update);
  }
}
