import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { isOwnDirectory } from "../../../src/cli/compile-cache.ts";

const top = mkdtempSync(join(tmpdir(), "caisson-cache-"));
afterAll(() => rmSync(top, { recursive: true }));

it("is made for its owner alone", () => {
  expect(isOwnDirectory(join(top, "new"))).toBe(true);
  expect(statSync(join(top, "new")).mode & 0o777).toBe(0o700);
});

it("is not used where others could put code into it", () => {
  mkdirSync(join(top, "open"));
  for (const [mode, own] of [
    [0o777, false],
    [0o770, false],
    [0o755, true],
  ] as const) {
    chmodSync(join(top, "open"), mode);
    expect(isOwnDirectory(join(top, "open"))).toBe(own);
  }
});

it("is a directory itself, no link to one, no file", () => {
  mkdirSync(join(top, "real"), { mode: 0o700 });
  symlinkSync("real", join(top, "link"));
  writeFileSync(join(top, "file"), "");
  expect([isOwnDirectory(join(top, "link")), isOwnDirectory(join(top, "file"))]).toEqual([false, false]);
});
