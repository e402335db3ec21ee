import { constants, createDeflate, type Deflate } from "node:zlib";
import { afterEach, describe, expect, it } from "vitest";
import { spdyDictionary } from "../../../../src/streaming/spdy/dictionary.ts";
import {
  decodeHeaders,
  encodeHeaders,
  HeaderCompressor,
  HeaderDecompressor,
} from "../../../../src/streaming/spdy/header-blocks.ts";

const number = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([number(value.length), Buffer.from(value, "latin1")]);
const block = (...pairs: readonly (readonly [string, string])[]): Buffer =>
  Buffer.concat([number(pairs.length), ...pairs.flatMap((pair) => pair.map(text))]);
const headers = new Map([
  ["streamtype", ["stdin"]],
  ["port", ["80", "81"]],
]);

const open: Disposable[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each[Symbol.dispose]();
});
const opened = <T extends Disposable>(codec: T): T => {
  open.push(codec);
  return codec;
};
const flushed = async (deflate: Deflate, bytes: Buffer): Promise<Buffer> => {
  const parts: Buffer[] = [];
  deflate.on("data", (part) => parts.push(part));
  deflate.write(bytes);
  await new Promise<void>((resolve) => deflate.flush(constants.Z_SYNC_FLUSH, () => resolve()));
  return Buffer.concat(parts);
};

describe("header blocks", () => {
  it("are names and values, several values apart by NUL", () => {
    expect(decodeHeaders(block(["streamtype", "stdin"], ["port", "80\x0081"]))).toEqual(headers);
    expect(decodeHeaders(encodeHeaders(headers))).toEqual(headers);
    expect(decodeHeaders(number(0))).toEqual(new Map());
  });

  it.each<readonly [string, Buffer]>([
    ["nothing", Buffer.alloc(0)],
    ["half a number", Buffer.alloc(3)],
    ["too few pairs", Buffer.concat([number(2), text("a"), text("b")])],
    ["a number of pairs beyond reason", number(0xffff_ffff)],
    ["a name longer than the block", Buffer.concat([number(1), number(0xffff_ffff), Buffer.from("a")])],
    ["a value that ends early", Buffer.concat([number(1), text("a"), number(5), Buffer.from("four")])],
    ["bytes behind it", Buffer.concat([block(["a", "b"]), Buffer.of(0)])],
    ["an empty name", block(["", "b"])],
    ["capitals", block(["StreamType", "stdin"])],
    ["a name twice", block(["a", "b"], ["a", "c"])],
    ...["connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"].map(
      (name) => [name, block([name, "x"])] as const,
    ),
  ])("are refused with %s", (_what, bytes) => {
    expect(() => decodeHeaders(bytes)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });

  it("of one direction are one zlib stream, flushed behind each", async () => {
    const [compressor, decompressor] = [opened(new HeaderCompressor()), opened(new HeaderDecompressor())];
    const first = await compressor.compress(headers);
    const second = await compressor.compress(headers);
    // What came before is known: the same again is short.
    expect(second.length).toBeLessThan(first.length);
    expect(await decompressor.decompress(first)).toEqual(headers);
    expect(await decompressor.decompress(second)).toEqual(headers);
    await expect(opened(new HeaderDecompressor()).decompress(second)).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("that stand for much more than they are end their connection, and cost little", async () => {
    const bomb = await flushed(createDeflate({ dictionary: spdyDictionary, level: 9 }), Buffer.alloc(48 << 20));
    expect(bomb.length).toBeLessThan(64 << 10);
    const before = process.memoryUsage();
    const decompressor = opened(new HeaderDecompressor());
    await expect(decompressor.decompress(bomb)).rejects.toThrow(/more than 262144 bytes/);
    const { external, arrayBuffers } = process.memoryUsage();
    expect(external + arrayBuffers - before.external - before.arrayBuffers).toBeLessThan(8 << 20);
    await expect(decompressor.decompress(bomb)).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("of a foreign dictionary, cut short, or of noise are refused", async () => {
    const plain = block(["streamtype", "stdin"]);
    const good = await flushed(createDeflate({ dictionary: spdyDictionary }), plain);
    const wrong = [
      await flushed(createDeflate({ dictionary: Buffer.from("another") }), plain),
      good.subarray(0, good.length / 2),
      good.subarray(3),
      Buffer.from(Array.from({ length: 100 }, (_, i) => (i * 37) % 256)),
      Buffer.alloc(0),
    ];
    for (const bytes of wrong) {
      await expect(opened(new HeaderDecompressor()).decompress(bytes)).rejects.toMatchObject({ code: "invalid_argument" });
    }
  });

  it("end with their connection, also those under way", async () => {
    const decompressor = new HeaderDecompressor();
    const waiting = decompressor.decompress(Buffer.alloc(0));
    decompressor[Symbol.dispose]();
    await expect(waiting).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(decompressor.decompress(Buffer.alloc(0))).rejects.toThrow(/has ended/);
  });
});
