import { isUtf8 } from "node:buffer";

/**
 * What the generated decoders let pass: they read on behind a field that is longer than its message, stop silently at a stray end of
 * a group, put U+FFFD in place of what is no text (two keys become one), lose the map key `__proto__`, and make an object of some
 * hundred bytes of each two bytes on the wire, so that one request could take all of the daemon's memory.
 */

/** More messages, map entries and strings than any request of a kubelet or an answer of a plugin has, and few enough to be nothing for the daemon. */
export const mostElements = 100_000;

const wireTypes: Readonly<Record<string, number>> = { varint: 0, fixed64: 1, delimited: 2, fixed32: 5 };

/** Fields of each message by number, as scripts/generate-shapes.ts writes them. */
export type MessageShapes = Readonly<Record<string, Readonly<Record<number, string>>>>;

/** Why these bytes are not a message of this type; undefined when they are. */
export function faultOfMessage(shapes: MessageShapes, message: string, bytes: Buffer): string | undefined {
  const scan = new Scan(shapes, bytes);
  try {
    scan.message(message, bytes.length);
    return undefined;
  } catch (error) {
    if (error instanceof WireFault) return error.message;
    throw error;
  }
}

class WireFault extends Error {}

class Scan {
  readonly #shapes: MessageShapes;
  readonly #bytes: Buffer;
  #at = 0;
  #elements = 0;
  /** Where we are, for the text of a fault. */
  #message = "";
  #field = 0;

  constructor(shapes: MessageShapes, bytes: Buffer) {
    this.#shapes = shapes;
    this.#bytes = bytes;
  }

  message(name: string, end: number): void {
    const shape = this.#shapes[name] ?? {};
    while (this.#at < end) {
      this.#message = name;
      this.#field = 0;
      const tag = this.#varint(end);
      this.#field = Math.floor(tag / 8);
      if (this.#field < 1 || this.#field > 0x1fff_ffff) throw this.#fault("is a number that no field can have");
      this.#value(tag % 8, shape[this.#field], end);
    }
  }

  #value(wireType: number, kind: string | undefined, end: number): void {
    if (wireType === wireTypes.delimited) {
      this.#delimited(kind, end);
      return;
    }
    // A field of a newer release of the interface is ignored, as everywhere; one that we know must be what it is.
    const known = kind === undefined || wireTypes[kind.replace("packed ", "")] === wireType;
    if (!known) throw this.#fault(`has wire type ${wireType}`);
    if (wireType === wireTypes.varint) this.#varint(end);
    else if (wireType === wireTypes.fixed32) this.#skip(4, end);
    else if (wireType === wireTypes.fixed64) this.#skip(8, end);
    else throw this.#fault(`has wire type ${wireType}, which proto3 does not have`);
  }

  #delimited(kind: string | undefined, end: number): void {
    const length = this.#varint(end);
    const last = this.#at + length;
    if (last > end) throw this.#fault("is longer than what it is in");
    this.#count();
    if (kind === "string" || kind === "map key") this.#text(kind, last);
    else if (kind === undefined || kind === "bytes") this.#at = last;
    else if (kind.startsWith("packed ")) this.#packed(kind.slice("packed ".length), last);
    else if (kind in wireTypes) throw this.#fault(`has wire type ${wireTypes.delimited}`);
    else this.message(kind, last);
  }

  #text(kind: string, last: number): void {
    const text = this.#bytes.subarray(this.#at, last);
    if (!isUtf8(text)) throw this.#fault("is not valid UTF-8");
    if (kind === "map key" && text.length === 9 && text.toString() === "__proto__") throw this.#fault("is __proto__");
    this.#at = last;
  }

  #packed(kind: string, last: number): void {
    while (this.#at < last) {
      this.#count();
      if (kind === "varint") this.#varint(last);
      else this.#skip(kind === "fixed32" ? 4 : 8, last);
    }
  }

  #count(): void {
    if (++this.#elements > mostElements) throw new WireFault(`it has more than ${mostElements} elements`);
  }

  #skip(length: number, end: number): void {
    this.#at += length;
    if (this.#at > end) throw this.#fault("is cut off");
  }

  /** Exact up to 53 bits: tags and lengths have 32, and of values only the end matters. */
  #varint(end: number): number {
    let value = 0;
    for (let scale = 1; scale < 2 ** 70; scale *= 128) {
      const byte = this.#at < end ? this.#bytes[this.#at] : undefined;
      if (byte === undefined) throw this.#fault("is cut off");
      this.#at++;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw this.#fault("has a number of more than 64 bits");
  }

  #fault(what: string): WireFault {
    return new WireFault(`field ${this.#field} of ${this.#message} ${what}`);
  }
}
