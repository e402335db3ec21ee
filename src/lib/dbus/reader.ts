/** Reads what a peer wrote. Everything is checked: length, padding, text, nesting. Whatever is wrong is an `internal` error. */
import { RuntimeError } from "../errors.ts";
import { alignmentOf, type DbusType, type DbusValue, parseSignature, parseSingle } from "./signature.ts";
import { isObjectPath } from "./writer.ts";

const longestArray = 64 << 20;
/** Variants nest beyond what their signatures say. */
const deepestVariant = 64;

export class DbusReader {
  readonly #buffer: Buffer;
  readonly #little: boolean;
  #offset = 0;
  #depth = 0;

  constructor(buffer: Buffer, little: boolean) {
    this.#buffer = buffer;
    this.#little = little;
  }

  get offset(): number {
    return this.#offset;
  }

  /** All values of a signature; nothing may follow them. */
  values(signature: string): readonly DbusValue[] {
    const values = parseSignature(signature).map((type) => this.value(type));
    if (this.#offset !== this.#buffer.length) throw malformed("bytes follow the last value");
    return values;
  }

  value(type: DbusType): DbusValue {
    switch (type.code) {
      case "a":
        return this.#array(type.item);
      case "(":
      case "{":
        this.align(8);
        return type.fields.map((field) => this.value(field));
      case "v":
        return this.#variant();
      case "g":
        return this.#text(this.#integer(1));
      case "s":
        return this.#text(this.#integer(4));
      case "o":
        return this.#path();
      case "b":
        return this.#boolean();
      case "x":
        return BigInt.asIntN(64, this.#integer64());
      case "t":
        return this.#integer64();
      case "d":
        return this.#double();
      default:
        return this.#number(type.code);
    }
  }

  align(to: number): void {
    const padding = -this.#offset & (to - 1);
    const start = this.#take(padding);
    for (let at = start; at < start + padding; at++) if (this.#buffer[at] !== 0) throw malformed("padding is not zero");
  }

  #number(code: "y" | "n" | "q" | "i" | "u" | "h"): number {
    const size = code === "y" ? 1 : code === "n" || code === "q" ? 2 : 4;
    const value = this.#integer(size);
    const signed = code === "n" || code === "i";
    return signed && value >= 2 ** (8 * size - 1) ? value - 2 ** (8 * size) : value;
  }

  #integer(size: 1 | 2 | 4): number {
    this.align(size);
    const at = this.#take(size);
    return this.#little ? this.#buffer.readUIntLE(at, size) : this.#buffer.readUIntBE(at, size);
  }

  #integer64(): bigint {
    this.align(8);
    const at = this.#take(8);
    return this.#little ? this.#buffer.readBigUInt64LE(at) : this.#buffer.readBigUInt64BE(at);
  }

  #double(): number {
    this.align(8);
    const at = this.#take(8);
    return this.#little ? this.#buffer.readDoubleLE(at) : this.#buffer.readDoubleBE(at);
  }

  #boolean(): boolean {
    const value = this.#integer(4);
    if (value > 1) throw malformed(`${value} is no boolean`);
    return value === 1;
  }

  #text(size: number): string {
    const start = this.#take(size + 1);
    const bytes = this.#buffer.subarray(start, start + size);
    if (this.#buffer[start + size] !== 0 || bytes.includes(0)) throw malformed("a string does not end where it says");
    try {
      return utf8.decode(bytes);
    } catch (error) {
      throw malformed("a string is not UTF-8", error);
    }
  }

  #path(): string {
    const path = this.#text(this.#integer(4));
    if (!isObjectPath(path)) throw malformed(`${JSON.stringify(path)} is no object path`);
    return path;
  }

  #variant(): DbusValue {
    if (++this.#depth > deepestVariant) throw malformed("variants are nested too deeply");
    const signature = this.#text(this.#integer(1));
    const value = this.value(parseSingle(signature));
    this.#depth--;
    return { signature, value };
  }

  #array(item: DbusType): DbusValue {
    const size = this.#integer(4);
    if (size > longestArray) throw malformed("an array is too long");
    this.align(alignmentOf(item));
    const start = this.#offset;
    if (item.code === "y") return Buffer.from(this.#buffer.subarray(this.#take(size), start + size));
    const end = start + size;
    if (end > this.#buffer.length) throw malformed("an array is longer than its message");
    const items: DbusValue[] = [];
    while (this.#offset < end) items.push(this.value(item));
    if (this.#offset !== end) throw malformed("an array does not end with its last item");
    return items;
  }

  #take(size: number): number {
    const start = this.#offset;
    if (start + size > this.#buffer.length) throw malformed("a value is longer than its message");
    this.#offset = start + size;
    return start;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function malformed(why: string, cause?: unknown): RuntimeError {
  return new RuntimeError("internal", `malformed D-Bus message: ${why}`, {}, cause);
}
