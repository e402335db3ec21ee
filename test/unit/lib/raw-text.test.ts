import { describe, expect, it } from "vitest";
import { bytesOfText, textOfBytes } from "../../../src/lib/raw-text.ts";
import { WireReader, WireWriter } from "../../../src/lib/wire.ts";

const samples: readonly (readonly number[])[] = [
  [],
  [...Buffer.from("plain, äöü, 😀")],
  [0xff],
  [0xc3],
  [0xc3, 0x28],
  [0x61, 0x80, 0x62, 0xe2, 0x82, 0xac, 0xe2, 0x82],
  [0xed, 0xa0, 0x80, 0xed, 0xb2, 0x80],
  [0xf5, 0x80, 0x80, 0x80, 0xf0, 0x9f, 0x98, 0x80],
  Array.from({ length: 256 }, (_, byte) => byte),
];

describe("bytes as text", () => {
  it.each(samples.map((bytes) => [Buffer.from(bytes)]))("keep %o, through JSON as well", (bytes) => {
    const text = textOfBytes(bytes);
    expect(bytesOfText(text)).toEqual(bytes);
    expect(bytesOfText(JSON.parse(JSON.stringify(text)))).toEqual(bytes);
  });

  it("are what they look like where they are UTF-8", () => {
    expect(textOfBytes(Buffer.from("ä=😀"))).toBe("ä=😀");
  });

  it("leave other half pairs to be replaced", () => {
    expect(bytesOfText("a\ud800b")).toEqual(Buffer.from("a\ufffdb"));
  });

  it("are as long on the wire as they are", () => {
    const writer = new WireWriter();
    writer.str(textOfBytes(Buffer.from([0x61, 0xff, 0x62])));
    expect([...writer.finish()]).toEqual([3, 0, 0, 0, 0x61, 0xff, 0x62, 0]);
    expect(new WireReader(writer.finish()).str()).toBe("a\ufffdb");
  });
});
