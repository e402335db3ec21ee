import { createHash } from "node:crypto";
import { RuntimeError } from "../lib/errors.ts";

/** "sha256:<64 hex>" or "sha512:<128 hex>", lower case. */
export type Digest = string;

const hexLength: Readonly<Record<string, number>> = { sha256: 64, sha512: 128 };

export function isDigest(text: string): boolean {
  const [algorithm = "", hex = ""] = text.split(":");
  return text === `${algorithm}:${hex}` && hex.length === hexLength[algorithm] && /^[0-9a-f]+$/.test(hex);
}

export function digestAlgorithm(digest: Digest): "sha256" | "sha512" {
  return digest.startsWith("sha512:") ? "sha512" : "sha256";
}

export function hexOf(digest: Digest): string {
  return digest.slice(digest.indexOf(":") + 1);
}

export function digestOf(data: Uint8Array, algorithm: "sha256" | "sha512" = "sha256"): Digest {
  return `${algorithm}:${createHash(algorithm).update(data).digest("hex")}`;
}

/** Throws data_loss unless `data` has that digest. */
export function checkDigest(data: Uint8Array, expected: Digest, what: string): void {
  const actual = digestOf(data, digestAlgorithm(expected));
  if (actual === expected) return;
  throw new RuntimeError("data_loss", `${what} has digest ${actual}, expected ${expected}`, { expected, actual });
}

/** Chain ids, bottom layer first: each names a layer together with all layers below it. */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : digestOf(Buffer.from(`${below} ${diffId}`)));
  }
  return chain;
}
