import { beforeEach, describe, expect, it } from "vitest";
import type { Holder } from "../../../src/core/runtime.ts";
import { type LedgerItem, type PodLedger, StopLedger } from "../../../src/cri/stop-ledger.ts";
import { ledgerSentences } from "../../../src/cri/stop-obstacles.ts";
import { quiet } from "./fake/fake-node.ts";
import { FakeStore } from "./fake/fake-store.ts";

const holder: Holder = { pid: 7, startTicks: 70n, command: "dd", state: "D", waitsIn: "percpu_rwsem_wait" };
const blocked: LedgerItem = { kind: "processes", what: "c1", why: "processes of container main do not end", holders: [holder] };
const mount = { path: "/run/caisson/pods/p1/shm", holders: [{ ...holder, command: "tar", state: "S", waitsIn: "" }] };

let store: FakeStore;
let ends: PromiseWithResolvers<void>;
function open(bootId = "boot-1"): StopLedger {
  ends = Promise.withResolvers();
  const ledger = new StopLedger({
    collection: store.collection<PodLedger>("ledger"),
    untilAllEnded: () => ends.promise,
    clock: { nowNs: () => 1_000_000_000n },
    log: quiet,
  });
  ledger.load(bootId);
  return ledger;
}
const kinds = (ledger: StopLedger): readonly string[] => ledger.of("p1")?.items.map(({ kind }) => kind) ?? [];
beforeEach(() => {
  store = new FakeStore();
});

describe("the ledger of what stopping could not free", () => {
  it("keeps what blocks a pod until a teardown succeeds, also over a restart, and counts attempts", () => {
    const ledger = open();
    ledger.blocked("p1", "default/web", [blocked]);
    ledger.blocked("p1", "default/web", [blocked]);
    const again = open();
    expect(again.all()).toEqual([
      { podId: "p1", pod: "default/web", bootId: "boot-1", sinceNs: 1_000_000_000n, attempts: 2, items: [blocked] },
    ]);
    again.unblocked("p1");
    expect([again.all(), open().all()]).toEqual([[], []]);
  });

  it("keeps a mount that is in use until its users have ended, whatever becomes of the pod", async () => {
    open().letGo("p1", "default/web", [mount]);
    const ledger = open();
    ledger.blocked("p1", "default/web", [blocked]);
    expect(kinds(ledger)).toEqual(["mount", "processes"]);
    ledger.unblocked("p1");
    expect(kinds(ledger)).toEqual(["mount"]);
    ends.resolve();
    await ends.promise;
    await Promise.resolve();
    expect([ledger.all(), open().all()]).toEqual([[], []]);
  });

  it("has no mounts of before a reboot, and none whose user nobody knows of before a restart", () => {
    open().letGo("p1", "default/web", [mount]);
    expect(kinds(open("boot-2"))).toEqual([]);
    const ledger = open();
    ledger.letGo("p1", "default/web", [{ path: "/x", holders: [] }]);
    expect(kinds(ledger)).toEqual(["mount"]);
    expect(kinds(open())).toEqual([]);
  });

  it("goes on in memory when the disk is full", () => {
    const ledger = open();
    store.full = true;
    ledger.blocked("p1", "default/web", [blocked]);
    expect(kinds(ledger)).toEqual(["processes"]);
  });

  it("says it in sentences", () => {
    const ledger = open();
    ledger.letGo("p1", "default/web", [mount]);
    ledger.blocked("p1", "default/web", [blocked]);
    expect(ledger.all().flatMap(ledgerSentences)).toEqual([
      "pod default/web (p1): mount /run/caisson/pods/p1/shm: it was in use and is freed with its last user (process 7 (tar)); " +
        "since 1970-01-01T00:00:01.000Z",
      "pod default/web (p1): processes of container main do not end (process 7 (dd, asleep in the kernel in percpu_rwsem_wait " +
        "where no signal reaches it)); since 1970-01-01T00:00:01.000Z, attempts: 1",
    ]);
  });
});
