import { expect, it } from "vitest";
import { encodeFrame, type Frame, FrameReader, frameType, mostDataBytes } from "../../../src/nri/frame.ts";

const read = (reader: FrameReader, ...chunks: Buffer[]): Frame[] => chunks.flatMap((chunk) => [...reader.push(chunk)]);

it("writes length, stream, type and flags ahead of the data, and reads them back", () => {
  const frame = encodeFrame(7, frameType.request, Buffer.from("abc"));
  expect(frame.toString("hex")).toBe("00000003000000070100616263");
  expect(read(new FrameReader(), frame)).toEqual([{ stream: 7, type: 1, flags: 0, data: Buffer.from("abc") }]);
});

it("puts frames together from pieces of any size and takes several out of one", () => {
  const bytes = Buffer.concat([1, 3, 5].map((stream) => encodeFrame(stream, 2, Buffer.alloc(stream * 100, stream))));
  for (const size of [1, 9, 11, 64, bytes.length]) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
    const frames = read(new FrameReader(), ...pieces);
    expect(frames.map(({ stream, data }) => [stream, data.length, data[0]])).toEqual([
      [1, 100, 1],
      [3, 300, 3],
      [5, 500, 5],
    ]);
  }
});

it("gives nothing of a frame that is cut off", () => {
  expect(read(new FrameReader(), encodeFrame(1, 1, Buffer.alloc(50)).subarray(0, -1))).toEqual([]);
});

it("refuses a frame that is too long as soon as its header is there, and does not write one", () => {
  const header = Buffer.alloc(10);
  header.writeUInt32BE(mostDataBytes + 1, 0);
  expect(() => read(new FrameReader(), header)).toThrow("is larger than 4194304");
  expect(() => encodeFrame(1, 1, Buffer.alloc(mostDataBytes + 1))).toThrow("is larger than 4194304");
});
