/** Lifecycle events as a kubelet gets them, and the node's own log of them, over the real daemon. */
import { join } from "node:path";
import { type ClientReadableStream, credentials, loadPackageDefinition, type ServiceError } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";

let node: CriNode;
let before: Inventory;
beforeAll(async () => {
  before = takeInventory();
  node = await CriNode.start();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

interface Listener {
  readonly events: Message[];
  readonly ended: Promise<{ code: number; details: string }>;
  close(): void;
}

function listen(stream: ClientReadableStream<Message>): Promise<Listener> {
  const events: Message[] = [];
  stream.on("data", (event: Message) => events.push(event));
  const ended = new Promise<{ code: number; details: string }>((resolve) => {
    stream.on("error", ({ code, details }: ServiceError) => resolve({ code, details }));
    stream.on("end", () => resolve({ code: grpcStatus.OK, details: "" }));
  });
  return new Promise((resolve) => stream.once("metadata", () => resolve({ events, ended, close: () => stream.cancel() })));
}
const eventsOf = (): Promise<Listener> => listen(node.client.stream("GetContainerEvents", {}));

async function until(condition: () => boolean, what: string): Promise<void> {
  const patience = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > patience) throw new Error(`still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
const ofObject = (events: readonly Message[], id: string): Message[] => events.filter((event) => event.container_id === id);
const types = (events: readonly Message[]): string[] => events.map((event) => event.container_event_type);
const wholeLife = ["CREATED", "STARTED", "STOPPED", "DELETED"].map((word) => `CONTAINER_${word}_EVENT`);

describe("GetContainerEvents", () => {
  it("tells several clients of every step of pods and containers, with the statuses", async () => {
    const clients = await Promise.all([eventsOf(), eventsOf(), eventsOf()]);
    const pod = node.podConfig("events");
    const podId = await node.runPod(pod);
    const ends = await node.run(podId, pod, node.containerConfig("ends", ["/bin/sh", "-c", "exit 3"]));
    await node.exited(ends);
    const stays = await node.run(podId, pod, node.containerConfig("stays", ["/bin/sleep", "1000"]));
    await node.client.runtime("RemoveContainer", { container_id: ends });
    await node.removePod(podId);
    await until(() => clients.every(({ events }) => events.length === 12), "twelve events for each");
    for (const { events, close } of clients) {
      for (const id of [podId, ends, stays]) expect(types(ofObject(events, id))).toEqual(wholeLife);
      for (const event of events) {
        expect(event.pod_sandbox_status).toMatchObject({ id: podId, metadata: { name: "events", uid: pod.metadata.uid } });
        expect(BigInt(event.created_at)).toBeGreaterThan(0n);
      }
      const stopped = ofObject(events, ends)[2];
      expect(stopped.containers_statuses).toMatchObject([
        {
          id: ends,
          state: "CONTAINER_EXITED",
          exit_code: 3,
          reason: "Error",
          labels: { "io.kubernetes.container.name": "ends" },
        },
      ]);
      expect(ofObject(events, ends)[3].containers_statuses.map((status: Message) => status.id)).toEqual([stays]);
      close();
    }
  });

  it("ends with UNAVAILABLE when the daemon stops", async () => {
    const client = await eventsOf();
    await node.daemon.stop();
    expect(await client.ended).toMatchObject({ code: grpcStatus.UNAVAILABLE });
    await node.daemon.launch();
  });
});

describe("the Stream* calls", () => {
  const all = async (method: string, request: Message, field: string): Promise<string[][]> => {
    const client = await listen(node.client.stream(method, request));
    expect(await client.ended).toMatchObject({ code: grpcStatus.OK });
    return client.events.map((message) => message[field].map((item: Message) => item.id ?? item.attributes.id));
  };

  it("send each item once, and nothing for an empty result", async () => {
    expect(await all("StreamPodSandboxes", {}, "pod_sandboxes")).toEqual([]);
    expect(await all("StreamContainers", {}, "containers")).toEqual([]);
    expect(await all("StreamContainerStats", {}, "container_stats")).toEqual([]);
    const pod = node.podConfig("lists");
    const podId = await node.runPod(pod);
    const ids = await Promise.all(
      ["a", "b", "c"].map((name) => node.run(podId, pod, node.containerConfig(name, ["/bin/sleep", "1000"]))),
    );
    expect(await all("StreamPodSandboxes", {}, "pod_sandboxes")).toEqual([[podId]]);
    for (const [method, field] of [
      ["StreamContainers", "containers"],
      ["StreamContainerStats", "container_stats"],
    ] as const) {
      const chunks = await all(method, {}, field);
      expect(chunks.flat().sort()).toEqual(ids.toSorted());
      const filter = { id: ids[0] };
      expect(await all(method, { filter }, field)).toEqual([[ids[0]]]);
      expect(await all(method, { filter: { id: "f".repeat(64) } }, field)).toEqual([]);
    }
    await node.removePod(podId);
  });
});

describe("the node's event log", () => {
  const proto = loadSync(join(import.meta.dirname, "../../proto/caisson/v1/node.proto"), {
    keepCase: true,
    longs: String,
    defaults: true,
  });
  const { caisson } = loadPackageDefinition(proto) as unknown as {
    caisson: { v1: { NodeService: new (address: string, c: object) => Message } };
  };
  const replay = (request: Message): Promise<Listener> => {
    const client = new caisson.v1.NodeService(`unix://${node.daemon.socket}`, credentials.createInsecure());
    const stream = client.Events(request);
    stream.once("close", () => client.close());
    return listen(stream);
  };

  it("is taken up where it was left after the daemon was killed, without gap or repeat", async () => {
    const first = await replay({ from_now: true });
    const pod = node.podConfig("resume");
    const podId = await node.runPod(pod);
    const id = await node.run(podId, pod, node.containerConfig("main", ["/bin/sh", "-c", "sleep 0.5; exit 4"]));
    await until(() => first.events.length === 5, "the beginning and four events");
    await node.daemon.kill("SIGKILL");
    await first.ended;
    await new Promise((resolve) => setTimeout(resolve, 700));
    await node.daemon.launch();
    const last = first.events.at(-1);
    const second = await replay({ after: last.sequence, log: last.log });
    await until(() => second.events.length === 2, "the exit that happened meanwhile");
    expect(second.events[1]).toMatchObject({
      missed: "0",
      event: { object_id: id, pod_sandbox_id: podId, kind: "stopped", detail: { exitCode: "4" } },
    });
    await node.removePod(podId);
    await until(() => second.events.length === 5, "the end of the pod");
    const numbers = [...first.events.slice(1), ...second.events.slice(1)].map((reply) => Number(reply.sequence));
    expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i));
    expect((await (await replay({ after: "1", log: "another" })).ended).code).toBe(grpcStatus.OUT_OF_RANGE);
    second.close();
  });
});
