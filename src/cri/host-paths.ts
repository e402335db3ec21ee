/**
 * Looks at paths of the host that clients name. Where a file server or a disk does not answer, a look never comes back and keeps its
 * thread of Node's pool, on which everything else depends as well: only some of them may be kept, and nobody waits for long.
 */
import { RuntimeError } from "../lib/errors.ts";
import type { Host } from "./translate-node.ts";

const defaultThreads = 4;
/** For the store's log, cgroups, unmounts, names of registries. */
const otherThreads = 2;
/** A volume's file server that is silent must not keep anybody's log directory from being looked at: those have threads of their own. */
const logThreads = 2;
const patienceMs = 5_000;

/** How many threads of the pool looks at volumes and devices may keep. */
function slotsOf(poolSize: string | undefined): number {
  return Math.max(1, (Number(poolSize) || defaultThreads) - otherThreads - logThreads);
}

export interface HostPathOptions {
  readonly slots: number;
  readonly patienceMs: number;
}

export class HostPaths {
  readonly #options: HostPathOptions;
  /** Under way, with the path that is looked at. */
  readonly #looks = new Map<symbol, string>();
  readonly #overdue = new Set<symbol>();
  #waiting: (() => void)[] = [];

  constructor(options: HostPathOptions = { slots: slotsOf(process.env.UV_THREADPOOL_SIZE), patienceMs }) {
    this.#options = options;
  }

  /** @throws RuntimeError unavailable when the path, or others before it, do not answer. */
  async look<T>(path: string, work: () => Promise<T>): Promise<T> {
    const patience = Promise.withResolvers<never>();
    patience.promise.catch(() => {});
    let look: symbol | undefined;
    const timer = setTimeout(() => {
      if (look !== undefined) this.#overdue.add(look);
      patience.reject(this.#refusal(path));
    }, this.#options.patienceMs);
    try {
      while (this.#looks.size >= this.#options.slots) {
        // With every slot overdue nobody need wait to learn it.
        if (this.#overdue.size >= this.#options.slots) throw this.#refusal(path);
        await Promise.race([this.#free(), patience.promise]);
      }
      if ([...this.#overdue].some((each) => this.#looks.get(each) === path)) throw this.#refusal(path);
      look = Symbol(path);
      return await Promise.race([this.#begin(look, path, work), patience.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #begin<T>(look: symbol, path: string, work: () => Promise<T>): Promise<T> {
    this.#looks.set(look, path);
    try {
      return await work();
    } finally {
      this.#looks.delete(look);
      this.#overdue.delete(look);
      for (const wake of this.#waiting.splice(0)) wake();
    }
  }

  #free(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #refusal(path: string): RuntimeError {
    const silent = [...new Set([...this.#overdue].map((look) => this.#looks.get(look)))].filter((other) => other !== path);
    const others = silent.length === 0 ? "" : `, and neither do ${silent.join(", ")}`;
    return new RuntimeError("unavailable", `host path ${path} does not answer${others}: see to its file server or disk`, {
      path,
    });
  }
}

/** For the directories of logs. */
export function logPaths(): HostPaths {
  return new HostPaths({ slots: logThreads, patienceMs });
}

/** The same host, looked at with care. */
export function guardedHost(host: Host, paths: HostPaths): Host {
  return {
    mountinfo: () => host.mountinfo(),
    realpath: (path) => paths.look(path, () => host.realpath(path)),
    lstat: (path) => paths.look(path, () => host.lstat(path)),
    list: (path) => paths.look(path, () => host.list(path)),
    makeDirectory: (path) => paths.look(path, () => host.makeDirectory(path)),
    readFile: (path, maxBytes) => paths.look(path, () => host.readFile(path, maxBytes)),
  };
}
