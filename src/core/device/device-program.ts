/**
 * BPF_PROG_TYPE_CGROUP_DEVICE program of a rule list, for cgroup v2. The kernel calls it with a context of three words:
 * access_type (low half: 1 block, 2 character; high half: 1 mknod, 2 read, 4 write), major, minor; 1 allows.
 */
import { type DeviceRule, effectiveRules } from "./device-rules.ts";

const bpf = {
  loadWord: 0x61, // BPF_LDX | BPF_MEM | BPF_W
  andImmediate: 0x54, // BPF_ALU | BPF_AND | BPF_K (32 bits)
  rightShift: 0x74, // BPF_ALU | BPF_RSH | BPF_K
  moveRegister: 0xbc, // BPF_ALU | BPF_MOV | BPF_X
  moveImmediate: 0xb7, // BPF_ALU64 | BPF_MOV | BPF_K
  jumpUnequal: 0x55, // BPF_JMP | BPF_JNE | BPF_K
  jumpUnequalRegister: 0x5d, // BPF_JMP | BPF_JNE | BPF_X
  exit: 0x95,
} as const;
const register = { result: 0, scratch: 1, kind: 2, access: 3, major: 4, minor: 5 } as const;
const kindNumber = { b: 1, c: 2 } as const;
const accessBits: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const instructionSize = 8;

interface Instruction {
  readonly code: number;
  readonly to: number;
  readonly from: number;
  readonly offset: number;
  readonly immediate: number;
}

/** struct bpf_insn[], little-endian. */
export function deviceProgram(rules: readonly DeviceRule[]): Buffer {
  const { allowAll, exceptions } = effectiveRules(rules);
  const program: Instruction[] = [
    load(register.kind, 0),
    { code: bpf.andImmediate, to: register.kind, from: 0, offset: 0, immediate: 0xffff },
    load(register.access, 0),
    { code: bpf.rightShift, to: register.access, from: 0, offset: 0, immediate: 16 },
    load(register.major, 4),
    load(register.minor, 8),
  ];
  // A later rule wins, so it is asked first.
  for (const rule of exceptions.toReversed()) program.push(...ruleBlock(rule));
  program.push(...verdict(allowAll));
  return assemble(program);
}

function ruleBlock(rule: DeviceRule): readonly Instruction[] {
  const mask = [...rule.access].reduce((bits, letter) => bits | (accessBits[letter] ?? 0), 0);
  const end = verdict(rule.allow);
  const tests: Instruction[] = [];
  if (rule.type !== "a") tests.push(unequal(register.kind, kindNumber[rule.type]));
  if (rule.access !== "rwm") tests.push(...(rule.allow ? subsetTest(mask) : overlapTest(mask)));
  if (rule.major !== null) tests.push(unequal(register.major, rule.major));
  if (rule.minor !== null) tests.push(unequal(register.minor, rule.minor));
  const length = tests.length + end.length;
  return [...tests.map((item, at) => (isJump(item) ? { ...item, offset: length - at - 1 } : item)), ...end];
}

/** An allow rule applies when everything that is asked for is in its mask. */
function subsetTest(mask: number): readonly Instruction[] {
  return [
    { code: bpf.moveRegister, to: register.scratch, from: register.access, offset: 0, immediate: 0 },
    { code: bpf.andImmediate, to: register.scratch, from: 0, offset: 0, immediate: mask },
    { code: bpf.jumpUnequalRegister, to: register.scratch, from: register.access, offset: 0, immediate: 0 },
  ];
}

/** A deny rule applies as soon as anything that is asked for is in its mask. */
function overlapTest(mask: number): readonly Instruction[] {
  return [
    { code: bpf.moveRegister, to: register.scratch, from: register.access, offset: 0, immediate: 0 },
    { code: bpf.andImmediate, to: register.scratch, from: 0, offset: 0, immediate: mask },
    { code: jumpEqual, to: register.scratch, from: 0, offset: 0, immediate: 0 },
  ];
}

const jumpEqual = 0x15; // BPF_JMP | BPF_JEQ | BPF_K

function isJump({ code }: Instruction): boolean {
  return code === bpf.jumpUnequal || code === bpf.jumpUnequalRegister || code === jumpEqual;
}

function unequal(to: number, immediate: number): Instruction {
  return { code: bpf.jumpUnequal, to, from: 0, offset: 0, immediate };
}

function load(to: number, offset: number): Instruction {
  return { code: bpf.loadWord, to, from: 1, offset, immediate: 0 };
}

function verdict(allow: boolean): readonly Instruction[] {
  return [
    { code: bpf.moveImmediate, to: register.result, from: 0, offset: 0, immediate: allow ? 1 : 0 },
    { code: bpf.exit, to: 0, from: 0, offset: 0, immediate: 0 },
  ];
}

function assemble(program: readonly Instruction[]): Buffer {
  const out = Buffer.alloc(program.length * instructionSize);
  for (const [at, item] of program.entries()) {
    const start = at * instructionSize;
    out.writeUInt8(item.code, start);
    out.writeUInt8((item.from << 4) | item.to, start + 1);
    out.writeInt16LE(item.offset, start + 2);
    out.writeInt32LE(item.immediate | 0, start + 4);
  }
  return out;
}
