/**
 * JSON that keeps bigint and bytes: `{"$bigint":"123"}`, `{"$bytes":"base64"}`. A document's own object that looks like a tag (a
 * pod may well have the annotation `$bigint`) gets one more dollar sign, and loses it when it is read.
 */

const tag = /^\$+(?:bigint|bytes)$/;

function soleKey(value: object): string | undefined {
  const keys = Object.keys(value);
  return keys.length === 1 ? keys[0] : undefined;
}

/** @throws TypeError for a cycle. */
export function stringify(document: unknown): string {
  return JSON.stringify(document, function (this: Record<string, unknown>, key: string, converted: unknown) {
    // Buffer.toJSON has been called on `converted`; the holder has the bytes.
    const value = this[key];
    if (typeof value === "bigint") return { $bigint: value.toString() };
    if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
    if (typeof value !== "object" || value === null || Array.isArray(value)) return converted;
    const only = soleKey(value);
    if (only === undefined || !tag.test(only)) return converted;
    return { [`$${only}`]: (value as Record<string, unknown>)[only] };
  });
}

/** @throws SyntaxError for text that `stringify` did not make. */
export function parse(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    const only = soleKey(value);
    if (only === undefined || !tag.test(only)) return value;
    const inner = (value as Record<string, unknown>)[only];
    if (only === "$bigint") return BigInt(inner as string);
    if (only === "$bytes") return Buffer.from(inner as string, "base64");
    return { [only.slice(1)]: inner };
  });
}
