import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readTranslationNode, realHost } from "../../../src/cri/translate-node.ts";
import { fakeNode } from "./translate-fixture.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "caisson-node-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe("the host's filesystem", () => {
  it("tells device numbers as the kernel has them", async () => {
    expect(await realHost.lstat("/dev/null")).toMatchObject({ kind: "character", major: 1, minor: 3, mode: 0o666 });
  });

  it("resolves symlinks, and tells a missing file from a failure", async () => {
    symlinkSync("/dev/null", join(dir, "link"));
    expect(await realHost.realpath(join(dir, "link"))).toBe("/dev/null");
    expect((await realHost.lstat(join(dir, "link")))?.kind).toBe("symlink");
    expect(await realHost.realpath(join(dir, "none"))).toBeUndefined();
    expect(await realHost.list(join(dir, "none"))).toEqual([]);
    expect(await realHost.readFile(join(dir, "none"), 10)).toBeUndefined();
  });

  it("reads only regular files of a limited size, and does not hang on a FIFO", async () => {
    writeFileSync(join(dir, "file"), "12345");
    execFileSync("mkfifo", [join(dir, "fifo")]);
    expect((await realHost.readFile(join(dir, "file"), 5))?.toString()).toBe("12345");
    await expect(realHost.readFile(join(dir, "file"), 4)).rejects.toThrow(/larger than 4 bytes/);
    await expect(realHost.readFile(join(dir, "fifo"), 4)).rejects.toThrow(/not a regular file/);
  });
});

describe("this machine", () => {
  it("has the facts that translation needs", async () => {
    const { facts, defaultSeccomp } = await readTranslationNode("v1", fakeNode().cdi);
    expect(facts.capabilities).toContain("CAP_CHOWN");
    expect(facts.seccomp).toBe(true);
    for (const size of facts.hugePageSizes) expect(size).toMatch(/^\d+[KMG]B$/);
    expect(defaultSeccomp(["CAP_CHOWN"]).defaultAction).toBe("SCMP_ACT_ERRNO");
  });
});
