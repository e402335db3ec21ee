/**
 * The field codec shared by plans and by the shim's protocol. A schema names the fields of one record in order; a record
 * on the wire is its fields, little-endian, one after another, with nothing between or behind them.
 *
 * | type  | TypeScript              | bytes                                              |
 * |-------|-------------------------|----------------------------------------------------|
 * | u32   | number                  | 4                                                  |
 * | u64   | bigint                  | 8                                                  |
 * | i64   | bigint                  | 8, two's complement                                |
 * | str   | string, without NUL     | u32 length without the NUL, bytes, one NUL         |
 * | bytes | Uint8Array              | u32 length, bytes                                  |
 * | strs  | readonly string[]       | u32 count, then each as str                        |
 * | u32s  | readonly number[]       | u32 count, then each as u32                        |
 *
 * A string may hold bytes that are no UTF-8, as raw-text.ts writes them. Strings carry their NUL so that the helper, which must not allocate after fork, can use them in place.
 */
import { RuntimeError } from "./errors.ts";
import { bytesOfText } from "./raw-text.ts";

export interface FieldTypes {
  u32: number;
  u64: bigint;
  i64: bigint;
  str: string;
  bytes: Uint8Array;
  strs: readonly string[];
  u32s: readonly number[];
}
export type FieldType = keyof FieldTypes;
export type Fields = Readonly<Record<string, FieldType>>;
export type RecordOf<F extends Fields> = { readonly [K in keyof F]: FieldTypes[F[K]] };

const u32Max = 0xffff_ffff;

/** Appends fields to a growing buffer; `finish` returns exactly the bytes written. */
export class WireWriter {
  #buffer: Buffer;
  #length = 0;

  constructor(sizeHint = 512) {
    this.#buffer = Buffer.allocUnsafe(sizeHint);
  }

  get length(): number {
    return this.#length;
  }

  u16(value: number): void {
    this.#length = this.#room(2).writeUInt16LE(value, this.#length);
  }

  u32(value: number): void {
    if (!Number.isInteger(value) || value < 0 || value > u32Max) {
      throw new RuntimeError("internal", `${value} does not fit an unsigned 32-bit field`);
    }
    this.#length = this.#room(4).writeUInt32LE(value, this.#length);
  }

  u64(value: bigint): void {
    this.#length = this.#room(8).writeBigUInt64LE(value, this.#length);
  }

  i64(value: bigint): void {
    this.#length = this.#room(8).writeBigInt64LE(value, this.#length);
  }

  str(value: string): void {
    if (value.includes("\0")) throw new RuntimeError("invalid_argument", `${JSON.stringify(value)} contains a NUL byte`);
    const kept = value.isWellFormed() ? undefined : bytesOfText(value);
    const size = kept?.length ?? Buffer.byteLength(value);
    this.u32(size);
    const room = this.#room(size + 1);
    if (kept === undefined) room.write(value, this.#length);
    else room.set(kept, this.#length);
    this.#buffer[this.#length + size] = 0;
    this.#length += size + 1;
  }

  bytes(value: Uint8Array): void {
    this.u32(value.byteLength);
    this.raw(value);
  }

  /** Bytes without a length: for records whose length is known from elsewhere. */
  raw(value: Uint8Array): void {
    this.#room(value.byteLength).set(value, this.#length);
    this.#length += value.byteLength;
  }

  /** Overwrites a u32 written earlier, such as a length that was not yet known. */
  patchU32(offset: number, value: number): void {
    this.#buffer.writeUInt32LE(value, offset);
  }

  fields<F extends Fields>(schema: F, record: RecordOf<F>): void {
    for (const [name, type] of Object.entries(schema)) this.#field(type, record[name as keyof F]);
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  #field(type: FieldType, value: FieldTypes[FieldType]): void {
    switch (type) {
      case "u32":
        this.u32(value as number);
        return;
      case "u64":
        this.u64(value as bigint);
        return;
      case "i64":
        this.i64(value as bigint);
        return;
      case "str":
        this.str(value as string);
        return;
      case "bytes":
        this.bytes(value as Uint8Array);
        return;
      case "strs":
        this.u32((value as readonly string[]).length);
        for (const item of value as readonly string[]) this.str(item);
        return;
      case "u32s":
        this.u32((value as readonly number[]).length);
        for (const item of value as readonly number[]) this.u32(item);
        return;
    }
  }

  #room(more: number): Buffer {
    if (this.#length + more > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + more));
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    return this.#buffer;
  }
}

/** Reads what WireWriter wrote; refuses short, overlong or trailing bytes with an `internal` error. */
export class WireReader {
  readonly #buffer: Buffer;
  #offset = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#take(2));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }

  u64(): bigint {
    return this.#buffer.readBigUInt64LE(this.#take(8));
  }

  i64(): bigint {
    return this.#buffer.readBigInt64LE(this.#take(8));
  }

  str(): string {
    const size = this.u32();
    const start = this.#take(size + 1);
    if (this.#buffer[start + size] !== 0) throw new RuntimeError("internal", "a string on the wire lacks its NUL");
    return this.#buffer.toString("utf8", start, start + size);
  }

  bytes(): Buffer {
    const size = this.u32();
    const start = this.#take(size);
    return this.#buffer.subarray(start, start + size);
  }

  fields<F extends Fields>(schema: F): RecordOf<F> {
    const record: Record<string, FieldTypes[FieldType]> = {};
    for (const [name, type] of Object.entries(schema)) record[name] = this.#field(type);
    return record as RecordOf<F>;
  }

  end(): void {
    const left = this.#buffer.length - this.#offset;
    if (left !== 0) throw new RuntimeError("internal", `${left} bytes too many on the wire`);
  }

  #field(type: FieldType): FieldTypes[FieldType] {
    switch (type) {
      case "u32":
        return this.u32();
      case "u64":
        return this.u64();
      case "i64":
        return this.i64();
      case "str":
        return this.str();
      case "bytes":
        return this.bytes();
      case "strs":
        return Array.from({ length: this.#count(5) }, () => this.str());
      case "u32s":
        return Array.from({ length: this.#count(4) }, () => this.u32());
    }
  }

  /** A count that the remaining bytes cannot hold is refused before anything is allocated for it. */
  #count(leastSize: number): number {
    const count = this.u32();
    if (count * leastSize > this.#buffer.length - this.#offset) {
      throw new RuntimeError("internal", `a list of ${count} items does not fit its record`);
    }
    return count;
  }

  #take(size: number): number {
    const start = this.#offset;
    if (start + size > this.#buffer.length) throw new RuntimeError("internal", "a record on the wire is too short");
    this.#offset = start + size;
    return start;
  }
}
