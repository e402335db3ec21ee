/** An attacker in a shared volume exchanges a directory and a link to the host's paths while containers are set up over it. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Op } from "../../src/core/plan.ts";
import { attach, bind, buildPlanExec, container, Scratch, tmpfs, top } from "./plan-runner.ts";

/** At least so many, and more until the attacker was noticed. */
const rounds = 40;
const mostRounds = 500;
let scratch: Scratch;
let attacker: ChildProcess;

beforeAll(() => {
  buildPlanExec();
  scratch = new Scratch();
  const program = join(scratch.path, "exchange");
  execFileSync("musl-gcc", ["-static", "-O2", "-o", program, join(top, "test/native/exchange.c")]);
  const volume = scratch.directory("volume");
  scratch.directory("volume/a");
  scratch.file("decoy/file", "host");
  symlinkSync(`../../../../../../../../..${join(scratch.path, "decoy")}`, join(volume, "b"));
  attacker = spawn(program, [volume, "a", "b"]);
});
afterAll(async () => {
  const ended = new Promise((resolve) => attacker.on("exit", resolve));
  attacker.kill("SIGKILL");
  await ended;
  scratch[Symbol.dispose]();
});

it.each([
  ["openat2", ""],
  ["a walk in user space", "openat2"],
])("touches nothing outside of the root by %s", async (_way, deny) => {
  const manifest = (): string =>
    execFileSync("find", [join(scratch.path, "decoy"), "-printf", "%p %i %m %U:%G %T@\n"], { encoding: "utf8" });
  const mounts = scratch.mounts();
  const before = manifest();
  const shared: Op[] = [bind(4, join(scratch.path, "volume")), attach(4, "/volume")];
  const outcomes = { done: 0, refused: 0 };
  for (let round = 0; round < rounds || (outcomes.refused === 0 && round < mostRounds); round++) {
    const out = await scratch.run(
      container(scratch, {
        args: ["/bin/sh", "-c", `ls -A ${join(scratch.path, "decoy")} /volume/a /volume/b 2>/dev/null; echo done`],
        mounts: [
          ...shared,
          ...tmpfs("/volume/a/x"),
          bind(5, scratch.file("source", "volume")),
          attach(5, "/volume/a/file"),
          { op: "mkdir", path: "/volume/a/made/deep", mode: 0o755, uid: 1, gid: 1, force: 0 },
          { op: "mknod", path: "/volume/a/null", mode: 0o020666, major: 1, minor: 3, uid: 0, gid: 0 },
        ],
        masked: ["/volume/a/made", "/volume/b/file"],
        readonly: ["/volume/a/x"],
      }),
      { deny },
    );
    // Either all went well or one operation says that something moved; what the host has is never seen inside.
    expect(out.stdout).not.toMatch(/^host$/m);
    if (out.failed === "") {
      expect(out.stdout).toMatch(/done\n$/);
      outcomes.done++;
    } else {
      expect(out.failed).toMatch(/^failed (attach|mkdir|mknod|mask|readonly) errno=(116|18|17|2|20|22|40) /);
      outcomes.refused++;
    }
    expect(manifest()).toBe(before);
  }
  expect(scratch.mounts()).toBe(mounts);
  // Without any refusal there was no race.
  expect(outcomes.refused).toBeGreaterThan(0);
});
