import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkPages, readImage } from "../../../../src/core/criu/criu-images.ts";
import { PagemapEntry, PagemapHead } from "../../../../src/gen/criu/images.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-images-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

function image(name: string, ...messages: Uint8Array[]): string {
  const path = join(directory, name);
  const parts = messages.flatMap((message) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(message.length);
    return [length, message];
  });
  writeFileSync(path, Buffer.concat([Buffer.alloc(8, 1), ...parts]));
  return path;
}

describe("readImage", () => {
  it("reads messages behind their lengths", () => {
    expect(readImage(image("a.img", Buffer.from("one"), Buffer.from("two"))).map(String)).toEqual(["one", "two"]);
  });

  it("refuses one that ends early", () => {
    const path = image("a.img", Buffer.from("one"));
    writeFileSync(path, withoutEnd(path));
    expect(() => readImage(path)).toThrow("it ends in a message");
    writeFileSync(path, Buffer.alloc(10));
    expect(() => readImage(path)).toThrow("it ends in a length");
    writeFileSync(path, "short");
    expect(() => readImage(path)).toThrow("it is too short");
  });
});

describe("checkPages", () => {
  const pagemap = (flags: number) =>
    image(
      "pagemap-1.img",
      PagemapHead.encode({ pagesId: 7 }).finish(),
      PagemapEntry.encode({ vaddr: 1n, compatNrPages: 2, flags }).finish(),
      PagemapEntry.encode({ vaddr: 1n, compatNrPages: 1, flags: 1 }).finish(),
    );

  it("wants every page that is said to be there", () => {
    pagemap(4);
    writeFileSync(join(directory, "pages-7.img"), Buffer.alloc(8192));
    checkPages(directory);
    writeFileSync(join(directory, "pages-7.img"), Buffer.alloc(8191));
    expect(() => checkPages(directory)).toThrow("pages-7.img is damaged: it has 8191 bytes and should have 8192");
    rmSync(join(directory, "pages-7.img"));
    expect(() => checkPages(directory)).toThrow("it has 0 bytes");
  });
});

function withoutEnd(path: string): Buffer {
  const all = readFileSync(path);
  return all.subarray(0, all.length - 1);
}
