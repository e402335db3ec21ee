import { type ContainerEventResponse, ContainerEventType, type GetEventsRequest } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { BoundedQueue } from "./bounded-queue.ts";
import { containerStatusView } from "./container-status.ts";
import type { CriEvent, CriEventKind } from "./events.ts";
import { containersOf, visible } from "./queries.ts";
import { sandboxStatusView } from "./sandbox-status.ts";
import type { Send } from "./stream-chunks.ts";

/** How many events may wait for a client: some seconds of a node that starts and ends everything at once. */
const longestQueue = 1024;

/** Every event from now on, until the client leaves or reads too slowly. */
export async function getContainerEvents(
  app: CriApp,
  ctx: Context,
  _request: GetEventsRequest,
  send: Send<ContainerEventResponse>,
): Promise<void> {
  const queue = new BoundedQueue<ContainerEventResponse>("container events", longestQueue, ctx.signal);
  // Statuses are those of the moment, so they are taken here and not when the client gets to read.
  const unsubscribe = app.events.subscribe((event) => queue.put(messageOf(app, event)));
  try {
    for (;;) await send(await queue.take(), queue.failed);
  } finally {
    unsubscribe();
  }
}

const types: Readonly<Record<CriEventKind, ContainerEventType>> = {
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
};

/** One message for all clients. */
const messages = new WeakMap<CriEvent, ContainerEventResponse>();

function messageOf(app: CriApp, event: CriEvent): ContainerEventResponse {
  const known = messages.get(event);
  if (known !== undefined) return known;
  const sandbox = app.sandboxes.get(event.podId);
  const containers = containersOf(app, event.podId).filter(
    (record) => visible(record) && !(event.kind === "deleted" && record.id === event.objectId),
  );
  const message: ContainerEventResponse = {
    containerId: event.objectId,
    containerEventType: types[event.kind],
    createdAt: event.atNs,
    podSandboxStatus: sandbox === undefined ? undefined : sandboxStatusView(sandbox),
    containersStatuses: containers.map(containerStatusView),
  };
  messages.set(event, message);
  return message;
}
