import { describe, expect, it } from "vitest";
import {
  dataHead,
  type Frame,
  FrameReader,
  goaway,
  mostControlBytes,
  mostDataBytes,
  ping,
  rstStream,
  synReply,
} from "../../../../src/streaming/spdy/frames.ts";

/** As it would come over the wire: 0x8003, type, flags, length, payload. */
function control(type: number, payload: Buffer, { flags = 0, length = payload.length, version = 3 } = {}): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt16BE(0x8000 | version, 0);
  head.writeUInt16BE(type, 2);
  head.writeUInt32BE(((flags << 24) | length) >>> 0, 4);
  return Buffer.concat([head, payload]);
}
const words = (...values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value >>> 0, i * 4);
  return bytes;
};
const read = (bytes: Buffer, pieceBytes = bytes.length): readonly Frame[] => {
  const reader = new FrameReader();
  const frames: Frame[] = [];
  for (let at = 0; at < bytes.length; at += Math.max(pieceBytes, 1))
    frames.push(...reader.read(bytes.subarray(at, at + pieceBytes)));
  return frames;
};
/** Pieces of data frames put together again. */
function whole(frames: readonly Frame[]): readonly Frame[] {
  const all: Frame[] = [];
  for (const frame of frames) {
    const last = all.at(-1);
    if (frame.type === "data" && last?.type === "data" && !last.fin && last.id === frame.id) {
      all.splice(-1, 1, { ...frame, payload: Buffer.concat([last.payload, frame.payload]) });
    } else all.push(frame);
  }
  return all;
}

const conversation = Buffer.concat([
  control(1, Buffer.concat([words(1, 0), Buffer.of(0, 0), Buffer.from("block")]), { flags: 1 }),
  dataHead(1, 5, false),
  Buffer.from("hello"),
  ping(7),
  dataHead(1, 0, true),
  rstStream(3, 5),
  control(4, words(1, 0x01000004, 65536)),
  control(8, Buffer.concat([words(1), Buffer.from("more")])),
  control(9, words(1, 0x8000_0010)),
  goaway(1, 0),
  synReply(1, Buffer.from("reply")),
]);
const expected = [
  { type: "syn-stream", id: 1, fin: true, block: Buffer.from("block") },
  { type: "data", id: 1, fin: false, payload: Buffer.from("hello") },
  { type: "ping", id: 7 },
  { type: "data", id: 1, fin: true, payload: Buffer.alloc(0) },
  { type: "rst-stream", id: 3, status: 5 },
  { type: "settings", entries: [{ id: 4, flags: 1, value: 65536 }] },
  { type: "headers", id: 1, fin: false, block: Buffer.from("more") },
  { type: "window-update", id: 1, delta: 16 },
  { type: "goaway", lastId: 1, status: 0 },
  { type: "syn-reply", id: 1, fin: false, block: Buffer.from("reply") },
];

describe("SPDY frames", () => {
  it.each([1, 2, 3, 7, 8, 9, 64, 100_000])("are cut out of pieces of %i bytes", (pieceBytes) => {
    expect(whole(read(conversation, pieceBytes))).toEqual(expected);
  });

  it("of data are passed on as they come, and never collected", () => {
    const reader = new FrameReader();
    expect([...reader.read(dataHead(5, mostDataBytes, true))]).toEqual([]);
    let bytes = 0;
    for (let left = mostDataBytes; left > 0; left -= 50_000) {
      const [piece, ...rest] = [...reader.read(Buffer.alloc(Math.min(left, 50_000)))];
      if (piece?.type !== "data") throw new Error("no data");
      bytes += piece.payload.length;
      expect(rest).toEqual([]);
      expect(piece.fin).toBe(bytes === mostDataBytes);
    }
    expect(bytes).toBe(mostDataBytes);
  });

  it("that are cut short are waited for", () => {
    for (let length = 0; length < conversation.length; length += 3) {
      const reader = new FrameReader();
      const some = [...reader.read(conversation.subarray(0, length))];
      const rest = [...reader.read(conversation.subarray(length))];
      expect(whole([...some, ...rest])).toEqual(expected);
    }
  });

  it.each([
    ["another version", control(6, words(1), { version: 2 }), /version 2/],
    ["NOOP", control(5, Buffer.alloc(0)), /type 5/],
    ["CREDENTIAL", control(10, Buffer.alloc(8)), /type 10/],
    ["an unknown type", control(0xffff, Buffer.alloc(8)), /type 65535/],
    ["a short SYN_STREAM", control(1, Buffer.alloc(9)), /fewer than 10/],
    ["a unidirectional stream", control(1, Buffer.alloc(12), { flags: 2 }), /unidirectional/],
    ["a short SYN_REPLY", control(2, Buffer.alloc(3)), /fewer than 4/],
    ["a short RST_STREAM", control(3, words(1)), /4 bytes, not 8/],
    ["a long RST_STREAM", control(3, words(1, 1, 1)), /12 bytes, not 8/],
    ["SETTINGS without a number", control(4, Buffer.alloc(2)), /fewer than 4/],
    ["SETTINGS with too few entries", control(4, words(2, 1, 1)), /12 bytes, not 20/],
    ["SETTINGS with too many", control(4, words(0xffff_ffff)), /entries/],
    ["PING 0", control(6, words(0)), /id 0/],
    ["a long PING", control(6, words(1, 1)), /8 bytes, not 4/],
    ["a short GOAWAY", control(7, words(1)), /4 bytes, not 8/],
    ["HEADERS without a stream", control(8, Buffer.alloc(1)), /fewer than 4/],
    ["a short WINDOW_UPDATE", control(9, words(1)), /4 bytes, not 8/],
    ["data for stream 0", dataHead(0, 5, false), /stream 0/],
    ["a huge control frame", control(1, Buffer.alloc(0), { length: mostControlBytes + 1 }), /65537 bytes/],
  ])("are refused: %s", (_what, bytes, reason) => {
    expect(() => read(Buffer.concat([ping(1), bytes]))).toThrow(reason);
  });

  it("keep nothing of a large chunk alive while they wait for the rest", () => {
    const reader = new FrameReader();
    const chunk = Buffer.concat([Buffer.alloc(0), ping(1), ping(3).subarray(0, 3)]);
    expect([...reader.read(chunk)]).toHaveLength(1);
    chunk.fill(0xff);
    expect([...reader.read(ping(3).subarray(3))]).toEqual([{ type: "ping", id: 3 }]);
  });
});
