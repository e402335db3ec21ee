/**
 * Requests as an enemy would write them, made from the descriptor: a good message is taken apart into its fields on the wire, some
 * are bent or broken, and it is put together again. The same seed gives the same bytes.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";

/** Mulberry32: small, and good enough to choose. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 <= result < below */
  roll(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.roll(from.length)] as T;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.roll(256)));
  }
}

interface Node {
  readonly number: number;
  /** `raw`: the value is what goes out, whatever it is. */
  wireType: number;
  value: bigint | Buffer | Node[];
  readonly field: DescField | undefined;
}

const extremes = [0n, 1n, -1n, 2n ** 31n - 1n, -(2n ** 31n), 2n ** 31n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)];

/** What breaks programs; no path in it exists, so that what is accepted all the same does nothing to the machine. */
const texts: readonly Buffer[] = [
  "",
  " ",
  "\0",
  "a\0b",
  ".",
  "..",
  "../../x",
  "/",
  "//",
  "/..",
  "/nowhere\0/x",
  "/nowhere/../../x",
  "line\nbreak",
  "\r\n\t\u001b[2J",
  "%s%n%x",
  "$(id)",
  "-1",
  "--help",
  "=x",
  "a=b=c",
  "__proto__",
  "constructor",
  "toString",
  "null",
  "1e400",
  "18446744073709551616",
  "\u202eabc",
  "\ufffd",
  "\u{1f4a3}".repeat(80),
  "x".repeat(300),
  "/x".repeat(2500),
  "y".repeat(70_000),
].map((text) => Buffer.from(text));
const noText: readonly Buffer[] = [[0xff, 0xfe], [0xc3], [0xed, 0xa0, 0x80], [0x61, 0x80, 0x62], [0xf5, 0x80, 0x80, 0x80]].map(
  (bytes) => Buffer.from(bytes),
);

export function varint(value: bigint): Buffer {
  const bytes: number[] = [];
  let left = BigInt.asUintN(64, value);
  for (; left >= 0x80n; left >>= 7n) bytes.push(Number(left & 0x7fn) | 0x80);
  return Buffer.from([...bytes, Number(left)]);
}

const tag = (number: number, wireType: number): Buffer => varint((BigInt(number) << 3n) | BigInt(wireType));
const delimited = (number: number, content: Buffer): Buffer =>
  Buffer.concat([tag(number, 2), varint(BigInt(content.length)), content]);

const raw = -1;

function encode(nodes: readonly Node[]): Buffer {
  return Buffer.concat(
    nodes.map(({ number, wireType, value }) => {
      if (typeof value === "bigint") return Buffer.concat([tag(number, wireType), varint(value)]);
      if (Buffer.isBuffer(value) && wireType === raw) return value;
      if (Buffer.isBuffer(value))
        return wireType === 2 ? delimited(number, value) : Buffer.concat([tag(number, wireType), value]);
      return delimited(number, encode(value));
    }),
  );
}

const innerMessage = (field: DescField | undefined): DescMessage | undefined =>
  field === undefined || field.fieldKind === "map" ? undefined : field.message;

/** Takes a well-formed message apart. */
function decode(bytes: Buffer, type: DescMessage | undefined): Node[] {
  const nodes: Node[] = [];
  let at = 0;
  const read = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const head = Number(read());
    const [number, wireType] = [head >>> 3, head & 7];
    const field = type?.fields.find((candidate) => candidate.number === number);
    if (wireType === 0) {
      nodes.push({ number, wireType, value: read(), field });
      continue;
    }
    const length = wireType === 2 ? Number(read()) : wireType === 1 ? 8 : 4;
    const content = bytes.subarray(at, at + length);
    at += length;
    const inner = innerMessage(field);
    nodes.push({ number, wireType, value: inner === undefined ? content : decode(content, inner), field });
  }
  return nodes;
}

/** A message of this type with any fields, each with any value that fits its type. */
function invent(type: DescMessage, dice: Dice, depth = 0): Node[] {
  return type.fields.flatMap((field) => (dice.roll(3) === 0 ? [inventField(field, dice, depth)] : []));
}

function inventField(field: DescField, dice: Dice, depth: number): Node {
  const inner = innerMessage(field);
  const { number } = field;
  if (inner !== undefined) return { number, wireType: 2, field, value: depth > 6 ? [] : invent(inner, dice, depth + 1) };
  if (field.fieldKind === "map") {
    const entry = Buffer.concat([delimited(1, dice.pick(texts)), delimited(2, dice.pick(texts))]);
    return { number, wireType: 2, field, value: entry };
  }
  if ([ScalarType.STRING, ScalarType.BYTES].includes(field.scalar as ScalarType)) {
    return { number, wireType: 2, field, value: dice.pick(texts) };
  }
  if (field.fieldKind === "list") return { number, wireType: 2, field, value: varint(dice.pick(extremes)) };
  return { number, wireType: 0, field, value: dice.pick(extremes) };
}

/** All lists of fields in a message, its own first. */
function listsOf(nodes: Node[]): Node[][] {
  return [nodes, ...nodes.flatMap((node) => (Array.isArray(node.value) ? listsOf(node.value) : []))];
}

/** Deep enough for any decoder that calls itself. */
function nested(depth: number, number: number): Buffer {
  let content: Buffer = Buffer.alloc(0);
  for (let i = 0; i < depth; i++) content = delimited(number, content);
  return content;
}

/** Changes one thing in one message; the result may still be a good one. */
function bend(list: Node[], type: DescMessage, dice: Dice): void {
  const at = dice.roll(Math.max(1, list.length));
  const node = list[at];
  const number = 1 + dice.roll(40);
  const add = (...bytes: Buffer[]): void => {
    list.splice(at, 0, { number, wireType: raw, value: Buffer.concat(bytes), field: undefined });
  };
  switch (dice.roll(14)) {
    case 0:
      if (list.length > 0) list.splice(at, 1);
      return;
    case 1:
      if (node !== undefined) list.push(...Array.from({ length: 1 + dice.roll(60) }, () => ({ ...node })));
      return;
    case 2:
      if (node === undefined) return;
      node.value = Array.isArray(node.value) ? [] : typeof node.value === "bigint" ? dice.pick(extremes) : dice.pick(noText);
      return;
    case 3:
      add(tag(node?.number ?? 1, dice.pick([0, 1, 2, 5])), dice.bytes(8));
      return;
    case 4: // a length that lies
      add(tag(number, 2), dice.pick([varint(2n ** 32n - 1n), varint(2n ** 63n), varint(5000n), Buffer.alloc(12, 0xff)]));
      return;
    case 5: // groups, their ends, and wire types that do not exist
      add(tag(number, dice.pick([3, 4, 6, 7])), dice.bytes(3));
      return;
    case 6:
      add(nested(dice.pick([50, 150, 3000]), number));
      return;
    case 7:
      add(delimited(dice.pick([0, 19_000, 2 ** 28]), dice.bytes(20)));
      return;
    case 8: {
      // Each empty element is two bytes here and some hundred once it is an object.
      const field = type.fields.length > 0 ? dice.pick(type.fields).number : 1;
      add(Buffer.concat(Array<Buffer>(dice.roll(20) === 0 ? 150_000 : 1000).fill(delimited(field, Buffer.alloc(0)))));
      return;
    }
    default: {
      if (type.fields.length === 0) return;
      const scalars = list.filter((candidate) => !Array.isArray(candidate.value));
      const victim = dice.roll(3) > 0 && scalars.length > 0 ? dice.pick(scalars) : undefined;
      if (victim === undefined) list.push(inventField(dice.pick(type.fields), dice, 3));
      else victim.value = typeof victim.value === "bigint" ? dice.pick(extremes) : dice.pick(texts);
    }
  }
}

/** One hostile request for a method that takes `type`; `good` is a request that it would answer. */
export function hostile(type: DescMessage, good: Buffer, dice: Dice): Buffer {
  const kind = dice.roll(10);
  if (kind === 0) return dice.bytes(dice.roll(60));
  const nodes = kind < 4 ? invent(type, dice) : decode(good, type);
  for (let times = 1 + dice.roll(3); times > 0; times--) {
    const lists = listsOf(nodes);
    const list = dice.pick(lists);
    bend(list, typeOf(list, nodes, type), dice);
  }
  const bytes = encode(nodes);
  const after = dice.roll(12);
  if (after === 0) return bytes.subarray(0, dice.roll(Math.max(1, bytes.length)));
  if (after === 1 && bytes.length > 0) bytes[dice.roll(bytes.length)] = dice.roll(256);
  return bytes;
}

function typeOf(list: Node[], nodes: Node[], type: DescMessage): DescMessage {
  if (list === nodes) return type;
  for (const node of nodes) {
    const inner = innerMessage(node.field);
    if (!Array.isArray(node.value) || inner === undefined) continue;
    if (listsOf(node.value).includes(list)) return typeOf(list, node.value, inner);
  }
  return type;
}
