/**
 * Races of an attacker against the set-up of containers: node test/race/race.ts [--seconds N]. Five seconds unless told; each scenario has
 * its share. Ends with "race: N passed, N failed".
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildPlanExec, Scratch, top } from "../native/plan-runner.ts";
import { Living } from "./living.ts";
import { type Scenario, scenarios } from "./scenarios.ts";

const { values } = parseArgs({ options: { seconds: { type: "string", default: "5" } } });
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new Error(`--seconds takes a number, not ${values.seconds}`);
/** However busy the machine is. */
const fewestEach = 8;
const most = 2000;

buildPlanExec();
using scratch = new Scratch();
const swap = join(scratch.path, "swap");
execFileSync("musl-gcc", ["-static", "-O2", "-Wall", "-Werror", "-o", swap, join(top, "test/race/swap.c")]);
scratch.directory("volume/a");
scratch.file("decoy/file", "host");
execFileSync("ln", ["-s", `../../../../../../../../..${join(scratch.path, "decoy")}`, join(scratch.path, "volume/b")]);
const counter = join(scratch.path, "counter");

const manifest = (): string =>
  execFileSync("find", [join(scratch.path, "decoy"), "-printf", "%p %i %m %U:%G %T@ %l\n"], { encoding: "utf8" });
const host = { decoy: manifest(), mounts: scratch.mounts(), passwd: readFileSync("/etc/passwd", "utf8") };

let passed = 0;
let failed = 0;
let attempts = 0;

async function repeat(scenario: Scenario, swaps: () => bigint, share: number): Promise<void> {
  const count = { done: 0, refused: 0 };
  const until = Date.now() + share * 1000;
  const before = swaps();
  try {
    for (;;) {
      const all = count.done + count.refused;
      // The attacker's turn may not have come yet.
      const met = swaps() > before || all >= most;
      if (all >= fewestEach && met && Date.now() >= until) break;
      count[(await scenario.attempt()) ? "done" : "refused"]++;
      const now = { decoy: manifest(), mounts: scratch.mounts(), passwd: readFileSync("/etc/passwd", "utf8") };
      for (const what of ["decoy", "mounts", "passwd"] as const)
        if (now[what] !== host[what]) throw new Error(`the host's ${what} changed: ${host[what]} became ${now[what]}`);
    }
    if (swaps() === before) throw new Error("the attacker did nothing meanwhile");
    passed++;
  } catch (error) {
    failed++;
    console.log(`FAILED  ${scenario.name}: ${error instanceof Error ? error.stack : error}`);
  }
  attempts += count.done + count.refused;
  console.log(`${scenario.name}: ${count.done} set up, ${count.refused} refused, ${swaps() - before} exchanges`);
}

const readCounter = (): bigint => (existsSync(counter) ? readFileSync(counter).readBigUInt64LE() : 0n);
async function attacked(scenario: Scenario, share: number): Promise<void> {
  const child = spawn(swap, [counter, ...scenario.swap], { stdio: "inherit" });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  await repeat(scenario, readCounter, share);
  child.kill("SIGKILL");
  await ended;
  rmSync(counter, { force: true });
}

const list = scenarios(scratch);
const share = seconds / (list.length + 2);
for (const scenario of list) await attacked(scenario, share);
{
  await using living = new Living(swap);
  await living.coveredProc((scenario, swaps) => repeat(scenario, swaps, share));
  await living.watchedExecs((scenario, swaps) => repeat(scenario, swaps, share));
}
console.log(`${attempts} set-ups were raced`);
console.log(`race: ${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
