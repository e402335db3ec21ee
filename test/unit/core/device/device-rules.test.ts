import { describe, expect, it } from "vitest";
import { deviceNodes } from "../../../../src/core/device/default-devices.ts";
import { deviceProgram } from "../../../../src/core/device/device-program.ts";
import { deviceRules, deviceWritesV1, effectiveRules } from "../../../../src/core/device/device-rules.ts";
import type { OciDeviceRule } from "../../../../src/core/oci.ts";

const denyAll: OciDeviceRule = { allow: false, access: "rwm" };
const allowAll: OciDeviceRule = { allow: true, type: "a", access: "rwm" };

/** Interprets the few instructions that the generator uses, as the kernel would. */
function decide(program: Buffer, kind: "b" | "c", major: number, minor: number, access: string): boolean {
  const bits = [...access].reduce((sum, letter) => sum | { m: 1, r: 2, w: 4 }[letter as "m" | "r" | "w"], 0);
  const context = [(bits << 16) | (kind === "b" ? 1 : 2), major, minor];
  const registers = Array<number>(11).fill(0);
  for (let at = 0; at * 8 < program.length; at++) {
    const code = program.readUInt8(at * 8);
    const to = program.readUInt8(at * 8 + 1) & 0xf;
    const from = program.readUInt8(at * 8 + 1) >> 4;
    const offset = program.readInt16LE(at * 8 + 2);
    const value = program.readInt32LE(at * 8 + 4);
    const left = registers[to] ?? 0;
    if (code === 0x61) registers[to] = context[offset / 4] ?? 0;
    else if (code === 0x54) registers[to] = left & value;
    else if (code === 0x74) registers[to] = left >>> value;
    else if (code === 0xbc) registers[to] = registers[from] ?? 0;
    else if (code === 0xb7) registers[to] = value;
    else if (code === 0x55) at += left !== value ? offset : 0;
    else if (code === 0x15) at += left === value ? offset : 0;
    else if (code === 0x5d) at += left !== registers[from] ? offset : 0;
    else if (code === 0x95) return registers[0] === 1;
    else throw new Error(`instruction ${code.toString(16)} is not known`);
  }
  throw new Error("the program ran off its end");
}

describe("device rules", () => {
  it("deny what nobody allowed, but let any node be made", () => {
    const program = deviceProgram(deviceRules([denyAll]));
    expect(decide(program, "c", 1, 3, "rw")).toBe(true);
    expect(decide(program, "c", 136, 77, "rw")).toBe(true);
    expect(decide(program, "c", 1, 11, "r")).toBe(false);
    expect(decide(program, "b", 8, 0, "r")).toBe(false);
    expect(decide(program, "b", 8, 0, "m")).toBe(true);
    expect(decide(program, "b", 8, 0, "rm")).toBe(false);
  });

  it("give exactly the access that was asked for", () => {
    const program = deviceProgram(deviceRules([denyAll, { allow: true, type: "b", major: 8, minor: 1, access: "r" }]));
    expect(decide(program, "b", 8, 1, "r")).toBe(true);
    expect(decide(program, "b", 8, 1, "w")).toBe(false);
    expect(decide(program, "b", 8, 1, "rw")).toBe(false);
    expect(decide(program, "b", 8, 2, "r")).toBe(false);
    expect(decide(program, "c", 8, 1, "r")).toBe(false);
  });

  it("let a later rule win", () => {
    const rules = [allowAll, { allow: false, type: "c", major: 1, minor: 11, access: "w" } as const];
    const program = deviceProgram(deviceRules(rules));
    expect(decide(program, "c", 1, 11, "w")).toBe(false);
    expect(decide(program, "c", 1, 11, "rw")).toBe(false);
    expect(decide(program, "c", 1, 11, "r")).toBe(true);
    expect(decide(program, "b", 253, 0, "rw")).toBe(true);
  });

  it("allow everything for privileged containers with a program of one verdict", () => {
    const rules = deviceRules([denyAll, allowAll]);
    expect(effectiveRules(rules)).toEqual({ allowAll: true, exceptions: [] });
    expect(decide(deviceProgram(rules), "b", 8, 0, "rwm")).toBe(true);
  });

  it("become lines for v1, the default first", () => {
    const writes = deviceWritesV1(deviceRules([denyAll, { allow: true, type: "b", major: 8, access: "mr" }]));
    expect(writes[0]).toEqual({ file: "devices.deny", value: "a" });
    expect(writes[1]).toEqual({ file: "devices.allow", value: "b 8:* rm" });
    expect(writes).toContainEqual({ file: "devices.allow", value: "c *:* m" });
    expect(deviceWritesV1(deviceRules([allowAll]))).toEqual([{ file: "devices.allow", value: "a" }]);
  });

  it("name both kinds where v1 has no line for them", () => {
    const writes = deviceWritesV1(deviceRules([denyAll, { allow: true, type: "a", major: 10, minor: 1, access: "rw" }]));
    expect(writes.slice(1, 3).map(({ value }) => value)).toEqual(["b 10:1 rw", "c 10:1 rw"]);
  });

  it("take a negative number for every number", () => {
    expect(deviceRules([{ allow: true, type: "c", major: -1, minor: -1, access: "r" }])[0]).toMatchObject({
      major: null,
      minor: null,
    });
  });

  it("refuse access letters that do not exist", () => {
    expect(() => deviceRules([{ allow: true, access: "rx" }])).toThrow(/may only contain r, w and m/);
  });
});

describe("device nodes", () => {
  it("are the six that every container has", () => {
    expect(deviceNodes([]).map(({ path }) => path)).toEqual([
      "/dev/null",
      "/dev/zero",
      "/dev/full",
      "/dev/random",
      "/dev/urandom",
      "/dev/tty",
    ]);
  });

  it("are replaced by asked ones of the same path, but never /dev/ptmx", () => {
    const nodes = deviceNodes([
      { type: "c", path: "/dev/null", major: 1, minor: 5, fileMode: 0o600, uid: 7 },
      { type: "b", path: "/dev/sda", major: 8, minor: 0 },
      { type: "c", path: "/dev/ptmx", major: 5, minor: 2 },
    ]);
    expect(nodes).toHaveLength(7);
    expect(nodes[0]).toEqual({ path: "/dev/null", mode: 0o020600, major: 1, minor: 5, uid: 7, gid: 0 });
    expect(nodes.at(-1)).toMatchObject({ path: "/dev/sda", mode: 0o060666 });
  });
});
