/**
 * A pod's tie to its shim over the pod's whole life.
 *
 *   linked --connection lost--> reconnecting --answered--> linked      a shim that became a newer binary, or dropped a slow client
 *      |                             |
 *      +--------process ended--------+--> lost                         the pod's end, unless it was asked for
 */
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, RuntimeError } from "../lib/errors.ts";
import { exitOf } from "./container-exit.ts";
import type { CoreLog } from "./pod-tools.ts";
import type { ContainerExit, ProcessIdentity } from "./runtime.ts";
import type { ShimListeners } from "./shim/events.ts";
import type { ProcessHandle } from "./shim/process-handle.ts";
import type { Shim } from "./shim/shim.ts";

const reconnectPauseMs = 50;
const reconnectPatienceMs = 2_000;
const killSignal = 9;

/** Connects to the shim of one pod. */
export type Connect = (listeners: ShimListeners, signal?: AbortSignal) => Promise<Shim>;
/** Starts a shim whose first connection has these listeners. */
export type StartShim = (listeners: ShimListeners) => Promise<{ readonly shim: Shim; readonly process: ProcessHandle }>;

export interface LinkOptions {
  readonly podId: string;
  readonly connect: Connect;
  readonly log: CoreLog;
}

export class ShimLink {
  readonly identity: ProcessIdentity;
  readonly #options: LinkOptions;
  readonly #process: ProcessHandle;
  /** Exits that came before somebody listened. */
  #early: ContainerExit[] = [];
  #exitListener: ((exit: ContainerExit) => void) | undefined;
  #lostListener: (() => void) | undefined;
  #oomListener: ((containerId: string, count: bigint) => void) | undefined;
  #shim: Shim | undefined;
  #reconnecting: Promise<void> = Promise.resolve();
  #ending = false;
  #lost = false;

  private constructor(process: ProcessHandle, options: LinkOptions) {
    this.identity = process.identity;
    this.#options = options;
    this.#process = process;
    const ended = () => this.#processEnded();
    process.ended.then(ended, ended);
  }

  /** To a shim that runs; takes the handle when it succeeds. */
  static async connect(process: ProcessHandle, options: LinkOptions, signal: AbortSignal): Promise<ShimLink> {
    const link = new ShimLink(process, options);
    link.#shim = await options.connect(link.#listeners(), signal);
    return link;
  }

  static async start(start: StartShim, options: LinkOptions): Promise<ShimLink> {
    // Nothing can happen in a shim before its first container, but the listeners come before the process that they are about.
    let target: ShimListeners | undefined;
    const { shim, process } = await start({
      onExit: (exit) => target?.onExit(exit),
      onOom: (containerId, count) => target?.onOom?.(containerId, count),
      onLost: (error) => target?.onLost(error),
    });
    const link = new ShimLink(process, options);
    link.#shim = shim;
    target = link.#listeners();
    return link;
  }

  /** The connection; a shim that is just becoming a newer binary is waited for. `unavailable` when there is none. */
  async shim(): Promise<Shim> {
    if (this.#shim === undefined && !this.#ending && !this.#lost) {
      await Promise.race([this.#reconnecting, sleep(reconnectPatienceMs, undefined, { ref: false })]);
    }
    if (this.#shim !== undefined) return this.#shim;
    const { podId } = this.#options;
    throw new RuntimeError("unavailable", `the shim of pod ${podId} ${this.#lost ? "has ended" : "is not connected"}`, {
      pod: podId,
    });
  }

  onExit(listener: (exit: ContainerExit) => void): void {
    this.#exitListener = listener;
    for (const exit of this.#early.splice(0)) listener(exit);
  }

  /** Kernel OOM kills in a container since its start, as often as the number grows while this connection lasts. */
  onOom(listener: (containerId: string, count: bigint) => void): void {
    this.#oomListener = listener;
  }

  onLost(listener: () => void): void {
    this.#lostListener = listener;
    if (this.#lost) queueMicrotask(listener);
  }

  /** Ends the shim with everything that it started, and waits for it. Idempotent. */
  async end(signal: AbortSignal): Promise<void> {
    this.#ending = true;
    try {
      await this.#shim?.shutdown(signal);
    } catch (error) {
      if (codeOf(error) === "canceled") throw error;
      this.#process.kill(killSignal);
    }
    await untilEnded(this.#process, signal);
    this.disconnect();
  }

  /** Lets go; the shim goes on. */
  disconnect(): void {
    this.#ending = true;
    this.#shim?.disconnect();
    this.#shim = undefined;
    this.#process[Symbol.dispose]();
  }

  #listeners(): ShimListeners {
    return {
      onExit: (told) => {
        const exit = exitOf(told);
        if (this.#exitListener === undefined) this.#early.push(exit);
        else this.#exitListener(exit);
      },
      onOom: (containerId, count) => this.#oomListener?.(containerId, count),
      onLost: (error) => {
        this.#reconnecting = this.#reconnect(error);
      },
    };
  }

  async #reconnect(reason: RuntimeError): Promise<void> {
    const { podId, connect, log } = this.#options;
    this.#shim = undefined;
    // As was wished. A pause would keep a program alive that has nothing else to do.
    if (this.#ending) return;
    log.debug({ err: reason, pod: podId }, "connection to a shim ended");
    for (;;) {
      await sleep(reconnectPauseMs);
      if (this.#ending || this.#lost) return;
      try {
        this.#shim = await connect(this.#listeners());
        return;
      } catch (error) {
        log.debug({ err: error, pod: podId }, "a shim does not answer yet");
      }
    }
  }

  #processEnded(): void {
    if (this.#ending || this.#lost) return;
    this.#lost = true;
    this.#shim?.disconnect();
    this.#shim = undefined;
    this.#lostListener?.();
  }
}

/** @throws RuntimeError deadline_exceeded when the signal fires first. */
export async function untilEnded(process: ProcessHandle, signal: AbortSignal): Promise<void> {
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
