import { type Duplex, duplexPair } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { RuntimeError } from "../../../../src/lib/errors.ts";
import { SpdySession } from "../../../../src/streaming/spdy/session.ts";
import type { SpdyStream } from "../../../../src/streaming/spdy/stream.ts";
import { SpdyClient } from "../../../helpers/spdy-client.ts";

interface Peers {
  readonly client: SpdyClient;
  readonly wire: Duplex;
  readonly session: SpdySession;
  readonly streams: SpdyStream[];
  /** How the session ended: undefined, or what it threw. */
  readonly over: Promise<unknown>;
}

function meet(accepts: (type: string) => boolean = () => true): Peers {
  const [here, wire] = duplexPair();
  const streams: SpdyStream[] = [];
  const session = new SpdySession(here, {
    accepts: (headers) => accepts(headers.get("streamtype")?.[0] ?? ""),
    onStream: (stream) => streams.push(stream),
  });
  const over = session.run(Buffer.alloc(0)).then(
    () => undefined,
    (error: unknown) => error,
  );
  return { client: new SpdyClient(wire, Buffer.alloc(0), "test"), wire, session, streams, over };
}
const words = (...values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value >>> 0, i * 4);
  return bytes;
};
/** Deterministic: a failure can be had again. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("a SPDY session", () => {
  it("replies to a stream before it says anything on it", async () => {
    const { client, streams, over } = meet();
    const stream = await client.stream({ streamtype: "stdout" });
    await expect.poll(() => streams.length).toBe(1);
    streams[0]?.end("output");
    expect(await stream.ended()).toBe("output");
    expect(stream.lost).toBe(0);
    client.destroy();
    expect(await over).toBeUndefined();
  });

  it("refuses streams that nobody wants, that come twice, that go back in number or are the server's", async () => {
    const { client, streams } = meet((type) => type !== "unwanted");
    const statusOf = async (type: string, id?: number): Promise<number | undefined> => {
      const stream = await client.stream({ streamtype: type }, id);
      await stream.answered();
      return stream.reset;
    };
    expect(await statusOf("stdin", 5)).toBeUndefined();
    expect(await statusOf("unwanted", 7)).toBe(3);
    expect(await statusOf("late", 3)).toBe(1);
    expect(await statusOf("even", 8)).toBe(1);
    expect(await statusOf("fine", 9)).toBeUndefined();
    expect(streams.map(({ id }) => id)).toEqual([5, 9]);
    client.destroy();
  });

  it("ignores every attempt at flow control, right or wrong", async () => {
    const { client, streams } = meet();
    const stream = await client.stream({ streamtype: "stdout" });
    await stream.answered();
    for (const [id, delta] of [
      [1, 0],
      [1, 0x7fff_ffff],
      [1, 0x7fff_ffff],
      [0, 0x7fff_ffff],
      [77, 1],
    ] as const) {
      await client.sendControl(9, 0, words(id, delta));
    }
    await client.sendControl(4, 0, words(2, 7, 0, 7, 0xffff_ffff));
    // Far beyond the draft's first window, which this client never opens again.
    streams[0]?.end(Buffer.alloc(1 << 20));
    await stream.ended();
    expect(stream.received).toBe(1 << 20);
    client.destroy();
  });

  it("takes no more than its bound of what nobody reads, and all of it once somebody does", async () => {
    const { client, wire, streams } = meet();
    const stream = await client.stream({ streamtype: "stdin" });
    await stream.answered();
    for (let i = 0; i < 64; i++) stream.write(Buffer.alloc(64 << 10));
    stream.end();
    for (let i = 0; i < 50; i++) await turn();
    expect(streams[0]?.readableLength).toBeLessThan((256 + 128) << 10);
    expect(wire.writableLength).toBeGreaterThan(2 << 20);
    let bytes = 0;
    for await (const chunk of streams[0] ?? []) bytes += chunk.length;
    expect(bytes).toBe(64 << 16);
    client.destroy();
  });

  it("goes on reading when the unread stream is given up", async () => {
    const { client, streams } = meet();
    const stuck = await client.stream({ streamtype: "stdin" });
    const other = await client.stream({ streamtype: "other" });
    await other.answered();
    for (let i = 0; i < 16; i++) stuck.write(Buffer.alloc(64 << 10));
    other.end("still heard");
    for (let i = 0; i < 20; i++) await turn();
    streams[0]?.destroy();
    const heard: Buffer[] = [];
    for await (const chunk of streams[1] ?? []) heard.push(chunk);
    expect(Buffer.concat(heard).toString()).toBe("still heard");
    expect(stuck.reset).toBe(5);
    client.destroy();
  });

  it("answers data for streams that never were, and only drops it for those that have been", async () => {
    const { client, streams } = meet();
    const stream = await client.stream({ streamtype: "stdin" });
    await stream.answered();
    const never = await client.stream({ streamtype: "x" }, 9);
    await never.answered();
    never.reset = undefined;
    streams[0]?.destroy();
    stream.write("late");
    await client.ping(11);
    await expect.poll(() => client.pings).toEqual([11]);
    client.sendData(99, Buffer.from("nowhere"), false);
    await client.ping(13);
    await expect.poll(() => client.pings).toEqual([11, 13]);
    client.destroy();
  });

  it("echoes the client's pings and not the answers to its own", async () => {
    const { client } = meet();
    for (const id of [1, 2, 0xffff_ffff, 4]) await client.ping(id);
    await expect.poll(() => client.pings).toEqual([1, 0xffff_ffff]);
    client.destroy();
  });

  it.each([
    ["a reply to what it never asked", 2, words(1, 0)],
    ["an unknown control frame", 5, Buffer.alloc(0)],
    ["PING 0", 6, words(0)],
    ["a header block that is none", 1, Buffer.concat([words(1, 0), Buffer.alloc(20, 0xaa)])],
    ["a header block that is empty", 1, Buffer.concat([words(1, 0), Buffer.alloc(2)])],
    ["headers that are none", 8, Buffer.concat([words(1), Buffer.from("noise")])],
  ])("ends with GOAWAY at %s, and gives its streams up", async (_what, type, payload) => {
    const { client, streams, over } = meet();
    const stream = await client.stream({ streamtype: "stdin" });
    await stream.answered();
    await client.sendControl(type, 0, payload);
    expect(await over).toMatchObject({ code: "invalid_argument", message: expect.stringContaining("malformed SPDY") });
    await expect.poll(() => client.goaway).toEqual({ lastId: 1, status: 1 });
    expect(streams[0]?.destroyed).toBe(true);
  });

  it("has no more streams at once than its bound", async () => {
    const { client, streams } = meet();
    const all = [];
    for (let i = 0; i < 4097; i++) all.push(await client.stream({ streamtype: "x" }));
    await all.at(-1)?.answered();
    expect(all.at(-1)?.reset).toBe(3);
    expect(streams.length).toBe(4096);
    streams[0]?.destroy();
    const next = await client.stream({ streamtype: "x" });
    await next.answered();
    expect(next.reset).toBeUndefined();
    client.destroy();
  });

  it("gives up with the client, in the middle of anything", async () => {
    const { client, streams, over, session } = meet();
    const stream = await client.stream({ streamtype: "stdin" });
    await stream.answered();
    for (let i = 0; i < 16; i++) stream.write(Buffer.alloc(64 << 10));
    streams[0]?.write(Buffer.alloc(1 << 20));
    client.destroy();
    session.destroy();
    expect(await over).toBeUndefined();
    expect(streams[0]?.destroyed).toBe(true);
  });
});

describe("noise", () => {
  /** Frames of all kinds with a little wrong here and there. */
  async function misbehave(random: (below: number) => number, client: SpdyClient): Promise<void> {
    for (let i = 0; i < 40 && !client.socket.destroyed; i++) {
      const bytes = Buffer.from(Array.from({ length: random(40) }, () => random(256)));
      switch (random(8)) {
        case 0:
          await client.stream({ streamtype: ["stdin", "stdout", "x"][random(3)] ?? "", a: "b".repeat(random(100)) }, random(20));
          break;
        case 1:
          client.sendData(random(12), bytes, random(3) === 0);
          break;
        case 2:
          await client.sendControl(random(12), random(4), bytes);
          break;
        case 3:
          await client.sendControl(3, 0, words(random(12), random(12)));
          break;
        case 4:
          await client.sendControl(9, 0, words(random(12), random(2 ** 31)));
          break;
        case 5:
          await client.ping(random(2 ** 32));
          break;
        case 6:
          await client.sendControl(4, 0, words(1, random(2 ** 32), random(2 ** 32)));
          break;
        default:
          if (random(6) === 0 && !client.socket.writableEnded) client.socket.write(bytes);
      }
    }
  }

  it("ends a session in an orderly way or not at all, two hundred times", async () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = generator(seed);
      const { client, streams, over } = meet((type) => type !== "x");
      const reading = setInterval(() => {
        for (const stream of streams) {
          if (random(2) === 0) stream.resume();
          if (random(4) === 0 && stream.writable) stream.write("answer");
          if (random(8) === 0) stream.destroy();
        }
      }, 1);
      await misbehave(random, client).catch(() => {});
      client.socket.end();
      client.socket.destroy();
      const error = await over;
      clearInterval(reading);
      if (error !== undefined) expect(error, `seed ${seed}`).toBeInstanceOf(RuntimeError);
      for (const stream of streams) expect(stream.destroyed, `seed ${seed}`).toBe(true);
    }
  });
});
