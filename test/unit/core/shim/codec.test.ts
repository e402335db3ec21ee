import { closeSync, openSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { decodeMessage, encodeMessage, headerBytes } from "../../../../src/core/shim/codec.ts";
import { inlineLimit } from "../../../../src/core/shim/messages.ts";
import { addon } from "../../../../src/native/addon.ts";
import { openDescriptors } from "../../../helpers/open-descriptors.ts";

const run = (size: number) => ({ cloneKinds: 0, deadlineMs: 1, plan: Buffer.alloc(size, 7) });

describe("packets of the shim's protocol", () => {
  it("come out as they went in", () => {
    const record = { id: "c1", pid: 4, status: 256, atNs: 1n << 60n, startedAtNs: 0n, oomKilled: 1, logDroppedBytes: 3n };
    const { bytes, fds } = encodeMessage("exit", 0, record);
    expect(fds).toEqual([]);
    expect(decodeMessage(bytes, [])).toEqual({ name: "exit", id: 0, record, fds: [] });
  });

  it("carry a large payload in a sealed memfd, before the other descriptors", () => {
    const before = openDescriptors();
    const null_ = openSync("/dev/null", "r");
    const { bytes, fds, memfd } = encodeMessage("run", 9, run(inlineLimit + 1), [null_]);
    expect(bytes.length).toBe(headerBytes);
    expect(bytes.readUInt16LE(2)).toBe(1);
    expect(fds).toEqual([memfd, null_]);
    expect(bytes.readUInt32LE(8)).toBe(readFileSync(`/proc/self/fd/${memfd}`).length);
    const message = decodeMessage(bytes, [...fds]); // takes the memfd
    expect(message).toMatchObject({ name: "run", id: 9, fds: [null_] });
    closeSync(null_);
    expect(openDescriptors()).toEqual(before);
  });

  it("are inline up to the limit", () => {
    const overhead = encodeMessage("run", 1, run(0)).bytes.length - headerBytes;
    expect(encodeMessage("run", 1, run(inlineLimit - overhead)).memfd).toBeUndefined();
    const { memfd } = encodeMessage("run", 1, run(inlineLimit - overhead + 1));
    expect(memfd).toBeDefined();
    addon.close(memfd ?? -1);
  });

  it("of an unknown type are told apart", () => {
    const { bytes } = encodeMessage("list", 5, {});
    bytes.writeUInt16LE(999, 0);
    expect(decodeMessage(bytes, [])).toEqual({ name: undefined, type: 999, id: 5, fds: [] });
  });

  it("are refused when short, long, or flagged with what we do not know", () => {
    const { bytes } = encodeMessage("barrier", 5, { pid: 1, number: 2 });
    expect(() => decodeMessage(bytes.subarray(0, 11), [])).toThrow(/no whole header/);
    expect(() => decodeMessage(bytes.subarray(0, -1), [])).toThrow(/announces 8 bytes and carries 7/);
    expect(() => decodeMessage(Buffer.concat([bytes, Buffer.alloc(1)]), [])).toThrow(/announces 8 bytes and carries 9/);
    const trailing = Buffer.concat([bytes, Buffer.alloc(4)]);
    trailing.writeUInt32LE(12, 8);
    expect(() => decodeMessage(trailing, [])).toThrow(/4 bytes too many/);
    const flagged = Buffer.from(bytes);
    flagged.writeUInt16LE(2, 2);
    expect(() => decodeMessage(flagged, [])).toThrow(/unknown flags/);
    const inMemfd = Buffer.from(bytes.subarray(0, headerBytes));
    inMemfd.writeUInt16LE(1, 2);
    expect(() => decodeMessage(inMemfd, [])).toThrow(/lacks the descriptor/);
  });
});
