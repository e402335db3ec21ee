/** ttrpc over the mux, both ends in this process. */
import { duplexPair } from "node:stream";
import { expect, it } from "vitest";
import { Request, Response } from "../../../src/gen/ttrpc/ttrpc.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { encodeFrame, FrameReader } from "../../../src/nri/frame.ts";
import { Mux } from "../../../src/nri/mux.ts";
import { RefusedCall, TtrpcClient } from "../../../src/nri/ttrpc-client.ts";
import { type Answer, TtrpcServer } from "../../../src/nri/ttrpc-server.ts";

function connection(methods: Record<string, Answer>) {
  const [here, there] = duplexPair();
  const ended: string[] = [];
  const close = (why: Error): void => {
    ended.push(why.message);
    client.close(why);
  };
  const ours = new Mux(here, close);
  const theirs = new Mux(there, () => {});
  const client: TtrpcClient = new TtrpcClient(ours.open(1, (bytes) => client.receive(bytes)));
  const server: TtrpcServer = new TtrpcServer(
    theirs.open(1, (bytes) => server.receive(bytes)),
    new Map(Object.entries(methods)),
  );
  return { client, theirs, there, ended };
}

it("carries calls and their answers, large ones too, at the same time", async () => {
  const { client } = connection({ "s/Echo": async (payload) => payload });
  const payloads = [Buffer.from("a"), Buffer.alloc(3 << 20, 7), Buffer.alloc(0)];
  const answers = await Promise.all(payloads.map((payload) => client.call("s", "Echo", payload, 5000)));
  expect(answers.map((answer, i) => answer.equals(payloads[i] ?? Buffer.from("?")))).toEqual([true, true, true]);
});

it("sends a message in two pieces, the first of 4096 bytes, as Go's peers can read them", () => {
  const [here, there] = duplexPair();
  const sizes: number[] = [];
  new Mux(there, () => {}).open(1, (bytes) => sizes.push(bytes.length));
  new Mux(here, () => {}).open(1, () => {})(Buffer.alloc(10_000));
  return new Promise<void>((resolve) => setImmediate(resolve)).then(() => expect(sizes).toEqual([4096, 5904]));
});

it("tells refusals apart from failures of the connection, and unknown methods are refused", async () => {
  const { client } = connection({
    "s/No": async () => {
      throw new RuntimeError("failed_precondition", "not today");
    },
  });
  const refused = await client.call("s", "No", Buffer.alloc(0), 5000).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(RefusedCall);
  expect(refused).toMatchObject({ code: "failed_precondition", message: "not today" });
  await expect(client.call("s", "Other", Buffer.alloc(0), 5000)).rejects.toMatchObject({ code: "unimplemented" });
});

it("gives up a call that is not answered in time, and all of them when the connection ends", async () => {
  const { client, there, ended } = connection({ "s/Never": () => new Promise(() => {}) });
  await expect(client.call("s", "Never", Buffer.alloc(0), 1)).rejects.toMatchObject({ code: "deadline_exceeded" });
  const waiting = client.call("s", "Never", Buffer.alloc(0), 60_000);
  waiting.catch(() => {});
  there.destroy();
  await expect(waiting).rejects.toThrow("closed the connection");
  await expect(client.call("s", "Never", Buffer.alloc(0), 1)).rejects.toThrow("closed the connection");
  expect(ended).toHaveLength(1);
});

const response = (stream: number, bytes: Uint8Array): Buffer => encodeFrame(stream, 2, bytes);

it("takes no response on a stream on which nothing was asked, twice, or of bytes that are none", () => {
  const sent: Buffer[] = [];
  const client = new TtrpcClient((frame) => sent.push(frame));
  const answer = Response.encode({ status: undefined, payload: Buffer.alloc(0) }).finish();
  expect(() => client.receive(response(1, answer))).toThrow("stream 1, on which nothing was asked");
  client.call("s", "m", Buffer.alloc(0), 60_000).catch(() => {});
  expect(() => client.receive(encodeFrame(1, 3, answer))).toThrow("type 3 where only responses come");
  client.receive(response(1, answer));
  expect(() => client.receive(response(1, answer))).toThrow("nothing was asked");
  client.call("s", "m", Buffer.alloc(0), 60_000).catch(() => {});
  expect(() => client.receive(response(3, Buffer.from([0x12, 0x7f, 1])))).toThrow("is malformed");
  client.close(new Error("done"));
});

it("takes no request on an even or former stream, none that opens a stream of data, and none that is no message", () => {
  const server = (): TtrpcServer => new TtrpcServer(() => {}, new Map());
  const request = Request.encode({ service: "s", method: "m", payload: Buffer.alloc(0), timeoutNano: 0n, metadata: [] }).finish();
  expect(() => server().receive(encodeFrame(2, 1, request))).toThrow("a request on stream 2");
  const used = server();
  used.receive(encodeFrame(5, 1, request));
  expect(() => used.receive(encodeFrame(3, 1, request))).toThrow("a request on stream 3 after 5");
  expect(() => server().receive(encodeFrame(1, 2, request))).toThrow("type 2 where only requests come");
  const streaming = encodeFrame(1, 1, request);
  streaming[9] = 2;
  expect(() => server().receive(streaming)).toThrow("a stream of data");
  expect(() => server().receive(encodeFrame(1, 1, Buffer.from([0x0a, 0x7f])))).toThrow("a request is malformed");
});

it("refuses more calls at the same time than it carries out", async () => {
  const replies: Response[] = [];
  const frames = new FrameReader();
  const server = new TtrpcServer(
    (bytes) => {
      for (const { data } of frames.push(bytes)) replies.push(Response.decode(data));
    },
    new Map([["s/Never", () => new Promise<Uint8Array>(() => {})]]),
  );
  const request = Request.encode({
    service: "s",
    method: "Never",
    payload: Buffer.alloc(0),
    timeoutNano: 0n,
    metadata: [],
  }).finish();
  for (let stream = 1; stream < 2 * 34; stream += 2) server.receive(encodeFrame(stream, 1, request));
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(replies.map(({ status }) => status?.code)).toEqual([8, 8]);
});

it("closes a mux on a piece that is too long and leaves out those of connections that nobody has opened", async () => {
  const [here, there] = duplexPair();
  const why = new Promise<Error>((resolve) => {
    new Mux(here, resolve).open(1, () => {});
  });
  there.write(Buffer.from([0, 0, 0, 9, 0, 0, 0, 2, 1, 2]));
  there.write(Buffer.from([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]));
  expect((await why).message).toContain("a piece of 4294967295 bytes");
});
