import { posix } from "node:path";
import { RuntimeError } from "../lib/errors.ts";

export const invalid = (message: string, fields: Record<string, string | number> = {}): RuntimeError =>
  new RuntimeError("invalid_argument", message, fields);

/** C0 controls and DEL: a newline in a name or value forges lines in files and logs (CVE-2022-4318, CVE-2026-15809). */
export function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) return true;
  }
  return false;
}

/** Quotes what came from a client for a message: no control characters, not endless. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}...` : text);
}

const longestPath = 4096;

/**
 * An absolute path without `.`, `..`, empty components and trailing slash. `..` is refused, not resolved: what it means depends on
 * symlinks which only the kernel knows.
 */
export function cleanAbsolutePath(what: string, path: string): string {
  if (path === "") throw invalid(`${what} is empty`);
  if (path.includes("\0")) throw invalid(`${what} ${quoted(path)} contains a NUL character`);
  if (!path.startsWith("/")) throw invalid(`${what} ${quoted(path)} is not an absolute path`);
  if (Buffer.byteLength(path) >= longestPath) throw invalid(`${what} ${quoted(path)} is longer than ${longestPath - 1} bytes`);
  if (path.split("/").includes("..")) throw invalid(`${what} ${quoted(path)} contains ".."`);
  const clean = posix.normalize(path);
  return clean.length > 1 && clean.endsWith("/") ? clean.slice(0, -1) : clean;
}

/** Whether `path` is `parent` or lies below it; both clean. */
export function isAtOrBelow(path: string, parent: string): boolean {
  return path === parent || parent === "/" || path.startsWith(`${parent}/`);
}

export function pathDepth(path: string): number {
  return path.split("/").filter((part) => part !== "").length;
}

/** An int64 of a request as a JavaScript number; `what` names it when it does not fit. */
export function safeNumber(what: string, value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw invalid(`${what} ${value} is out of range`);
  return number;
}
