/** D-Bus type signatures, parsed (D-Bus specification, "Type System"). */
import { RuntimeError } from "../errors.ts";

export type DbusType =
  | { readonly code: "y" | "b" | "n" | "q" | "i" | "u" | "x" | "t" | "d" | "s" | "o" | "g" | "h" | "v" }
  | { readonly code: "a"; readonly item: DbusType }
  /** A structure, or an entry of a dictionary: two values, the first of a basic type. */
  | { readonly code: "(" | "{"; readonly fields: readonly DbusType[] };

/** A value that brings its type along. */
export interface Variant {
  readonly signature: string;
  readonly value: DbusValue;
}

/** x and t are bigint; h is an index; an array of bytes is a Uint8Array; structures and entries of dictionaries are arrays. */
export type DbusValue = number | bigint | boolean | string | Uint8Array | Variant | readonly DbusValue[];

const longest = 255;
const deepest = 32;

const basicCodes = new Set("ybnqiuxtdsogh");

/** Multiples of this many bytes are where a value of the type may begin. */
export function alignmentOf({ code }: DbusType): 1 | 2 | 4 | 8 {
  if (code === "y" || code === "g" || code === "v") return 1;
  if (code === "n" || code === "q") return 2;
  return code === "x" || code === "t" || code === "d" || code === "(" || code === "{" ? 8 : 4;
}

/** The complete types of a signature, one after another. `internal` for what the specification does not allow. */
export function parseSignature(signature: string): readonly DbusType[] {
  if (signature.length > longest) throw bad(signature, "is too long");
  const parser = new Parser(signature);
  const types: DbusType[] = [];
  while (!parser.ended) types.push(parser.type(0, 0));
  return types;
}

/** The one type of a variant. */
export function parseSingle(signature: string): DbusType {
  const [type, ...more] = parseSignature(signature);
  if (type === undefined || more.length > 0) throw bad(signature, "is not one complete type");
  return type;
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get ended(): boolean {
    return this.#at === this.#text.length;
  }

  type(arrays: number, structures: number): DbusType {
    if (arrays > deepest || structures > deepest) throw bad(this.#text, "is nested too deeply");
    const code = this.#text[this.#at++] ?? "";
    if (code === "v" || basicCodes.has(code)) return { code } as DbusType;
    if (code === "a") {
      if (this.#text[this.#at] === "{") return { code, item: this.#entry(arrays + 1, structures + 1) };
      return { code, item: this.type(arrays + 1, structures) };
    }
    if (code === "(") return { code, fields: this.#until(")", arrays, structures + 1) };
    throw bad(this.#text, `has no type at ${this.#at - 1}`);
  }

  #entry(arrays: number, structures: number): DbusType {
    this.#at++;
    const fields = this.#until("}", arrays, structures);
    if (fields.length !== 2 || !basicCodes.has(fields[0]?.code ?? "")) throw bad(this.#text, "has an odd dictionary");
    return { code: "{", fields };
  }

  #until(end: string, arrays: number, structures: number): readonly DbusType[] {
    const fields: DbusType[] = [];
    while (this.#text[this.#at] !== end) {
      if (this.ended) throw bad(this.#text, `lacks ${end}`);
      fields.push(this.type(arrays, structures));
    }
    this.#at++;
    if (fields.length === 0) throw bad(this.#text, "has an empty structure");
    return fields;
  }
}

function bad(signature: string, why: string): RuntimeError {
  return new RuntimeError("internal", `the D-Bus signature ${JSON.stringify(signature)} ${why}`);
}
