import { describe, expect, it } from "vitest";
import { listPodSandbox } from "../../../src/cri/sandbox-list.ts";
import { streamPodSandboxes } from "../../../src/cri/sandbox-list-stream.ts";
import { roughBytes, sendChunks } from "../../../src/cri/stream-chunks.ts";
import { Container, ListPodSandboxRequest, StreamPodSandboxesRequest } from "../../../src/gen/cri/v1/api.ts";
import { ctx, FakeNode } from "./fake/fake-node.ts";

async function chunked<T>(items: readonly T[]): Promise<T[][]> {
  const sent: T[][] = [];
  await sendChunks(
    items,
    async (chunk: T[]) => {
      sent.push(chunk);
    },
    (chunk) => chunk,
  );
  return sent;
}

describe("a list in pieces", () => {
  it("sends nothing for an empty list", async () => {
    expect(await chunked([])).toEqual([]);
  });

  it("sends every item once, at most a thousand at a time", async () => {
    const items = Array.from({ length: 2500 }, (_, i) => i);
    const sent = await chunked(items);
    expect(sent.map((chunk) => chunk.length)).toEqual([1000, 1000, 500]);
    expect(sent.flat()).toEqual(items);
  });

  it("begins a new message where one would get too large, and sends what is too large alone", async () => {
    const text = (bytes: number): string => "é".repeat(bytes / 2);
    const sent = await chunked([text(600_000), text(600_000), text(300_000), text(5_000_000), "end"]);
    expect(sent.map((chunk) => chunk.map((item) => Buffer.byteLength(item)))).toEqual([
      [600_000],
      [600_000, 300_000],
      [5_000_000],
      [3],
    ]);
  });

  it("does not take a message for smaller than it is", () => {
    const container = Container.fromPartial({
      id: "a".repeat(64),
      createdAt: 1_795_432_109_123_456_789n,
      labels: { a: "é".repeat(100), b: "" },
      annotations: Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`key-${i}`, "v".repeat(i)])),
    });
    expect(roughBytes(container)).toBeGreaterThanOrEqual(Container.encode(container).finish().length);
  });

  it("waits for the stream, and ends when it does not go on", async () => {
    let sends = 0;
    const send = async (): Promise<void> => {
      if (++sends === 2) throw new Error("the client left");
    };
    await expect(sendChunks(Array.from({ length: 5000 }), send, () => ({}))).rejects.toThrow("the client left");
    expect(sends).toBe(2);
  });

  it("has what the list has", async () => {
    using node = new FakeNode();
    await node.open();
    await node.pod();
    await node.pod({ metadata: { name: "b", namespace: "default", uid: "u-2", attempt: 0 }, labels: { app: "b" } });
    const filter = { id: "", state: undefined, labelSelector: { app: "b" } };
    const { items } = await listPodSandbox(node.app, ctx(), ListPodSandboxRequest.fromPartial({ filter }));
    const sent: unknown[] = [];
    await streamPodSandboxes(node.app, ctx(), StreamPodSandboxesRequest.fromPartial({ filter }), async (message) => {
      sent.push(...message.podSandboxes);
    });
    expect(items).toHaveLength(1);
    expect(sent).toEqual(items);
  });
});
