import { formatReference, parseReference } from "./reference.ts";

/** Tells whether an image with these names matches one of the patterns: a name, or a beginning followed by *. */
export function pinnedBy(patterns: readonly string[]): (names: readonly string[]) => boolean {
  const heads = patterns.filter((pattern) => pattern.endsWith("*")).map((pattern) => pattern.slice(0, -1));
  const exact = new Set(patterns.filter((pattern) => !pattern.endsWith("*")).map(normalised));
  return (names) => names.some((name) => exact.has(name) || heads.some((head) => name.startsWith(head)));
}

function normalised(pattern: string): string {
  try {
    return formatReference(parseReference(pattern));
  } catch {
    return pattern;
  }
}
