/** Exits, OOM kills and memory pressure of containers, as they happen. */
import { existsSync, type FSWatcher, watch } from "node:fs";
import { join } from "node:path";
import type { Container, PressureLevel } from "../core/library/public.ts";
import type { ContainerEventsRequest, ContainerEventsResponse } from "../gen/caisson/v1/container.ts";
import { codeOf, RuntimeError } from "../lib/errors.ts";
import { exitReply } from "./container-replies.ts";
import { invalid } from "./container-requests.ts";
import type { LibraryContainers } from "./library-containers.ts";

type Send = (message: ContainerEventsResponse) => Promise<void>;
type Told = Pick<ContainerEventsResponse, "exit" | "oom" | "memoryPressure">;

const levels: readonly string[] = ["", "low", "medium", "critical"];

export async function followEvents(
  containers: LibraryContainers,
  { ids, memoryPressure }: ContainerEventsRequest,
  send: Send,
  signal: AbortSignal,
): Promise<void> {
  if (!levels.includes(memoryPressure)) throw invalid(`memory pressure level ${JSON.stringify(memoryPressure)} is not known`);
  for (const id of ids) (await containers.load(id))[Symbol.dispose]();
  const tell = async (id: string, told: Told) => await send({ id, at: BigInt(Date.now()) * 1_000_000n, ...told });
  const begun = async () => await tell("", {});
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const follower = new Follower(containers, memoryPressure as PressureLevel | "", tell, either);
  try {
    if (ids.length === 0) await followAll(containers, follower, begun, either);
    else await followNamed(ids, follower, begun);
  } finally {
    // One of several may have failed: nobody listens to the others any more.
    stop.abort(new RuntimeError("canceled", "the stream of events has ended"));
  }
}

async function followNamed(ids: readonly string[], follower: Follower, begun: () => Promise<void>): Promise<void> {
  const each = ids.map((id) => {
    const ready = Promise.withResolvers<void>();
    return { following: follower.follow(id, ready.resolve).finally(ready.resolve), ready: ready.promise };
  });
  const allReady = Promise.all(each.map(({ ready }) => ready)).then(begun);
  await Promise.all([...each.map(({ following }) => following), allReady]);
}

async function followAll(containers: LibraryContainers, follower: Follower, begun: () => Promise<void>, signal: AbortSignal) {
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  using changes = new Changes(containers.stateDir);
  for (let first = true; ; first = false) {
    // Before the look: what comes in between wakes at once.
    const changed = changes.next(signal);
    for (const id of containers.ids()) follower.follow(id).catch(failed.reject);
    if (first) await begun();
    await Promise.race([changed, failed.promise]);
  }
}

class Follower {
  readonly #containers: LibraryContainers;
  readonly #pressure: PressureLevel | "";
  readonly #tell: (id: string, told: Told) => Promise<void>;
  readonly #signal: AbortSignal;
  /** By their helper's ids: another container may get the id of one that is gone. */
  readonly #followed = new Set<string>();
  /** Ids of directories without a state. */
  readonly #awaited = new Set<string>();

  constructor(
    containers: LibraryContainers,
    pressure: PressureLevel | "",
    tell: (id: string, told: Told) => Promise<void>,
    signal: AbortSignal,
  ) {
    this.#containers = containers;
    this.#pressure = pressure;
    this.#tell = tell;
    this.#signal = signal;
  }

  /** Resolves at the container's end, at once for one that is followed already or not there. `ready`: nothing is missed any more. */
  async follow(id: string, ready: () => void = () => {}): Promise<void> {
    using container = await this.#appear(id);
    const key = container === undefined ? undefined : keyOf(container);
    if (container === undefined || key === undefined || this.#followed.has(key)) return;
    this.#followed.add(key);
    if (!(await this.#started(container, ready))) return;
    using watches = new DisposableStack();
    await this.#watch(container, watches);
    ready();
    const exit = await container.wait(this.#signal);
    await this.#tell(id, { exit: exitReply(exit) });
  }

  /** A container's directory is there before its state. */
  async #appear(id: string): Promise<Container | undefined> {
    const found = await this.#load(id);
    const directory = join(this.#containers.stateDir, id);
    if (found !== undefined || this.#awaited.has(id)) return found;
    this.#awaited.add(id);
    try {
      using changes = new Changes(directory);
      for (;;) {
        const changed = changes.next(this.#signal);
        const container = await this.#load(id);
        if (container !== undefined || !existsSync(directory)) return container;
        await changed;
      }
    } catch (error) {
      if (codeOf(error) === "not_found") return undefined;
      throw error;
    } finally {
      this.#awaited.delete(id);
    }
  }

  async #load(id: string): Promise<Container | undefined> {
    try {
      return await this.#containers.load(id);
    } catch (error) {
      // A directory that is no container, not yet or not any more.
      if (["not_found", "invalid_argument", "data_loss"].includes(codeOf(error))) return undefined;
      throw error;
    }
  }

  /** False: it was taken away before it was ever started. */
  async #started(container: Container, waits: () => void): Promise<boolean> {
    try {
      using changes = new Changes(join(this.#containers.stateDir, container.id));
      for (;;) {
        const changed = changes.next(this.#signal);
        if (container.state().init_process_pid !== 0) return true;
        waits();
        await changed;
      }
    } catch (error) {
      if (codeOf(error) === "not_found") return false;
      throw error;
    }
  }

  async #watch(container: Container, watches: DisposableStack): Promise<void> {
    const { id } = container;
    const kills = await container.notifyOOM().catch((error: unknown) => {
      // It has ended already.
      if (codeOf(error) === "failed_precondition" || codeOf(error) === "unavailable") return undefined;
      throw error;
    });
    if (kills === undefined) return;
    watches.use(kills);
    void forward(kills, async ({ count }) => await this.#tell(id, { oom: { count } }));
    if (this.#pressure === "") return;
    const pressure = watches.use(container.notifyMemoryPressure(this.#pressure));
    void forward(pressure, async (level) => await this.#tell(id, { memoryPressure: level }));
  }
}

function keyOf(container: Container): string | undefined {
  try {
    return container.state().caisson.shim_id;
  } catch (error) {
    if (codeOf(error) === "not_found") return undefined;
    throw error;
  }
}

/** The caller's leaving ends the stream elsewhere. */
async function forward<T>(events: AsyncIterable<T>, tell: (event: T) => Promise<void>): Promise<void> {
  try {
    for await (const event of events) await tell(event);
  } catch {
    return;
  }
}

/** Changes of the entries of a directory. */
class Changes implements Disposable {
  readonly #watcher: FSWatcher;
  #news = Promise.withResolvers<void>();

  constructor(directory: string) {
    try {
      this.#watcher = watch(directory, () => this.#news.resolve());
    } catch (error) {
      throw new RuntimeError("not_found", "container does not exist", { directory }, error);
    }
    // The directory is gone: whoever looks again will see it.
    this.#watcher.on("error", () => this.#news.resolve());
  }

  /** Resolves at the next change after this call, or at the end of this object; rejects with the signal's reason. */
  next(signal: AbortSignal): Promise<void> {
    this.#news.resolve();
    const news = Promise.withResolvers<void>();
    this.#news = news;
    const cut = () => news.reject(signal.reason);
    if (signal.aborted) cut();
    signal.addEventListener("abort", cut, { once: true });
    const settled = () => signal.removeEventListener("abort", cut);
    // Whoever has seen enough meanwhile does not wait for it.
    news.promise.then(settled, settled);
    return news.promise;
  }

  [Symbol.dispose](): void {
    this.#news.resolve();
    this.#watcher.close();
  }
}
