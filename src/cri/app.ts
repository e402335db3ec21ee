/** Makes the CRI application from its parts, and ends it. */
import { RuntimeError } from "../lib/errors.ts";
import { KeyedLock } from "../lib/lock.ts";
import type { CriApp, CriParts } from "./app-types.ts";
import { CriEvents } from "./events.ts";
import { LivePods } from "./live-pods.ts";
import { NameReservations } from "./name-reservations.ts";
import { Operations } from "./operations.ts";
import { nodeView } from "./plugin-node.ts";
import { containerCodec, sandboxCodec } from "./records.ts";
import { Registry } from "./registry.ts";
import { teardownSandbox } from "./sandbox-teardown.ts";
import { SpecCache } from "./spec-cache.ts";
import { StopLedger } from "./stop-ledger.ts";
import { tellingWhatBlocks } from "./stop-obstacles.ts";
import { StopRequests } from "./stop-requests.ts";
import { TeardownRetries } from "./teardown-retries.ts";
import { UsageSamples } from "./usage-samples.ts";
import { WritableLayerUsage } from "./writable-layer-usage.ts";

const teardownDeadlineMs = 120_000;
/** How long operations may take to roll back when the daemon stops. */
const settleMs = 20_000;

export interface Cri {
  readonly app: CriApp;
  /** Rolls back what is under way and lets go of the pods, which go on. */
  close(): Promise<void>;
}

/** Nothing is read or started yet: `recover` does that. */
export function createCri(parts: CriParts): Cri {
  const { store, log, clock, config } = parts;
  const stopping = new AbortController();
  const operations = new Operations(stopping.signal, log);
  const app: CriApp = {
    ...parts,
    ready: false,
    stopping: stopping.signal,
    locks: new KeyedLock(),
    names: new NameReservations(),
    operations,
    sandboxes: new Registry("pod sandbox", store.collection("pods"), sandboxCodec, log),
    containers: new Registry("container", store.collection("containers"), containerCodec, log),
    pods: new LivePods(),
    stops: new StopRequests(),
    events: new CriEvents(store, clock, log),
    samples: new UsageSamples(),
    writableLayers: new WritableLayerUsage(clock),
    specs: new SpecCache(config),
    plugins: parts.openPlugins?.(nodeView(() => app)),
    teardowns: new TeardownRetries(
      (podId) =>
        tellingWhatBlocks(app, podId, () =>
          operations.run(`stopping pod sandbox ${podId}`, teardownDeadlineMs, (signal) => teardownSandbox(app, podId, signal)),
        ),
      log,
    ),
    ledger: new StopLedger({
      collection: store.collection("ledger"),
      untilAllEnded: (processes) => parts.runtime.untilAllEnded(processes),
      clock,
      log,
    }),
    instance: { id: "", bootId: "" },
    eventLog: "",
  };
  return {
    app,
    close: async () => {
      app.ready = false;
      app.teardowns.close();
      stopping.abort(new RuntimeError("unavailable", "the daemon is stopping"));
      await Promise.race([operations.settled(), new Promise((resolve) => setTimeout(resolve, settleMs).unref())]);
      app.stops.close();
      app.writableLayers.close();
      for (const pod of app.pods.all()) pod.disconnect();
    },
  };
}

/** The machine's clock, milliseconds as nanoseconds, and never the same value twice. */
export function systemClock(): { nowNs(): bigint } {
  let last = 0n;
  return {
    nowNs: () => {
      const now = BigInt(Date.now()) * 1_000_000n;
      last = now > last ? now : last + 1n;
      return last;
    },
  };
}
