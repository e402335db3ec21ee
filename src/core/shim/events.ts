import { RuntimeError, wrapError } from "../../lib/errors.ts";
import type { ShimEvent } from "./client.ts";
import type { RecordOfMessage } from "./codec.ts";
import type { ExecEnding, HostEnding } from "./requests.ts";
import { readWaitStatus } from "./wait-status.ts";

export type ExitRecord = RecordOfMessage<"exit">;

export interface ShimListeners {
  /** Once per connection for each exit that has not been acknowledged, and again if the shim repeats it. */
  readonly onExit: (exit: ExitRecord) => void;
  readonly onOom?: (containerId: string, count: bigint) => void;
  /** The connection ended although nobody closed it; whether the shim lives is another question. */
  readonly onLost: (error: RuntimeError) => void;
}

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

/** Routes events to whoever waits for them; made before the connection, since exits may come with the first packets. */
export class ShimEvents {
  readonly #listeners: ShimListeners;
  readonly #execs = new Map<string, Waiter<ExecEnding>>();
  readonly #hostPrograms = new Map<number, Waiter<HostEnding>>();
  /** Ends of host programs that came before the reply which names their pid was looked at; kept while one is being started. */
  readonly #earlyHostEnds = new Map<number, HostEnding>();
  #startingHostPrograms = 0;

  /** Events that came before the shim was found to be the right one; undefined: they are passed on at once. */
  #held: ShimEvent[] | undefined = [];
  #good = false;

  constructor(listeners: ShimListeners) {
    this.#listeners = listeners;
  }

  /** The connection is good: what was held back goes to the listeners, in the next turn, when the caller has its Shim. */
  release(): void {
    this.#good = true;
    setImmediate(() => {
      const held = this.#held ?? [];
      this.#held = undefined;
      for (const event of held) this.dispatch(event);
    });
  }

  dispatch(event: ShimEvent): void {
    if (this.#held !== undefined) this.#held.push(event);
    else if (event.name === "exit") this.#listeners.onExit(event.record);
    else if (event.name === "oom") this.#listeners.onOom?.(event.record.id, event.record.count);
    else if (event.name === "exec-exit") this.#execEnded(event.record);
    else this.#hostEnded(event.record);
  }

  /** A connection that was lost before it was good is the error of connecting, not an event. */
  lost(error: RuntimeError): void {
    this.rejectAll(error);
    if (this.#good) this.#listeners.onLost(error);
  }

  rejectAll(error: RuntimeError): void {
    const waiters = [...this.#execs.values(), ...this.#hostPrograms.values()];
    this.#execs.clear();
    this.#hostPrograms.clear();
    this.#earlyHostEnds.clear();
    for (const waiter of waiters) waiter.reject(wrapError("the process was left behind", error));
  }

  awaitExec(id: string, execId: string): Promise<ExecEnding> {
    if (this.#execs.has(execKey(id, execId)))
      throw new RuntimeError("internal", `exec ${execId} exists already in container ${id}`);
    return this.#wait(this.#execs, execKey(id, execId));
  }

  forgetExec(id: string, execId: string): void {
    this.#execs.delete(execKey(id, execId));
  }

  /** Starts a host program by `start`, which resolves to its pid, and waits for its end from before that on. */
  async startHost(start: () => Promise<number>): Promise<{ readonly pid: number; readonly ended: Promise<HostEnding> }> {
    this.#startingHostPrograms++;
    try {
      const pid = await start();
      const early = this.#earlyHostEnds.get(pid);
      return { pid, ended: early === undefined ? this.#wait(this.#hostPrograms, pid) : Promise.resolve(early) };
    } finally {
      this.#startingHostPrograms--;
      if (this.#startingHostPrograms === 0) this.#earlyHostEnds.clear();
    }
  }

  #execEnded({ id, execId, status, timedOut, atNs }: RecordOfMessage<"exec-exit">): void {
    const key = execKey(id, execId);
    const waiter = this.#execs.get(key);
    this.#execs.delete(key);
    waiter?.resolve({ ...readWaitStatus(status), timedOut: timedOut !== 0, atNs });
  }

  #hostEnded({ pid, status, timedOut }: RecordOfMessage<"spawn-exit">): void {
    const ending = { ...readWaitStatus(status), timedOut: timedOut !== 0 };
    const waiter = this.#hostPrograms.get(pid);
    this.#hostPrograms.delete(pid);
    if (waiter !== undefined) waiter.resolve(ending);
    else if (this.#startingHostPrograms > 0) this.#earlyHostEnds.set(pid, ending);
  }

  #wait<K, T>(waiters: Map<K, Waiter<T>>, key: K): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    /* Whoever asked may have given up: its rejection then is nobody's. */
    promise.catch(() => {});
    waiters.set(key, { resolve, reject });
    return promise;
  }
}

function execKey(id: string, execId: string): string {
  return `${id}/${execId}`;
}
