/**
 * One connected plugin. It registers itself, is configured and synchronized, then called for the events that it has subscribed to,
 * one call after the other: plugins are written for runtimes that never call them twice at a time.
 *
 *     plugin                            we
 *       | -- Runtime.RegisterPlugin ---> |   within the registration time-out
 *       | <------- Plugin.Configure ---- |   answers with the mask of its events
 *       | <----- Plugin.Synchronize ---- |   all pods and containers, in as many messages as it takes
 *       | <------ Plugin.RunPodSandbox.. |   each within the request time-out; else the connection is closed
 */
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Container, ContainerUpdate, PodSandbox, UpdateContainersRequest } from "../gen/nri/v1alpha1/api.ts";
import * as api from "../gen/nri/v1alpha1/api.ts";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import {
  decodeMessage,
  type EventName,
  eventBit,
  events,
  everyEvent,
  type MethodName,
  methods,
  type NoticeName,
  pluginService,
  type RequestOf,
  type ResponseOf,
  runtimeService,
} from "./methods.ts";
import { Mux, pluginConnection, runtimeConnection } from "./mux.ts";
import { checkedName, fullName, type PluginName } from "./plugin-name.ts";
import { syncChunks } from "./sync-chunks.ts";
import { RefusedCall, TtrpcClient } from "./ttrpc-client.ts";
import { TtrpcServer } from "./ttrpc-server.ts";

export interface PluginOptions {
  readonly runtimeVersion: string;
  readonly registrationTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** Fields that its own name does not decide: of one that we have started. */
  readonly launched: { readonly name: PluginName; readonly config: string } | undefined;
  /** Whether another one has this name. */
  readonly isTaken: (name: PluginName) => boolean;
  /** Answers an unsolicited request; only asked once the plugin is synchronized. */
  readonly onUpdate: (plugin: Plugin, request: UpdateContainersRequest) => Promise<readonly ContainerUpdate[]>;
  readonly onClose: (plugin: Plugin, why: Error) => void;
}

/** The release of the interface that we speak. */
const nriVersion = "v0.12.2";

/** The end of the daemon waits for a plugin so long. */
const shutdownMs = 500;

export class Plugin {
  readonly #options: PluginOptions;
  readonly #mux: Mux;
  readonly #client: TtrpcClient;
  readonly #registered = Promise.withResolvers<PluginName>();
  readonly #gone = Promise.withResolvers<Error>();
  readonly #withoutMethod = new Set<NoticeName>();
  #registeredOnce = false;
  #name: PluginName = { index: "", base: "" };
  #events = 0;
  #namesEvents = false;
  #synchronized = false;
  #closed: Error | undefined;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(socket: Duplex, options: PluginOptions) {
    this.#options = options;
    this.#registered.promise.catch(() => {});
    this.#mux = new Mux(socket, (why) => this.#ended(why));
    this.#client = new TtrpcClient(this.#mux.open(pluginConnection, (bytes) => this.#client.receive(bytes)));
    const server = new TtrpcServer(
      this.#mux.open(runtimeConnection, (bytes) => server.receive(bytes)),
      new Map([
        [`${runtimeService}/RegisterPlugin`, async (payload) => this.#register(payload)],
        [`${runtimeService}/UpdateContainers`, (payload) => this.#update(payload)],
      ]),
    );
  }

  get name(): PluginName {
    return this.#name;
  }

  /** "INDEX-BASE". */
  get title(): string {
    return fullName(this.#name);
  }

  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /** Why the connection has ended, when it has. */
  get gone(): Promise<Error> {
    return this.#gone.promise;
  }

  wants(event: EventName): boolean {
    return !this.closed && (this.#events & eventBit(event)) !== 0;
  }

  /** It may be older than the method of that event, and has nothing to say then. */
  mayLack(event: EventName): boolean {
    return !this.#namesEvents || event === "UpdatePodSandbox";
  }

  close(why: Error): void {
    this.#mux.close(why);
  }

  /** Registration and configuration. Rejects when the plugin does not do its part in time; it is closed then. */
  async start(): Promise<void> {
    const { registrationTimeoutMs, requestTimeoutMs, runtimeVersion, launched } = this.#options;
    const timer = setTimeout(() => {
      this.close(new RuntimeError("deadline_exceeded", `it has not registered in ${registrationTimeoutMs} ms`));
    }, registrationTimeoutMs);
    try {
      await this.#registered.promise;
      clearTimeout(timer);
      const configured = await this.#call("Configure", {
        config: launched?.config ?? "",
        runtimeName: "caisson",
        runtimeVersion,
        registrationTimeout: BigInt(registrationTimeoutMs),
        requestTimeout: BigInt(requestTimeoutMs),
        NRIVersion: nriVersion,
      });
      const unknown = configured.events & ~everyEvent;
      if (unknown !== 0)
        throw new RuntimeError("invalid_argument", `it wants events that are not known: 0x${unknown.toString(16)}`);
      this.#namesEvents = configured.events !== 0;
      this.#events = configured.events === 0 ? everyEvent : configured.events;
    } catch (error) {
      this.close(error instanceof Error ? error : new Error(messageOf(error)));
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells it all that there is; what it wants changed of it. */
  async synchronize(pods: readonly PodSandbox[], containers: readonly Container[]): Promise<readonly ContainerUpdate[]> {
    let update: readonly ContainerUpdate[] = [];
    for (const chunk of syncChunks(pods, containers)) {
      const reply = await this.#call("Synchronize", chunk);
      if (chunk.more && (reply.update.length > 0 || !reply.more)) {
        throw new RuntimeError("failed_precondition", "it does not understand a synchronization in several messages");
      }
      update = reply.update;
    }
    this.#synchronized = true;
    return update;
  }

  /** Calls made at the same time are carried out one after the other. */
  call<M extends MethodName>(method: M, request: RequestOf<M>): Promise<ResponseOf<M>> {
    const answer = this.#tail.then(() => this.#call(method, request));
    this.#tail = answer.catch(() => {});
    return answer;
  }

  /** An event whose answer says nothing, in the way that this plugin knows. */
  async notify<E extends NoticeName>(event: E, request: RequestOf<E>): Promise<void> {
    if (!this.#withoutMethod.has(event)) {
      try {
        await this.call(event, request);
        return;
      } catch (error) {
        if (!(error instanceof RefusedCall) || error.code !== "unimplemented") throw error;
        this.#withoutMethod.add(event);
      }
    }
    const { pod, container } = api.StateChangeEvent.fromPartial(request);
    await this.call("StateChange", { event: events[event], pod, container });
  }

  /** Tells it that the runtime stops. What it says to that, or does not say in time, changes nothing. */
  async shutDown(): Promise<void> {
    await Promise.race([this.call("Shutdown", {}).catch(() => {}), sleep(shutdownMs, undefined, { ref: false })]);
  }

  async #call<M extends MethodName>(method: M, request: RequestOf<M>): Promise<ResponseOf<M>> {
    // The table's functions belong to one method, which TypeScript cannot follow through the index.
    const codec = methods[method] as { encode(message: RequestOf<M>): Uint8Array; decode(bytes: Buffer): ResponseOf<M> };
    const payload = codec.encode(request);
    return codec.decode(await this.#client.call(pluginService, method, payload, this.#options.requestTimeoutMs));
  }

  #register(payload: Buffer): Uint8Array {
    const request = decodeMessage("RegisterPluginRequest", api.RegisterPluginRequest, payload);
    if (this.#registeredOnce) throw new RuntimeError("failed_precondition", "the plugin has registered already");
    this.#registeredOnce = true;
    try {
      // One that we have started is called what its file is.
      const name = this.#options.launched?.name ?? checkedName(request.pluginIdx, request.pluginName);
      // Two with one name could not be told apart, in conflicts least of all.
      if (this.#options.isTaken(name))
        throw new RuntimeError("already_exists", `a plugin called ${fullName(name)} is connected already`);
      this.#name = name;
      this.#registered.resolve(name);
    } catch (error) {
      // Closed when it has been told why.
      setImmediate(() => this.#registered.reject(error));
      throw error;
    }
    return api.Empty.encode({}).finish();
  }

  async #update(payload: Buffer): Promise<Uint8Array> {
    const request = decodeMessage("UpdateContainersRequest", api.UpdateContainersRequest, payload);
    if (!this.#synchronized) throw new RuntimeError("failed_precondition", "the plugin has not been synchronized yet");
    const failed = await this.#options.onUpdate(this, request);
    return api.UpdateContainersResponse.encode({ failed: [...failed] }).finish();
  }

  #ended(why: Error): void {
    this.#closed = why;
    this.#registered.reject(why);
    this.#gone.resolve(why);
    this.#client.close(why);
    this.#options.onClose(this, why);
  }
}
