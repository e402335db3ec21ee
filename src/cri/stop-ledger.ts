/**
 * What stopping pods could not free, and who holds it. Kept in the store until it is free: what blocks a pod's teardown is looked at anew
 * by each attempt, and a mount that was let go of is forgotten with its last holder, also when its pod's record is long gone.
 */
import type { Holder, Leftover, Runtime } from "../core/runtime.ts";
import { messageOf } from "../lib/errors.ts";
import type { Collection } from "../store/store.ts";
import type { CriClock, CriLog } from "./app-types.ts";

export interface LedgerItem {
  /** mount: it blocks nothing. */
  readonly kind: "processes" | "network" | "pod" | "mount";
  /** Id of a container, name of a network, path of a mount. */
  readonly what: string;
  /** A sentence for people. */
  readonly why: string;
  readonly holders: readonly Holder[];
}

export interface PodLedger {
  readonly podId: string;
  /** namespace/name */
  readonly pod: string;
  readonly bootId: string;
  readonly sinceNs: bigint;
  /** Failed attempts to tear the pod down. */
  readonly attempts: number;
  readonly items: readonly LedgerItem[];
}

export interface LedgerParts {
  readonly collection: Collection<PodLedger>;
  readonly untilAllEnded: Runtime["untilAllEnded"];
  readonly clock: CriClock;
  readonly log: CriLog;
}

export class StopLedger {
  readonly #parts: LedgerParts;
  readonly #byPod = new Map<string, PodLedger>();
  #bootId = "";

  constructor(parts: LedgerParts) {
    this.#parts = parts;
  }

  /** Mounts of before a reboot are gone. */
  load(bootId: string): void {
    this.#bootId = bootId;
    for (const [podId, ledger] of this.#parts.collection.load()) {
      const items = ledger.bootId === bootId ? ledger.items.filter(isKnown) : ledger.items.filter(blocks);
      this.#set({ ...ledger, bootId, items });
      for (const item of items) if (!blocks(item)) this.#forgetWhenFree(podId, item);
    }
  }

  all(): readonly PodLedger[] {
    return [...this.#byPod.values()];
  }

  of(podId: string): PodLedger | undefined {
    return this.#byPod.get(podId);
  }

  /** An attempt has failed because of these. */
  blocked(podId: string, pod: string, items: readonly LedgerItem[]): void {
    const { attempts, items: before } = this.#need(podId, pod);
    this.#change(podId, pod, { attempts: attempts + 1, items: [...before.filter((item) => !blocks(item)), ...items] });
  }

  /** Nothing is in the way any more. */
  unblocked(podId: string): void {
    const known = this.#byPod.get(podId);
    if (known !== undefined) this.#set({ ...known, items: known.items.filter((item) => !blocks(item)) });
  }

  letGo(podId: string, pod: string, leftovers: readonly Leftover[]): void {
    for (const { path, holders } of leftovers) {
      const item: LedgerItem = { kind: "mount", what: path, why: "it was in use and is freed with its last user", holders };
      this.#change(podId, pod, { items: [...this.#need(podId, pod).items, item] });
      this.#parts.log.warn(
        { id: podId, path, pids: holders.map(({ pid }) => pid) },
        "a mount of a pod was let go of while in use",
      );
      if (isKnown(item)) this.#forgetWhenFree(podId, item);
    }
  }

  #need(podId: string, pod: string): PodLedger {
    const sinceNs = this.#parts.clock.nowNs();
    return this.#byPod.get(podId) ?? { podId, pod, bootId: this.#bootId, sinceNs, attempts: 0, items: [] };
  }

  #change(podId: string, pod: string, change: Partial<PodLedger>): void {
    this.#set({ ...this.#need(podId, pod), ...change });
  }

  #set(ledger: PodLedger): void {
    const { podId, items } = ledger;
    if (items.length === 0) this.#byPod.delete(podId);
    else this.#byPod.set(podId, ledger);
    try {
      if (items.length === 0) this.#parts.collection.delete(podId);
      else this.#parts.collection.put(podId, ledger);
    } catch (error) {
      this.#parts.log.error({ id: podId, err: messageOf(error) }, "what keeps a pod from going could not be written down");
    }
  }

  #forgetWhenFree(podId: string, item: LedgerItem): void {
    this.#parts.untilAllEnded(item.holders).then(
      () => {
        const ledger = this.#byPod.get(podId);
        if (ledger !== undefined) this.#set({ ...ledger, items: ledger.items.filter((each) => each !== item) });
      },
      (error: unknown) => this.#parts.log.warn({ id: podId, err: messageOf(error) }, "the user of a mount cannot be watched"),
    );
  }
}

const blocks = ({ kind }: LedgerItem): boolean => kind !== "mount";

/** A mount whose user was not found is forgotten with the daemon: nobody can tell when it is free. */
const isKnown = (item: LedgerItem): boolean => blocks(item) || item.holders.length > 0;
