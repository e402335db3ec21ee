/**
 * Keeps one installed plugin running: one that ends, hangs or never registers is started again, after pauses that grow. It never gives
 * up, because a required plugin that stays away would hold up every pod until somebody restarts the daemon.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { type InstalledPlugin, inspectPlugin, type LaunchedPlugin, launchPlugin } from "./launch.ts";
import type { Plugin } from "./plugin.ts";

const firstPauseMs = 1000;
const longestPauseMs = 60_000;
const lingerMs = 200;
/** One that was connected for so long has done well: what ends it is not what ended it before. */
const settledMs = 60_000;

export interface KeeperOptions {
  readonly configDir: string;
  readonly log: Log;
  /** Registered and synchronized, or rejects. */
  readonly admit: (launched: LaunchedPlugin, installed: InstalledPlugin) => Promise<Plugin>;
}

export class Keeper {
  readonly #path: string;
  readonly #options: KeeperOptions;
  readonly #stopping = new AbortController();
  #launched: LaunchedPlugin | undefined;

  constructor(path: string, options: KeeperOptions) {
    this.#path = path;
    this.#options = options;
  }

  /** Resolves when the plugin is connected, or could not be for the first time. Never rejects. */
  start(): Promise<void> {
    const tried = Promise.withResolvers<void>();
    void this.#keep(tried.resolve);
    return tried.promise;
  }

  /** From now on it is not started again. */
  restNow(): void {
    this.#stopping.abort();
  }

  stop(): void {
    this.restNow();
    this.#launched?.kill();
  }

  async #keep(tried: () => void): Promise<void> {
    const { log } = this.#options;
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      const began = performance.now();
      const why = await this.#run(tried);
      this.#launched?.kill();
      this.#launched = undefined;
      tried();
      if (this.#stopping.signal.aborted) return;
      if (why === undefined) return log.warn({}, `NRI plugin ${this.#path} is not there any more: it is not started again`);
      if (performance.now() - began > settledMs) pauseMs = firstPauseMs;
      log.warn({}, `NRI plugin ${this.#path} does not run: ${why}; it is started again in ${pauseMs} ms`);
      // Aborted: the next look at the signal ends it.
      await sleep(pauseMs, undefined, { signal: this.#stopping.signal, ref: false }).catch(() => {});
      if (this.#stopping.signal.aborted) return;
    }
  }

  /** Why it has ended; undefined: its file is gone. The file and its configuration may be newer than those of its last life. */
  async #run(tried: () => void): Promise<string | undefined> {
    const { configDir, admit } = this.#options;
    try {
      const installed = await inspectPlugin(this.#path, configDir);
      if (installed === undefined) return undefined;
      if (this.#stopping.signal.aborted) return "the runtime stops";
      this.#launched = launchPlugin(installed);
      const plugin = await admit(this.#launched, installed);
      tried();
      return await this.#whyEnded(await plugin.gone);
    } catch (error) {
      return await this.#whyEnded(error);
    }
  }

  /** What its process says of it, where that has ended too; its connection ends a moment earlier. */
  async #whyEnded(error: unknown): Promise<string> {
    const still = messageOf(error);
    return await Promise.race([this.#launched?.ended ?? still, sleep(lingerMs, still, { ref: false })]);
  }
}
