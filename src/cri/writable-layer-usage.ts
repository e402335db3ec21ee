import { lstat, opendir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName } from "../lib/errors.ts";
import type { CriClock } from "./app-types.ts";

export interface LayerUsage {
  readonly usedBytes: bigint;
  readonly inodesUsed: bigint;
  readonly timestampNs: bigint;
}

/** A measurement is repeated when somebody asks and it is older than this, or than ten times what it took. */
const freshMs = 10_000;
const entriesPerTurn = 256;

/**
 * How much each writable layer holds. Stats calls read the last measurement and never walk a tree; asking for an old one queues a new
 * one. One tree is walked at a time, and the walk rests as long as it works, so that a large layer is not felt elsewhere.
 */
export class WritableLayerUsage {
  readonly #clock: CriClock;
  readonly #known = new Map<string, LayerUsage & { readonly tookMs: number }>();
  readonly #queue = new Map<string, string>();
  #walking = false;
  /** Whose layer is being walked through. */
  #current = "";
  #closed = false;

  constructor(clock: CriClock) {
    this.#clock = clock;
  }

  /** A layer that has just been made is known to be empty. */
  empty(id: string): void {
    this.#known.set(id, { usedBytes: 0n, inodesUsed: 0n, timestampNs: this.#clock.nowNs(), tookMs: 0 });
  }

  /** The last measurement, or undefined before the first one has ended. */
  read(id: string, dir: string): LayerUsage | undefined {
    const known = this.#known.get(id);
    const ageMs = known === undefined ? Infinity : Number((this.#clock.nowNs() - known.timestampNs) / 1_000_000n);
    if (ageMs > Math.max(freshMs, 10 * (known?.tookMs ?? 0))) this.request(id, dir);
    return known;
  }

  /** Queues a measurement, unless one is under way. */
  request(id: string, dir: string): void {
    if (this.#closed || id === this.#current) return;
    this.#queue.set(id, dir);
    if (!this.#walking) void this.#drain();
  }

  forget(id: string): void {
    this.#known.delete(id);
    this.#queue.delete(id);
  }

  close(): void {
    this.#closed = true;
    this.#queue.clear();
  }

  async #drain(): Promise<void> {
    this.#walking = true;
    try {
      for (let next = this.#take(); next !== undefined; next = this.#take()) {
        const [id, dir] = next;
        this.#current = id;
        const startedMs = performance.now();
        // A layer that cannot be read (a failing disk) keeps its last measurement, whose time tells its age.
        const measured = await this.#measure(dir).catch(() => undefined);
        if (measured === undefined || this.#closed) continue;
        this.#known.set(id, { ...measured, timestampNs: this.#clock.nowNs(), tookMs: performance.now() - startedMs });
      }
    } finally {
      this.#walking = false;
      this.#current = "";
    }
  }

  #take(): [string, string] | undefined {
    const next = this.#queue.entries().next().value;
    if (next !== undefined) this.#queue.delete(next[0]);
    return next;
  }

  /** Undefined when the layer has gone away meanwhile. Hard links count once. */
  async #measure(top: string): Promise<Pick<LayerUsage, "usedBytes" | "inodesUsed"> | undefined> {
    let blocks = 0n;
    const seen = new Set<string>();
    let inodes = 0n;
    let turn = 0;
    let turnStartedMs = performance.now();
    const pending = [top];
    try {
      for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
        for await (const entry of await opendir(dir)) {
          const path = join(dir, entry.name);
          const stat = await lstat(path, { bigint: true }).catch(ignoreGone);
          if (stat === undefined) continue;
          if (entry.isDirectory()) pending.push(path);
          else if (stat.nlink > 1n) {
            const key = `${stat.dev}:${stat.ino}`;
            if (seen.has(key)) continue;
            seen.add(key);
          }
          blocks += stat.blocks;
          inodes += 1n;
          if (++turn % entriesPerTurn === 0) {
            await sleep(performance.now() - turnStartedMs);
            if (this.#closed) return undefined;
            turnStartedMs = performance.now();
          }
        }
      }
    } catch (error) {
      if (errnoName(error) === "ENOENT") return undefined;
      throw error;
    }
    return { usedBytes: blocks * 512n, inodesUsed: inodes };
  }
}

function ignoreGone(error: unknown): undefined {
  if (errnoName(error) === "ENOENT") return undefined;
  throw error;
}
