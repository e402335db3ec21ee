/** Changes of limits on a tree of plain files: what is written, what is put back. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { placeOf } from "../../../../src/core/cgroup/cgroup-place.ts";
import type { Hierarchies } from "../../../../src/core/cgroup/hierarchies.ts";
import { changeResources } from "../../../../src/core/cgroup/resource-apply.ts";

let root: string;
let directory: string;
let hierarchies: Hierarchies;
const read = (file: string): string => readFileSync(join(directory, file), "utf8");
const write = (files: Readonly<Record<string, string>>): void => {
  for (const [file, text] of Object.entries(files)) writeFileSync(join(directory, file), text);
};

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "caisson-cgroup-"));
  directory = join(root, "x");
  mkdirSync(directory);
  hierarchies = {
    version: "v2",
    v1: [],
    unified: { mountPoint: root, controllers: new Set(["cpu", "cpuset", "memory", "pids"]) },
  };
  // As long as what is written: a plain file keeps the rest of a longer value.
  write({
    "memory.max": "5000",
    "memory.high": "max",
    "memory.current": "1000",
    "memory.swap.max": "0",
    "cpu.max": "10000 50000",
    "cpu.weight": "11",
    "cpuset.cpus": "",
  });
});
afterEach(() => rmSync(root, { recursive: true }));

const change = (resources: Parameters<typeof changeResources>[2]) =>
  changeResources(hierarchies, placeOf(hierarchies, "/x"), resources);

describe("a change of limits on v2", () => {
  it("is written, and can be undone", async () => {
    const { undo } = await change({ cpu: { quota: 20_000, period: 50_000, shares: 1024 }, memory: { limit: 4000, swap: 4000 } });
    expect([read("cpu.max"), read("cpu.weight"), read("memory.max")]).toEqual(["20000 50000", "100", "4000"]);
    await undo();
    expect([read("cpu.max"), read("memory.max")]).toEqual(["10000 50000", "5000"]);
  });

  it("puts back what was written when a later value is refused", async () => {
    const refused = change({ cpu: { quota: 20_000, period: 50_000 }, unified: { "memory.nonsense": "1" } });
    await expect(refused).rejects.toMatchObject({ code: "failed_precondition" });
    expect(read("cpu.max")).toBe("10000 50000");
  });

  it("refuses a memory limit below what stays in use, and leaves memory.high as it was", async () => {
    write({ "memory.current": "4500" });
    await expect(change({ memory: { limit: 4000, swap: 4000 } })).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("unable to set the memory limit to 4000: 4500 bytes are in use"),
    });
    expect([read("memory.max"), read("memory.high").slice(0, 3)]).toEqual(["5000", "max"]);
  });

  it("does not touch memory.high when there is room", async () => {
    write({ "memory.high": "own value" });
    await change({ memory: { limit: 4000, swap: 4000 } });
    expect(read("memory.high")).toBe("own value");
  });
});
