import { describe, expect, it } from "vitest";
import { seccompRules } from "../../../../src/core/process/seccomp.ts";
import { defaultSeccompProfile } from "../../../../src/core/process/seccomp-default.ts";
import { shrinkSeccompProgram } from "../../../../src/core/process/seccomp-shrink.ts";
import { addon } from "../../../../src/native/addon.ts";
import { seccompAction, seccompArch, seccompCompare } from "../../../../src/native/constants.ts";
import type { SeccompRuleSet } from "../../../../src/native/types.ts";
import { runSeccompFilter } from "../../../helpers/seccomp-filter.ts";

const { allow, errno, killProcess, log, trap } = seccompAction;
const native = process.arch === "x64" ? seccompArch.x86_64 : seccompArch.aarch64;
/** Those of the machine, and one that no program knows. */
const architectures = [seccompArch.x86_64, seccompArch.x86, seccompArch.aarch64, 0x8000_0016];
const x32Bit = 0x4000_0000;
/** Both bounds of every range that a program can tell apart, all numbers that calls have, and the ends. */
const numbers = [
  ...Array.from({ length: 700 }, (_, nr) => nr),
  ...Array.from({ length: 700 }, (_, nr) => x32Bit + nr),
  ...[x32Bit - 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff],
];
const values = [0n, 1n, 2n, 8n, 0x26n, 0x27n, 0x28n, 0x29n, 0x2_0008n, 0x7e02_0000n, 0x1000_0000n, 0xffff_ffffn, 0x1_0000_0000n];
const argumentLists = [
  ...values.map((value) => [value, value, value, value, value, value]),
  ...values.map((value) => [0n, value, 1n, 0n, 0n, value]),
  [0xffff_ffff_ffff_ffffn, 0n, 0xffff_ffff_ffff_ffffn],
];

function expectEqual(short: Buffer, whole: Buffer): void {
  const different: object[] = [];
  for (const arch of architectures) {
    for (const nr of numbers) {
      // Arguments count for few calls: which, the trace tells.
      const plain = { nr, arch };
      const wanted = runSeccompFilter(whole, plain);
      if (runSeccompFilter(short, plain) !== wanted) different.push({ ...plain, wanted });
      if (!looksAtArguments(whole, plain) && !looksAtArguments(short, plain)) continue;
      for (const args of argumentLists) {
        const call = { nr, arch, args };
        if (runSeccompFilter(short, call) !== runSeccompFilter(whole, call)) different.push(call);
      }
    }
  }
  expect(different).toEqual([]);
}

function looksAtArguments(program: Buffer, call: { nr: number; arch: number }): boolean {
  const trace: number[] = [];
  runSeccompFilter(program, call, trace);
  return trace.some((pc) => program.readUInt16LE(pc * 8) === 0x20 && program.readUInt32LE(pc * 8 + 4) > 4);
}

async function compare(rules: SeccompRuleSet): Promise<{ whole: Buffer; short: Buffer }> {
  const whole = await addon.seccompCompile(rules);
  const short = shrinkSeccompProgram(whole);
  expectEqual(short, whole);
  return { whole, short };
}

describe("a shortened seccomp program", () => {
  it.each([
    ["no capability", []],
    ["CAP_SYS_ADMIN", ["CAP_SYS_ADMIN"]],
    ["many capabilities", ["CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYS_TIME", "CAP_BPF", "CAP_SYSLOG"]],
  ])("answers as the default profile does with %s, in a third of its length", async (_, capabilities) => {
    const { whole, short } = await compare(seccompRules(defaultSeccompProfile(capabilities, process.arch)));
    expect(short.length).toBeLessThan(whole.length / 3);
  });

  it("answers as profiles that forbid, and as those that know one architecture", async () => {
    const names = ["ptrace", "mount", "clone3", "read", "openat2", "socket"];
    for (const defaultAction of [allow, log, killProcess, errno | 38]) {
      const rules = names.map((syscall, at) => ({ syscall, action: at % 2 === 0 ? errno | (at + 1) : trap, args: [] }));
      await compare({ defaultAction, architectures: [], rules });
      await compare({ defaultAction, architectures: [native], rules });
    }
  });

  it("answers as chance profiles do", async () => {
    let state = 12345;
    const chance = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    const all = defaultSeccompProfile([], process.arch).syscalls?.flatMap(({ names }) => names) ?? [];
    const actions = [errno | 1, errno | 13, trap, log, killProcess, allow];
    for (let round = 0; round < 6; round++) {
      const defaultAction = actions[chance(actions.length)] ?? allow;
      const chosen = [...new Set(all)].filter(() => chance(3) > 0);
      const rules = chosen.map((syscall) => ({
        syscall,
        action: actions[chance(actions.length)] ?? allow,
        args: Array.from({ length: chance(4) === 0 ? 1 + chance(2) : 0 }, (_, index) => ({
          index: index * 5,
          op: [seccompCompare.eq, seccompCompare.maskedEq, seccompCompare.gt, seccompCompare.le][chance(4)] ?? 4,
          value: values[chance(values.length)] ?? 0n,
          valueTwo: values[chance(values.length)] ?? 0n,
        })),
      }));
      const fitting = rules.filter(({ action }) => action !== defaultAction);
      const archs = process.arch === "x64" ? [seccompArch.x86_64, seccompArch.x86, seccompArch.x32] : [];
      await compare({ defaultAction, architectures: archs, rules: fitting });
    }
  });

  it("is the same one when something in it is not understood", () => {
    const strange = Buffer.concat([instruction(0x20, 0, 0, 0), instruction(0x54, 0, 0, 1), instruction(0x15, 0, 1, 1)]);
    const program = Buffer.concat([strange, instruction(0x06, 0, 0, allow), instruction(0x06, 0, 0, errno)]);
    expect(shrinkSeccompProgram(program)).toBe(program);
  });
});

function instruction(code: number, yes: number, no: number, k: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt8(yes, 2);
  bytes.writeUInt8(no, 3);
  bytes.writeUInt32LE(k, 4);
  return bytes;
}
