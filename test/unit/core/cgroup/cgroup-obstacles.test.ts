import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { refuseThreaded, whyWithout } from "../../../../src/core/cgroup/cgroup-obstacles.ts";

let top = "";
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "caisson-obstacles-"));
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

function cgroup(path: string, files: Readonly<Record<string, string>>): string {
  const directory = join(top, path);
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), `${text}\n`);
  return directory;
}

describe("refuseThreaded", () => {
  it.each([
    ["threaded", /it is in threaded mode \(cgroup.type is "threaded"\); name a cgroup/],
    ["domain threaded", /it is in threaded mode \(cgroup.type is "domain threaded"\)/],
    ["domain invalid", /it is in an invalid state, as a cgroup above it is threaded/],
  ])("refuses %s", (type, words) => {
    expect(() => refuseThreaded(cgroup("a", { "cgroup.type": type }))).toThrow(words);
  });

  it("takes a domain, and the root or v1, which have no type", () => {
    refuseThreaded(cgroup("a", { "cgroup.type": "domain" }));
    refuseThreaded(cgroup("b", {}));
  });
});

describe("whyWithout", () => {
  const controllers = { "cgroup.controllers": "cpu memory" };

  it("names the cgroup above whose processes keep the controller from what is below", () => {
    cgroup("", { ...controllers, "cgroup.subtree_control": "cpu memory" });
    const busy = cgroup("busy", { ...controllers, "cgroup.subtree_control": "", "cgroup.procs": "12\n13" });
    cgroup("busy/between", { "cgroup.controllers": "", "cgroup.subtree_control": "", "cgroup.procs": "" });
    expect(whyWithout(join(busy, "between/leaf/memory.max"))).toMatch(`the cgroup ${busy} has 2 process(es) of its own`);
    expect(whyWithout(join(busy, "between/memory.max"))).toMatch(`the cgroup ${busy} has 2 process(es) of its own`);
  });

  it("says nothing where processes are not the reason", () => {
    cgroup("", { ...controllers, "cgroup.subtree_control": "cpu" });
    const idle = cgroup("idle", { "cgroup.controllers": "cpu", "cgroup.subtree_control": "cpu", "cgroup.procs": "" });
    expect(whyWithout(join(idle, "leaf/memory.max"))).toBe("");
    expect(whyWithout(join(idle, "leaf/cpu.max"))).toBe("");
    expect(whyWithout(join(idle, "leaf/hugetlb.2MB.max"))).toBe("");
  });
});
