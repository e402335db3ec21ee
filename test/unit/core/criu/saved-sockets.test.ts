import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { decodeImage, encodeImage, readImage } from "../../../../src/core/criu/criu-images.ts";
import { portsOf } from "../../../../src/core/criu/live-connections.ts";
import { fittedSockets, savedPorts, wordsOf } from "../../../../src/core/criu/saved-sockets.ts";
import { FileEntry, FileType } from "../../../../src/gen/criu/images.ts";

let top: string;
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "caisson-sockets-"));
});
afterEach(() => rmSync(top, { recursive: true }));

const mapped = (address: string) => [0, 0, 0xffff_0000, ...wordsOf(address)];
const isk = (src: readonly number[], srcPort: number, dst: readonly number[], dstPort: number) => ({
  family: src.length === 1 ? 2 : 10,
  proto: 6,
  state: dstPort === 0 ? 10 : 1,
  srcPort,
  dstPort,
  srcAddr: [...src],
  dstAddr: [...dst],
});
/** With a field behind it that we know nothing of. */
function images(name: string, ...sockets: ReturnType<typeof isk>[]): string {
  const directory = join(top, name);
  mkdirSync(directory);
  const path = join(directory, "files.img");
  writeFileSync(path, Buffer.alloc(8, 1));
  const messages = sockets.map((socket, id) =>
    Buffer.concat([
      FileEntry.encode(FileEntry.fromPartial({ type: FileType.INETSK, id, isk: socket })).finish(),
      new BinaryWriter()
        .uint32((99 << 3) | 2)
        .string("kept")
        .finish(),
    ]),
  );
  writeFileSync(path, encodeImage(path, messages));
  return directory;
}
function fitted(directory: string, ...place: Parameters<typeof fittedSockets>[1]["directories"]) {
  const bytes = fittedSockets(directory, { directories: place, addresses: new Map([["10.0.0.2", "10.0.0.9"]]) });
  if (bytes === undefined) return undefined;
  const path = join(top, "result.img");
  writeFileSync(path, bytes);
  for (const message of readImage(path)) expect(message.includes("kept")).toBe(true);
  return decodeImage(path, FileEntry).map((entry) => entry.isk);
}

describe("connections of a checkpoint", () => {
  const one = wordsOf("10.0.0.2");
  const local = wordsOf("127.0.0.1");

  it("stay when both ends are restored, under the pod's new address", () => {
    const server = images("server", isk(mapped("10.0.0.2"), 80, mapped("10.0.0.2"), 4000), isk(one, 80, [0], 0));
    const client = images("client", isk(one, 4000, one, 80));
    const next = wordsOf("10.0.0.9");
    expect(fitted(server, server, client)).toMatchObject([
      { srcAddr: mapped("10.0.0.9"), dstAddr: mapped("10.0.0.9"), srcPort: 80, dstPort: 4000, state: 1, proto: 6 },
      { srcAddr: next, srcPort: 80, state: 10 },
    ]);
    expect(fitted(client, server, client)).toMatchObject([{ srcAddr: next, dstAddr: next, state: 1 }]);
    expect(savedPorts([server, client]).toString("hex")).toBe("00500fa00fa00050");
  });

  it("are closed when the other end is not", () => {
    const alone = images("alone", isk(local, 4000, local, 80), isk(one, 4001, wordsOf("192.0.2.1"), 443));
    expect(fitted(alone, alone)).toMatchObject([
      { srcPort: 0, dstPort: 0, state: 7 },
      { srcPort: 0, dstPort: 0, state: 7 },
    ]);
    expect(savedPorts([alone])).toHaveLength(0);
  });

  it("need no other image where nothing changes", () => {
    const both = images("both", isk(local, 4000, local, 80), isk(local, 80, local, 4000), isk(local, 80, [0], 0));
    expect(fitted(both, both)).toBe(undefined);
  });

  it("are refused where the image is damaged or missing", () => {
    expect(() => fitted(join(top, "none"), join(top, "none"))).toThrow("files.img is damaged: it is missing");
    const bad = images("bad", isk(local, 1, local, 2));
    writeFileSync(join(bad, "files.img"), encodeImage(join(bad, "files.img"), [Buffer.from([0x22, 0x7f])]));
    expect(() => fitted(bad, bad)).toThrow("files.img is damaged");
  });
});

describe("wordsOf", () => {
  it("has addresses as the kernel keeps them", () => {
    expect(wordsOf("127.0.0.1")).toEqual([0x0100007f]);
    expect(wordsOf("fd00::1:2")).toEqual([0x000000fd, 0, 0, 0x02000100]);
    expect(wordsOf("::1")).toEqual([0, 0, 0, 0x01000000]);
  });
});

describe("portsOf", () => {
  const line = (local: string, remote: string, state: string) =>
    `   0: ${local} ${remote} ${state} 00000000:00000000 00:00000000`;
  const head = "  sl  local_address rem_address   st";

  it("finds connections of which both ends are here, of IPv4 and in IPv6's disguise", () => {
    const four = [head, line("0100007F:9A9E", "0100007F:2328", "01"), line("0200000A:0001", "09090909:0050", "01")];
    const six = [head, line("0000000000000000FFFF00000100007F:2328", "0000000000000000FFFF00000100007F:9A9E", "08")];
    expect(portsOf(four.join("\n"), six.join("\n")).toString("hex")).toBe("9a9e232823289a9e");
    expect(portsOf(four.join("\n"), head)).toHaveLength(0);
  });
});
