/**
 * Makes a seccomp program short. The kernel converts, compiles and emulates a filter for every process that loads it, which for the
 * 1300 instructions that libseccomp writes for the default profile takes longer than all the rest of an exec's plan. What a call's
 * architecture and number alone decide becomes ranges of numbers with a search tree over them; what looks at arguments is kept as it was.
 */

interface Instruction {
  readonly code: number;
  /** Offsets from the next instruction. */
  readonly yes: number;
  readonly no: number;
  readonly k: number;
}

/** struct sock_filter. */
const instructionBytes = 8;
const load = 0x20; // BPF_LD | BPF_W | BPF_ABS
const always = 0x05; // BPF_JMP | BPF_JA
const ifEqual = 0x15;
const ifGreater = 0x25;
const ifAtLeast = 0x35;
const answer = 0x06; // BPF_RET | BPF_K
/** Offsets into struct seccomp_data. */
const numberAt = 0;
const architectureAt = 4;
const largest = 0xffff_ffff;
/** So that an offset within one tree, of 8 bits, always reaches. */
const mostRanges = 100;
/** Far beyond what a search tree takes, and milliseconds. */
const mostSteps = 200_000;

/** A value that is returned, or the place in the original program from which arguments decide. */
type Outcome = { readonly returns: number } | { readonly from: number };

interface Range {
  readonly first: number;
  readonly last: number;
  readonly outcome: Outcome;
}

/** The original program does something that is not understood here: it is kept. */
class NotUnderstood extends Error {}

/** An equal program, or the same one where nothing is gained. */
export function shrinkSeccompProgram(program: Buffer): Buffer {
  const original = decode(program);
  try {
    const short = encode(rewrite(original));
    return short.length < program.length ? short : program;
  } catch (error) {
    if (error instanceof NotUnderstood) return program;
    throw error;
  }
}

function rewrite(original: readonly Instruction[]): readonly Instruction[] {
  const survey = new Survey(original);
  const others = survey.ranges(undefined);
  // Looking at one architecture may bring up another.
  const blocks: [architecture: number, ranges: readonly Range[]][] = [];
  for (const architecture of survey.architectures) blocks.push([architecture, survey.ranges(architecture)]);

  const code: Instruction[] = [{ code: load, yes: 0, no: 0, k: architectureAt }];
  const open: { readonly at: number; readonly from: number }[] = [];
  const add = (ranges: readonly Range[]): void => {
    const block = blockOf(ranges);
    for (const { at, from } of block.open) open.push({ at: code.length + at, from });
    code.push(...block.code);
  };
  for (const [architecture, ranges] of blocks) {
    const at = code.push({ code: ifEqual, yes: 1, no: 0, k: architecture }, jumpTo(0));
    add(ranges);
    code[at - 1] = jumpTo(code.length - at);
  }
  add(others);
  return withOriginalParts(code, open, original);
}

/** What each number leads to, for one architecture, or for all that the program does not know. */
class Survey {
  readonly architectures = new Set<number>();
  readonly #program: readonly Instruction[];
  #steps = 0;

  constructor(program: readonly Instruction[]) {
    this.#program = program;
  }

  ranges(architecture: number | undefined): readonly Range[] {
    const found: Range[] = [];
    this.#follow(0, undefined, { first: 0, last: largest }, architecture, found);
    found.sort((a, b) => a.first - b.first);
    const merged: Range[] = [];
    for (const range of found) {
      const before = merged.at(-1);
      if (before !== undefined && same(before.outcome, range.outcome))
        merged[merged.length - 1] = { ...before, last: range.last };
      else merged.push(range);
    }
    return merged;
  }

  #follow(
    start: number,
    loaded: "number" | "architecture" | undefined,
    { first, last }: Omit<Range, "outcome">,
    architecture: number | undefined,
    found: Range[],
  ): void {
    let accumulator = loaded;
    for (let pc = start; ; ) {
      const { code, yes, no, k } = this.#at(pc);
      pc++;
      if (code === answer) {
        found.push({ first, last, outcome: { returns: k } });
        return;
      }
      if (code === load && k !== numberAt && k !== architectureAt) {
        // From here on only what is loaded now counts.
        found.push({ first, last, outcome: { from: pc - 1 } });
        return;
      }
      if (code === load) accumulator = k === numberAt ? "number" : "architecture";
      else if (code === always) pc += k;
      else if (accumulator === "architecture" && code === ifEqual) {
        this.architectures.add(k);
        pc += architecture === k ? yes : no;
      } else if (accumulator === "number") {
        for (const [part, taken] of split(code, k, first, last)) {
          if (part.first <= part.last) this.#follow(pc + (taken ? yes : no), accumulator, part, architecture, found);
        }
        return;
      } else throw new NotUnderstood();
    }
  }

  #at(pc: number): Instruction {
    const instruction = this.#program[pc];
    if (instruction === undefined || ++this.#steps > mostSteps) throw new NotUnderstood();
    return instruction;
  }
}

/** The numbers from `first` to `last`, by whether a comparison with `k` holds. Parts may be empty. */
function split(code: number, k: number, first: number, last: number): [part: Omit<Range, "outcome">, taken: boolean][] {
  const upTo = (end: number): Omit<Range, "outcome"> => ({ first, last: Math.min(last, end) });
  const from = (begin: number): Omit<Range, "outcome"> => ({ first: Math.max(first, begin), last });
  switch (code) {
    case ifEqual:
      return [
        [upTo(k - 1), false],
        [{ first: Math.max(first, k), last: Math.min(last, k) }, true],
        [from(k + 1), false],
      ];
    case ifGreater:
      return [
        [upTo(k), false],
        [from(k + 1), true],
      ];
    case ifAtLeast:
      return [
        [upTo(k - 1), false],
        [from(k), true],
      ];
    default:
      throw new NotUnderstood();
  }
}

function same(a: Outcome, b: Outcome): boolean {
  return "returns" in a ? "returns" in b && a.returns === b.returns : "from" in b && a.from === b.from;
}

/** Code with places that have to jump into the original program. */
interface Block {
  readonly code: readonly Instruction[];
  readonly open: readonly { readonly at: number; readonly from: number }[];
}

function blockOf(ranges: readonly Range[]): Block {
  const tree = treeOf(ranges);
  return {
    code: [{ code: load, yes: 0, no: 0, k: numberAt }, ...tree.code],
    open: tree.open.map(({ at, from }) => ({ at: at + 1, from })),
  };
}

function treeOf(ranges: readonly Range[]): Block {
  if (ranges.length <= mostRanges) return smallTreeOf(ranges);
  const middle = ranges.length >> 1;
  const low = treeOf(ranges.slice(0, middle));
  const high = treeOf(ranges.slice(middle));
  const pivot = ranges[middle]?.first ?? 0;
  return {
    code: [{ code: ifAtLeast, yes: 0, no: 1, k: pivot }, jumpTo(low.code.length), ...low.code, ...high.code],
    open: [
      ...low.open.map(({ at, from }) => ({ at: at + 2, from })),
      ...high.open.map(({ at, from }) => ({ at: at + 2 + low.code.length, from })),
    ],
  };
}

/** One comparison per border between ranges, and each outcome once behind them. */
function smallTreeOf(ranges: readonly Range[]): Block {
  const outcomes: Outcome[] = [];
  const leaf = ({ outcome }: Range): number => {
    const known = outcomes.findIndex((one) => same(one, outcome));
    return ranges.length - 1 + (known >= 0 ? known : outcomes.push(outcome) - 1);
  };
  const code: Instruction[] = [];
  /** Returns where the subtree begins. */
  const grow = (part: readonly Range[]): number => {
    const [only] = part;
    if (part.length === 1 && only !== undefined) return leaf(only);
    const at = code.push(jumpTo(0)) - 1;
    const middle = part.length >> 1;
    const no = grow(part.slice(0, middle)) - at - 1;
    const yes = grow(part.slice(middle)) - at - 1;
    code[at] = { code: ifAtLeast, yes, no, k: part[middle]?.first ?? 0 };
    return at;
  };
  grow(ranges);
  const open: { at: number; from: number }[] = [];
  for (const outcome of outcomes) {
    if ("from" in outcome) open.push({ at: code.length, from: outcome.from });
    code.push("returns" in outcome ? { code: answer, yes: 0, no: 0, k: outcome.returns } : jumpTo(0));
  }
  return { code, open };
}

/** Appends what is still needed of the original program, in its order: jumps go forward only, so they become shorter at most. */
function withOriginalParts(
  code: readonly Instruction[],
  open: readonly { readonly at: number; readonly from: number }[],
  original: readonly Instruction[],
): readonly Instruction[] {
  const needed = new Set(open.map(({ from }) => from));
  const at = (pc: number): Instruction => {
    const instruction = original[pc];
    if (instruction === undefined) throw new NotUnderstood();
    return instruction;
  };
  for (let pc = 0; pc < original.length; pc++) {
    if (needed.has(pc)) for (const next of successors(pc, at(pc))) needed.add(next);
  }
  const kept = [...needed].sort((a, b) => a - b);
  const moved = new Map(kept.map((pc, index) => [pc, code.length + index]));
  const offset = (here: number, target: number): number => (moved.get(target) ?? 0) - here - 1;
  const whole = [...code];
  for (const pc of kept) {
    const instruction = at(pc);
    const here = whole.length;
    const { yes, no, k } = instruction;
    if (instruction.code === always) whole.push(jumpTo(offset(here, pc + 1 + k)));
    else if (isBranch(instruction.code))
      whole.push({ ...instruction, yes: offset(here, pc + 1 + yes), no: offset(here, pc + 1 + no) });
    else whole.push(instruction);
  }
  for (const { at: place, from } of open) whole[place] = jumpTo(offset(place, from));
  return whole;
}

function successors(pc: number, { code, yes, no, k }: Instruction): readonly number[] {
  if (code === answer) return [];
  if (code === always) return [pc + 1 + k];
  return isBranch(code) ? [pc + 1 + yes, pc + 1 + no] : [pc + 1];
}

/** BPF_JMP, whatever the comparison. */
function isBranch(code: number): boolean {
  return (code & 0x07) === 0x05 && code !== always;
}

function jumpTo(offset: number): Instruction {
  return { code: always, yes: 0, no: 0, k: offset };
}

function decode(program: Buffer): readonly Instruction[] {
  return Array.from({ length: program.length / instructionBytes }, (_, index) => {
    const at = index * instructionBytes;
    return {
      code: program.readUInt16LE(at),
      yes: program.readUInt8(at + 2),
      no: program.readUInt8(at + 3),
      k: program.readUInt32LE(at + 4),
    };
  });
}

function encode(code: readonly Instruction[]): Buffer {
  const program = Buffer.alloc(code.length * instructionBytes);
  for (const [index, { code: operation, yes, no, k }] of code.entries()) {
    const at = index * instructionBytes;
    program.writeUInt16LE(operation, at);
    program.writeUInt8(yes, at + 2);
    program.writeUInt8(no, at + 3);
    program.writeUInt32LE(k, at + 4);
  }
  return program;
}
