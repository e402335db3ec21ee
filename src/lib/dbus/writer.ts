/** Values as D-Bus puts them on the wire, little-endian. */
import { RuntimeError } from "../errors.ts";
import { alignmentOf, type DbusType, type DbusValue, parseSignature, parseSingle, type Variant } from "./signature.ts";

/** Alignment counts from the beginning of the buffer: of a message, or of its body, which begins at a multiple of 8. */
export class DbusWriter {
  #buffer = Buffer.alloc(256);
  #length = 0;

  /** All values of a signature. `internal` when they do not fit it. */
  values(signature: string, values: readonly DbusValue[]): void {
    const types = parseSignature(signature);
    if (types.length !== values.length) {
      throw new RuntimeError("internal", `${values.length} values for the D-Bus signature ${signature}`);
    }
    for (const [at, type] of types.entries()) this.value(type, values[at] as DbusValue);
  }

  value(type: DbusType, value: DbusValue): void {
    switch (type.code) {
      case "a":
        this.#array(type.item, value);
        break;
      case "(":
      case "{":
        this.#structure(type.fields, value);
        break;
      case "v":
        this.#variant(value as Variant);
        break;
      case "s":
      case "o":
      case "g":
        this.#text(type.code, value);
        break;
      case "b":
        this.#integer(4, value === true ? 1n : 0n, 0n);
        break;
      case "d":
        this.align(8);
        this.#length = this.#room(8).writeDoubleLE(value as number, this.#length);
        break;
      default: {
        const [size, least] = integers[type.code];
        this.#integer(size, BigInt(value as number | bigint), least);
      }
    }
  }

  align(to: number): void {
    const padding = -this.#length & (to - 1);
    this.#room(padding).fill(0, this.#length, this.#length + padding);
    this.#length += padding;
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  #integer(size: 1 | 2 | 4 | 8, value: bigint, least: bigint): void {
    const limit = 1n << BigInt(8 * size);
    if (value < least || value >= limit + least) throw new RuntimeError("internal", `${value} does not fit ${size} bytes`);
    this.align(size);
    const buffer = this.#room(size);
    const bits = BigInt.asUintN(8 * size, value);
    if (size === 8) buffer.writeBigUInt64LE(bits, this.#length);
    else buffer.writeUIntLE(Number(bits), this.#length, size);
    this.#length += size;
  }

  #text(code: "s" | "o" | "g", value: DbusValue): void {
    if (typeof value !== "string" || value.includes("\0") || !value.isWellFormed()) {
      throw new RuntimeError("internal", `${JSON.stringify(value)} is no D-Bus string`);
    }
    if (code === "o" && !isObjectPath(value)) {
      throw new RuntimeError("internal", `${JSON.stringify(value)} is no D-Bus object path`);
    }
    if (code === "g") parseSignature(value);
    const size = Buffer.byteLength(value);
    this.#integer(code === "g" ? 1 : 4, BigInt(size), 0n);
    this.#room(size + 1).write(value, this.#length);
    this.#buffer[this.#length + size] = 0;
    this.#length += size + 1;
  }

  #variant({ signature, value }: Variant): void {
    this.#text("g", signature);
    this.value(parseSingle(signature), value);
  }

  #structure(fields: readonly DbusType[], value: DbusValue): void {
    if (!Array.isArray(value) || value.length !== fields.length) {
      throw new RuntimeError("internal", `a D-Bus structure wants ${fields.length} values`);
    }
    this.align(8);
    for (const [at, type] of fields.entries()) this.value(type, value[at]);
  }

  /** The length counts neither itself nor the padding in front of the first item. */
  #array(item: DbusType, value: DbusValue): void {
    this.#integer(4, 0n, 0n);
    const lengthAt = this.#length - 4;
    this.align(alignmentOf(item));
    const start = this.#length;
    if (item.code === "y") this.#bytes(value as Uint8Array);
    else for (const each of value as readonly DbusValue[]) this.value(item, each);
    this.#buffer.writeUInt32LE(this.#length - start, lengthAt);
  }

  #bytes(value: Uint8Array): void {
    this.#room(value.byteLength).set(value, this.#length);
    this.#length += value.byteLength;
  }

  #room(more: number): Buffer {
    if (this.#length + more > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(this.#buffer.length * 2, this.#length + more));
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    return this.#buffer;
  }
}

/** Bytes and least value of each integer type. */
const integers = {
  y: [1, 0n],
  n: [2, -(1n << 15n)],
  q: [2, 0n],
  i: [4, -(1n << 31n)],
  u: [4, 0n],
  h: [4, 0n],
  x: [8, -(1n << 63n)],
  t: [8, 0n],
} as const;

export function isObjectPath(text: string): boolean {
  return /^\/$|^(\/[A-Za-z0-9_]+)+$/.test(text);
}
