/**
 * A daemon that died between a record and its event has not told of what it recorded. Run before recovery changes anything, so that
 * order is kept, and once more after it, for what recovery has found.
 */
import type { CriApp } from "./app-types.ts";
import type { CriEventKind } from "./events.ts";
import { visible } from "./queries.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";

export function tellMissedEvents(app: CriApp): void {
  // A log that is empty was made anew: its readers list what there is.
  const oldest = app.store.eventsAfter(0n, 1)[0];
  if (oldest === undefined) return;
  const tell = (record: SandboxRecord | ContainerRecord, podId: string, happened: readonly CriEventKind[]): void => {
    const known = app.events.kindsOf(record.id);
    // Events of old objects have been pruned: they were told long ago.
    if (known.size === 0 && record.createdAtNs < oldest.atNs) return;
    const last = happened.findLastIndex((kind) => known.has(kind));
    for (const kind of happened.slice(last + 1)) app.events.emit(kind, record.id, podId);
  };
  for (const record of app.sandboxes.all()) if (visible(record)) tell(record, record.id, ofSandbox(record));
  for (const record of app.containers.all()) if (visible(record)) tell(record, record.podId, ofContainer(record));
}

function ofSandbox({ phase }: SandboxRecord): readonly CriEventKind[] {
  return phase === "stopped" || phase === "removing" ? ["created", "started", "stopped"] : ["created", "started"];
}

function ofContainer({ phase, startedAtNs }: ContainerRecord): readonly CriEventKind[] {
  const started: readonly CriEventKind[] = startedAtNs > 0n ? ["created", "started"] : ["created"];
  return phase === "exited" ? [...started, "stopped"] : started;
}
