/** The event log as a stream that can be taken up again where it was left, also by another daemon on the same database. */
import type { EventsRequest, EventsResponse } from "../gen/caisson/v1/node.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { StoredEvent } from "../store/store.ts";
import type { Context, CriApp } from "./app-types.ts";
import type { Send } from "./stream-chunks.ts";

const pageEvents = 256;

/** Nothing waits in memory for a client: each reads the log at its own pace, and a number that is missing there is counted. */
export async function replayEvents(app: CriApp, ctx: Context, request: EventsRequest, send: Send<EventsResponse>): Promise<void> {
  const log = app.eventLog;
  let position = startOf(app, request);
  let news = Promise.withResolvers<void>();
  const wake = (): void => news.resolve();
  const unsubscribe = app.events.subscribe(wake);
  ctx.signal.addEventListener("abort", wake, { once: true });
  try {
    await send({ log, sequence: position, missed: 0n, event: undefined });
    for (;;) {
      ctx.signal.throwIfAborted();
      // Renewed before the look: what comes in between wakes at once.
      news = Promise.withResolvers();
      const page = app.store.eventsAfter(position, pageEvents);
      for (const event of page) {
        await send({ log, sequence: event.sequence, missed: event.sequence - position - 1n, event: viewOf(event) });
        position = event.sequence;
      }
      if (page.length === 0) await news.promise;
    }
  } finally {
    unsubscribe();
    ctx.signal.removeEventListener("abort", wake);
  }
}

function startOf(app: CriApp, { after, log, fromNow }: EventsRequest): bigint {
  const last = app.store.lastSequence;
  if (fromNow) return last;
  if (after < 0n) throw new RuntimeError("invalid_argument", `after ${after} is negative`);
  if (after === 0n) return 0n;
  if (log === app.eventLog && after <= last) return after;
  const why =
    log === app.eventLog ? `event ${after} has not happened yet, the last one is ${last}` : "the event log was made anew";
  throw new RuntimeError("out_of_range", `${why}: list what there is, and begin without a number`);
}

function viewOf({ sequence, atNs, objectId, kind, detail }: StoredEvent): NonNullable<EventsResponse["event"]> {
  const { pod = objectId, ...rest } = detail;
  return {
    sequence,
    at: atNs,
    objectId,
    podSandboxId: String(pod),
    kind,
    detail: Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)])),
  };
}
