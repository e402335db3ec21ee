import { mkdtempSync, rmSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ClientReadableStream, credentials, type ServiceError, status } from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { getContainerEvents } from "../../../src/cri/container-events.ts";
import {
  ContainerEventResponse,
  RuntimeServiceClient,
  type RuntimeServiceServer,
  RuntimeServiceService,
  type StreamContainersResponse,
} from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import type { Log } from "../../../src/lib/log.ts";
import { type GrpcServer, serveGrpc } from "../../../src/server/grpc-server.ts";
import { serverStream } from "../../../src/server/server-stream.ts";
import { withUnimplemented } from "../../../src/server/unary.ts";
import { FakeNode, until } from "../cri/fake/fake-node.ts";

let directory: string;
let path: string;
let server: GrpcServer;
let client: RuntimeServiceClient;
let node: FakeNode;
let ready: boolean;
let closing: AbortController;
let lines: string[];
let ended: unknown;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "caisson-stream-"));
  path = join(directory, "s");
  node = new FakeNode();
  await node.open();
  ready = true;
  closing = new AbortController();
  lines = [];
  ended = undefined;
  const log = Object.fromEntries(
    ["trace", "debug", "info", "warn", "error"].map((level) => [
      level,
      (_: object, text: string) => lines.push(`${level} ${text}`),
    ]),
  ) as unknown as Log;
  const gate = {
    log,
    closing: closing.signal,
    requireReady: () => {
      if (!ready) throw new RuntimeError("unavailable", "recovery has not finished");
    },
  };
  const table = withUnimplemented<RuntimeServiceServer>(RuntimeServiceService, gate, {
    getContainerEvents: serverStream("GetContainerEvents", gate, (context, request, send) => {
      const stream = getContainerEvents(node.app, context, request, send);
      stream.catch((error: unknown) => {
        ended = error;
      });
      return stream;
    }),
    streamContainers: serverStream("StreamContainers", gate, async (_context, { filter }, send) => {
      for (let i = 0; i < Number(filter?.id ?? 0); i++) await send({ containers: [] });
      if (filter?.podSandboxId === "fail") throw new RuntimeError("not_found", "it is gone");
    }),
  });
  server = await serveGrpc(path, [{ definition: RuntimeServiceService, implementation: table }], log);
  client = new RuntimeServiceClient(`unix:${path}`, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
});
afterEach(async () => {
  client.close();
  await server.close(1000);
  node[Symbol.dispose]();
  rmSync(directory, { recursive: true });
});

/** Reads to the end; the code is OK without an error. */
async function collect<T>(stream: ClientReadableStream<T>): Promise<{ messages: T[]; code: status; details: string }> {
  const messages: T[] = [];
  return await new Promise((resolve) => {
    stream.on("data", (message: T) => messages.push(message));
    stream.on("error", ({ code, details }: ServiceError) => resolve({ messages, code, details }));
    stream.on("end", () => resolve({ messages, code: status.OK, details: "" }));
  });
}

const list = (count: number, podSandboxId = ""): ClientReadableStream<StreamContainersResponse> =>
  client.streamContainers({ filter: { id: String(count), state: undefined, podSandboxId, labelSelector: {} } });
const open = async (): Promise<ClientReadableStream<ContainerEventResponse>> => {
  const stream = client.getContainerEvents({});
  stream.on("error", () => {});
  await new Promise((resolve) => stream.once("metadata", resolve));
  return stream;
};

/** A client that reads nothing until it is told to. One of grpc-js takes everything into its own memory. */
async function openUnread() {
  const session = connectHttp2("http://localhost", { createConnection: () => connect(path) });
  const stream = session.request({
    ":method": "POST",
    ":path": "/runtime.v1.RuntimeService/GetContainerEvents",
    "content-type": "application/grpc",
    te: "trailers",
  });
  stream.end(Buffer.alloc(5));
  await new Promise((resolve) => stream.once("response", resolve));
  const read = async (): Promise<{ ids: string[]; code: number; details: string }> => {
    const trailers = new Promise<Record<string, unknown>>((resolve) => stream.once("trailers", resolve));
    const bytes = Buffer.concat(await stream.toArray());
    const ids: string[] = [];
    for (let at = 0; at < bytes.length; at += 5 + bytes.readUInt32BE(at + 1)) {
      const message = bytes.subarray(at + 5, at + 5 + bytes.readUInt32BE(at + 1));
      ids.push(ContainerEventResponse.decode(message).containerId);
    }
    const { "grpc-status": code, "grpc-message": details } = await trailers;
    session.close();
    return { ids, code: Number(code), details: decodeURIComponent(String(details)) };
  };
  return { read };
}

describe("a stream", () => {
  it("ends at once when there is nothing to send", async () => {
    expect(await collect(list(0))).toEqual({ messages: [], code: status.OK, details: "" });
  });

  it("sends everything and then ends", async () => {
    const { messages, code } = await collect(list(200));
    expect([messages.length, code]).toEqual([200, status.OK]);
  });

  it("carries the verb's error behind what was sent", async () => {
    const { messages, code, details } = await collect(list(3, "fail"));
    expect([messages.length, code, details]).toEqual([3, status.NOT_FOUND, "it is gone"]);
  });

  it("is refused before recovery has finished", async () => {
    ready = false;
    expect(await collect(list(3))).toMatchObject({ messages: [], code: status.UNAVAILABLE });
  });

  it("tells its verb that the client has left", async () => {
    const stream = await open();
    stream.cancel();
    await until(() => ended !== undefined, "the verb ended");
    expect(ended).toMatchObject({ code: "canceled" });
  });

  it("ends with UNAVAILABLE when the daemon stops, and keeps nothing open", async () => {
    const stream = await open();
    const end = collect(stream);
    closing.abort();
    expect(await end).toMatchObject({ code: status.UNAVAILABLE, details: "caissond is stopping" });
    const began = performance.now();
    await server.close(5000);
    expect(performance.now() - began).toBeLessThan(4000);
  });

  it("that nobody reads is ended with RESOURCE_EXHAUSTED behind what had been sent, while another one gets everything", async () => {
    const slow = await openUnread();
    const quick = await open();
    const seen: ContainerEventResponse[] = [];
    quick.on("data", (event: ContainerEventResponse) => seen.push(event));
    const pod = await node.pod({ annotations: { weight: "x".repeat(1000) } });
    const count = 3000;
    for (let i = 0; i < count; i++) {
      node.app.events.emit("created", `c${i}`, pod);
      if (i % 100 === 0) await until(() => seen.length >= i - 200, `the quick client has ${i - 200}`);
    }
    await until(() => seen.length === count + 2, "the quick client has all");
    expect(ended).toMatchObject({ code: "resource_exhausted" });
    const { ids, code, details } = await slow.read();
    expect(code).toBe(status.RESOURCE_EXHAUSTED);
    expect(details).toContain("open the stream again");
    // What the connection's window takes, and a handful behind it.
    expect(ids.length).toBeGreaterThan(0);
    expect(ids.length).toBeLessThan(200);
    expect(ids).toEqual([pod, pod, ...Array.from({ length: ids.length - 2 }, (_, i) => `c${i}`)]);
    quick.cancel();
  });
});
