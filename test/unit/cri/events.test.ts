import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BoundedQueue } from "../../../src/cri/bounded-queue.ts";
import { getContainerEvents } from "../../../src/cri/container-events.ts";
import { removeContainer } from "../../../src/cri/container-remove.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { replayEvents } from "../../../src/cri/event-replay.ts";
import { removePodSandbox } from "../../../src/cri/sandbox-remove.ts";
import type { EventsResponse } from "../../../src/gen/caisson/v1/node.ts";
import {
  type ContainerEventResponse,
  ContainerState,
  PodSandboxState,
  ContainerEventType as Type,
} from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { ctx, FakeNode, failure, until } from "./fake/fake-node.ts";

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
});
afterEach(() => node[Symbol.dispose]());

/** A client that reads at once, until it is closed. */
function listen() {
  const cancel = new AbortController();
  const events: ContainerEventResponse[] = [];
  const ended = getContainerEvents(node.app, ctx(cancel.signal), {}, async (event) => void events.push(event));
  ended.catch(() => {});
  return {
    events,
    ended,
    close: () => cancel.abort(new RuntimeError("canceled", "the client left")),
    kinds: (id: string) => events.filter((event) => event.containerId === id).map((event) => event.containerEventType),
  };
}

const all = [
  Type.CONTAINER_CREATED_EVENT,
  Type.CONTAINER_STARTED_EVENT,
  Type.CONTAINER_STOPPED_EVENT,
  Type.CONTAINER_DELETED_EVENT,
];

async function wholeLife(): Promise<{ pod: string; id: string }> {
  const pod = await node.pod();
  const id = await node.running(pod);
  await stopContainer(node.app, ctx(), { containerId: id, timeout: 0n });
  await removeContainer(node.app, ctx(), { containerId: id });
  await removePodSandbox(node.app, ctx(), { podSandboxId: pod });
  return { pod, id };
}

describe("GetContainerEvents", () => {
  it("tells every client of every step, with the statuses of that moment", async () => {
    const clients = [listen(), listen()];
    const { pod, id } = await wholeLife();
    await until(() => clients.every((client) => client.events.length === 8), "all told");
    for (const client of clients) {
      expect(client.kinds(pod)).toEqual(all);
      expect(client.kinds(id)).toEqual(all);
    }
    const { events } = clients[0] ?? listen();
    const of = (kind: Type, about: string) =>
      events.find((event) => event.containerId === about && event.containerEventType === kind);
    expect(of(Type.CONTAINER_STARTED_EVENT, pod)).toMatchObject({
      podSandboxStatus: { id: pod, state: PodSandboxState.SANDBOX_READY, network: { ip: "10.1.0.2" } },
      containersStatuses: [],
    });
    expect(of(Type.CONTAINER_CREATED_EVENT, id)?.containersStatuses).toMatchObject([
      { id, state: ContainerState.CONTAINER_CREATED },
    ]);
    expect(of(Type.CONTAINER_STARTED_EVENT, id)?.containersStatuses).toMatchObject([
      { id, state: ContainerState.CONTAINER_RUNNING },
    ]);
    expect(of(Type.CONTAINER_STOPPED_EVENT, id)?.containersStatuses).toMatchObject([
      { id, state: ContainerState.CONTAINER_EXITED, exitCode: 137 },
    ]);
    // A kubelet drops an event that does not tell of the pod.
    expect(of(Type.CONTAINER_DELETED_EVENT, id)).toMatchObject({ podSandboxStatus: { id: pod }, containersStatuses: [] });
    expect(of(Type.CONTAINER_DELETED_EVENT, pod)?.podSandboxStatus).toMatchObject({
      id: pod,
      metadata: { name: "web" },
      state: PodSandboxState.SANDBOX_NOTREADY,
    });
    for (const event of events) expect(event.createdAt).toBeGreaterThan(0n);
    for (const client of clients) client.close();
  });

  it("ends with the caller, and forgets it", async () => {
    const client = listen();
    client.close();
    expect(await failure(client.ended)).toMatchObject({ code: "canceled" });
    await node.pod();
    expect(client.events).toEqual([]);
  });

  it("cuts off a client that does not read, with a sentence, and holds up nobody", async () => {
    let reads = 0;
    const stuck = getContainerEvents(node.app, ctx(), {}, (_event, cut) => {
      reads++;
      return new Promise((_, reject) => cut?.addEventListener("abort", () => reject(cut.reason), { once: true }));
    });
    stuck.catch(() => {});
    const quick = listen();
    const pod = await node.pod();
    for (let i = 0; i < 1100; i++) node.app.events.emit("created", `c${i}`, pod);
    const { code, message } = await failure(stuck);
    expect(code).toBe("resource_exhausted");
    expect(message).toMatch(/more than 1024 behind .* open the stream again/);
    expect(reads).toBe(1);
    // A burst of more than that within one tick would be too much for anyone; this one reads between two.
    expect(await failure(quick.ended)).toMatchObject({ code: "resource_exhausted" });
  });

  it("loses nothing for a client that reads between bursts", async () => {
    const client = listen();
    const pod = await node.pod();
    for (let burst = 0; burst < 20; burst++) {
      for (let i = 0; i < 200; i++) node.app.events.emit("created", `c${burst}-${i}`, pod);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => client.events.length === 4002, "all told");
    client.close();
  });
});

describe("a bounded queue", () => {
  it("is failed for good once it overflows", async () => {
    const queue = new BoundedQueue<number>("numbers", 2, new AbortController().signal);
    queue.put(1);
    queue.put(2);
    expect(await queue.take()).toBe(1);
    queue.put(3);
    queue.put(4);
    queue.put(5);
    expect(await failure(queue.take())).toMatchObject({ code: "resource_exhausted" });
  });

  it("wakes its reader", async () => {
    const queue = new BoundedQueue<number>("numbers", 2, new AbortController().signal);
    const taken = queue.take();
    queue.put(7);
    expect(await taken).toBe(7);
  });
});

describe("the event log as a stream", () => {
  const read = (request: { after?: bigint; log?: string; fromNow?: boolean }) => {
    const cancel = new AbortController();
    const replies: EventsResponse[] = [];
    const whole = { after: 0n, log: "", fromNow: false, ...request };
    const ended = replayEvents(node.app, ctx(cancel.signal), whole, async (reply) => void replies.push(reply));
    ended.catch(() => {});
    return { replies, ended, close: () => cancel.abort(new RuntimeError("canceled", "the client left")) };
  };
  const last = (replies: readonly EventsResponse[]): { after: bigint; log: string } => {
    const reply = replies.at(-1);
    return { after: reply?.sequence ?? 0n, log: reply?.log ?? "" };
  };

  it("goes on where it was left, over a restart, without a gap or a repeat", async () => {
    const first = read({});
    const pod = await node.pod();
    const id = await node.running(pod);
    await until(() => first.replies.length === 5, "first events");
    first.close();
    expect(await failure(first.ended)).toMatchObject({ code: "canceled" });
    expect(first.replies.map((reply) => reply.event?.kind)).toEqual([undefined, "created", "started", "created", "started"]);
    expect(first.replies[3]?.event).toMatchObject({ objectId: id, podSandboxId: pod, detail: {} });

    node.crash();
    node.shim(pod).exit(id, { exitCode: 3 });
    await node.open();
    const second = read(last(first.replies));
    await until(() => second.replies.length === 2, "the exit that happened meanwhile");
    expect(second.replies[1]).toMatchObject({ missed: 0n, event: { objectId: id, kind: "stopped", detail: { exitCode: "3" } } });
    await removePodSandbox(node.app, ctx(), { podSandboxId: pod });
    await until(() => second.replies.at(-1)?.event?.kind === "deleted", "live events");
    const numbers = [...first.replies.slice(1), ...second.replies.slice(1)].map((reply) => reply.sequence);
    expect(numbers).toEqual(numbers.map((_, i) => BigInt(i + 1)));
    second.close();
  });

  it("says how many events it no longer has", async () => {
    await node.pod();
    node.store.events.splice(0, 1);
    const client = read({});
    await until(() => client.replies.length === 2, "what is left");
    expect(client.replies[1]).toMatchObject({ sequence: 2n, missed: 1n });
    client.close();
  });

  it("can begin with what happens from now on", async () => {
    await node.pod();
    const client = read({ fromNow: true });
    await until(() => client.replies.length === 1, "the beginning");
    expect(client.replies[0]).toMatchObject({ sequence: 2n, log: node.app.eventLog });
    await node.pod({ metadata: { name: "b", namespace: "default", uid: "u-2", attempt: 0 } });
    await until(() => client.replies.length === 3, "two events");
    client.close();
  });

  it("refuses a number of another log, and one that is not reached yet", async () => {
    await node.pod();
    const { eventLog: log } = node.app;
    expect(await failure(read({ after: 1n, log: "another" }).ended)).toMatchObject({ code: "out_of_range" });
    expect(await failure(read({ after: 9n, log }).ended)).toMatchObject({ code: "out_of_range" });
    expect(await failure(read({ after: -1n, log }).ended)).toMatchObject({ code: "invalid_argument" });
    await node.restart();
    expect(node.app.eventLog).toBe(log);
    node.store.rebuilt = "the database was missing";
    await node.restart();
    expect(node.app.eventLog).not.toBe(log);
    expect(await failure(read({ after: 1n, log }).ended)).toMatchObject({ code: "out_of_range" });
  });
});

describe("a daemon that dies between a record and its event", () => {
  it.each(["created", "started", "stopped"])("tells of what was %s when it is back", async (kind) => {
    const pod = await node.pod();
    const id = kind === "created" ? await node.container(pod) : await node.running(pod);
    if (kind === "stopped") await stopContainer(node.app, ctx(), { containerId: id, timeout: 0n });
    const lost = node.store.events.pop();
    expect(lost).toMatchObject({ objectId: id, kind });
    await node.restart();
    expect(node.store.timeline(id).at(-1)?.kind).toBe(kind);
    await node.restart();
    expect(node.store.timeline(id).filter((event) => event.kind === kind)).toHaveLength(1);
  });

  it("does not repeat what was pruned long ago", async () => {
    const pod = await node.pod();
    const id = await node.running(pod);
    node.store.events.splice(0, node.store.events.length, {
      sequence: 99n,
      atNs: node.nowNs + 10n,
      objectId: "x",
      kind: "created",
      detail: {},
    });
    await node.restart();
    expect(node.store.timeline(id)).toEqual([]);
  });
});
