/** What somebody types who does not know a script: it is told, and nothing is built, installed or run. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const scripts = join(import.meta.dirname, "../../scripts");
const commands = readdirSync(scripts).filter((name) => !name.includes(".") && name !== "vm-run");
const run = (name: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(join(scripts, name), args, { encoding: "utf8", timeout: 15_000 });

describe.each(commands)("scripts/%s", (name) => {
  it("explains itself", () => {
    const { status, stdout, stderr } = run(name, "--help");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout.split("\n").length).toBeGreaterThan(1);
    // Text of its own, not the script.
    expect(stdout).not.toContain("set -euo");
  });

  it("names an option that it does not know", () => {
    const { status, stdout, stderr } = run(name, "--no-such-option");
    expect(status).not.toBe(0);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/no-such-option.*(--help|takes none|known are)/);
  });
});

it("the README's commands exist", () => {
  const readme = readFileSync(join(scripts, "../README.md"), "utf8");
  const named = new Set([...readme.matchAll(/scripts\/([a-z-]+)/g)].map(([, name]) => name));
  expect(commands).toEqual(expect.arrayContaining([...named]));
});
