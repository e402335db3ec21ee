import { readFileSync } from "node:fs";

let known: string | undefined;

/** The version in package.json, from src/ and from dist/ alike. */
export function buildVersion(): string {
  known ??= (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;
  return known;
}
