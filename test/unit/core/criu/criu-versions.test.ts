import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-criu-versions-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

/** As another process has it: nothing in memory. */
async function fresh(): Promise<typeof import("../../../../src/core/criu/criu-versions.ts")> {
  vi.resetModules();
  return await import("../../../../src/core/criu/criu-versions.ts");
}

function program(content: string): string {
  const path = join(directory, "criu");
  writeFileSync(path, content);
  return path;
}

it("knows a version that another process was told, in a file of its user's alone", async () => {
  const path = program("1");
  const first = await fresh();
  first.keepCriuVersions(directory);
  first.rememberVersion(path, statSync(path), 40_201);
  const second = await fresh();
  expect(second.knownVersion(path, statSync(path))).toBeUndefined();
  second.keepCriuVersions(directory);
  expect(second.knownVersion(path, statSync(path))).toBe(40_201);
  expect(second.knownVersion("/other", statSync(path))).toBeUndefined();
  expect(statSync(join(directory, "criu.json")).mode & 0o777).toBe(0o600);
});

it("asks again when the program is another one", async () => {
  const path = program("1");
  const versions = await fresh();
  versions.keepCriuVersions(directory);
  versions.rememberVersion(path, statSync(path), 40_201);
  rmSync(path);
  program("22");
  expect(versions.knownVersion(path, statSync(path))).toBeUndefined();
});

it("asks again when the file is damaged or cannot be written", async () => {
  const path = program("1");
  const versions = await fresh();
  versions.keepCriuVersions(directory);
  for (const text of ["", "null", "{}", '{"path":7}', readFileSync(path, "utf8")]) {
    writeFileSync(join(directory, "criu.json"), text);
    expect(versions.knownVersion(path, statSync(path))).toBeUndefined();
  }
  versions.keepCriuVersions(join(directory, "missing"));
  versions.rememberVersion(path, statSync(path), 40_201);
  expect(versions.knownVersion(path, statSync(path))).toBe(40_201);
});
