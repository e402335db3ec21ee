import { RuntimeError } from "../lib/errors.ts";

const maxDepth = 64;

export type JsonObject = Readonly<Record<string, unknown>>;

function refuse(what: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `${what} is malformed: ${why}`);
}

/**
 * Parses a document of a registry. Duplicate keys are refused: other clients take the first, the last, or merge them, so that two
 * tools could see two images behind one digest.
 */
export function parseJson(data: Uint8Array, what: string): JsonObject {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    value = JSON.parse(text);
  } catch (error) {
    throw refuse(what, error instanceof SyntaxError ? "it is not JSON" : "it is not UTF-8");
  }
  checkKeys(text, what);
  if (!isObject(value)) throw refuse(what, "it is not an object");
  return value;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Walks text that JSON.parse accepted. */
function checkKeys(text: string, what: string): void {
  const open: (Set<string> | undefined)[] = [];
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]/gs;
  for (let found = token.exec(text); found !== null; found = token.exec(text)) {
    const [word] = found;
    if (word === "{" || word === "[") {
      if (open.push(word === "{" ? new Set() : undefined) > maxDepth) throw refuse(what, `it is nested deeper than ${maxDepth}`);
    } else if (word === "}" || word === "]") {
      open.pop();
    } else if (isKey(text, token.lastIndex)) {
      const key = JSON.parse(word) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) throw refuse(what, `key ${word} appears twice`);
      keys?.add(key);
    }
  }
}

function isKey(text: string, end: number): boolean {
  let at = end;
  while (text[at] === " " || text[at] === "\n" || text[at] === "\t" || text[at] === "\r") at++;
  return text[at] === ":";
}

/**
 * Refuses keys that differ from a known one in case only: decoders written in Go would take them for it.
 */
export function checkSpelling(object: JsonObject, known: readonly string[], what: string): void {
  const byFold = new Map(known.map((key) => [key.toLowerCase(), key]));
  for (const key of Object.keys(object)) {
    const meant = byFold.get(key.toLowerCase());
    if (meant !== undefined && meant !== key)
      throw refuse(what, `key ${JSON.stringify(key)} can be mistaken for ${JSON.stringify(meant)}`);
  }
}

/** The member as a string, "" when absent or null. */
export function stringAt(object: JsonObject, key: string, what: string): string {
  const value = object[key];
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw refuse(what, `${key} is not a string`);
  return value;
}

/** The member as an object, empty when absent or null. */
export function objectAt(object: JsonObject, key: string, what: string): JsonObject {
  const value = object[key];
  if (value === undefined || value === null) return {};
  if (!isObject(value)) throw refuse(what, `${key} is not an object`);
  return value;
}

/** The member as an array, empty when absent or null. */
export function arrayAt(object: JsonObject, key: string, what: string): readonly unknown[] {
  const value = object[key];
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw refuse(what, `${key} is not an array`);
  return value;
}

export function stringsAt(object: JsonObject, key: string, what: string): readonly string[] {
  return arrayAt(object, key, what).map((item) => {
    if (typeof item !== "string") throw refuse(what, `${key} holds something else than strings`);
    return item;
  });
}
