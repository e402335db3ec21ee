/**
 * Boots virtual machines, two at a time, and runs test files in them: those of test/vm/boots.ts, or of some of its boots (BOOT), or those
 * of the command line (FILE or FILE=CASES) in one boot. Its last line has the sums: "vm: N passed, N failed". Started by scripts/test-vm.
 */
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Boot, boots, byHand } from "../boots.ts";
import { bundleActor, bundleProduct, bundleTests } from "./bundle.ts";

const top = join(import.meta.dirname, "../../..");
const scratch = join(top, ".tools/vm-run", String(process.pid));
const atOnce = 2;
let passed = 0;
let failed = 0;

const args = process.argv.slice(2);
const named = boots.filter(({ name }) => args.includes(name));
const chosen = args.map((arg) => {
  const [file = "", ...cases] = arg.split("=");
  return cases.length === 0 ? { file } : { file, cases: cases.join("=") };
});
const byArguments: readonly Boot[] = named.length > 0 ? named : [{ ...byHand, files: chosen }];
const wanted = args.length > 0 ? byArguments : boots;

/** The bundled product takes the place of dist/. V8's tier-up of WebAssembly now and then aborts under the emulator. */
const commandOf = (program: string): string =>
  [
    `mount --bind ${scratch}/dist ${top}/dist`,
    `export PATH=${top}/.tools/criu:$PATH CAISSON_TEST_ACTOR=${scratch}/library-actor.mjs`,
    `exec ${process.execPath} --disable-warning=ExperimentalWarning --liftoff-only --enable-source-maps ${program}`,
  ].join(" && ");

async function run(boot: Boot, at: number): Promise<void> {
  const began = performance.now();
  const options = ["--share", top, "--share-cache", "always", "--timeout", "900", "--mem", "3072", ...boot.options];
  const child = spawn(join(top, "scripts/vm-run"), [...options, commandOf(join(scratch, String(at), "run.mjs"))], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, VM_PKGS: "libarchive13 libzstd1 zlib1g libssl3" },
  });
  let sums: readonly number[] = [0, 1];
  for await (const line of createInterface({ input: child.stdout })) {
    const found = /^vm: (\d+) passed, (\d+) failed/.exec(line);
    if (found === null) console.log(wanted.length > 1 ? `${boot.name}: ${line}` : line);
    else sums = found.slice(1).map(Number);
  }
  passed += sums[0] ?? 0;
  failed += sums[1] ?? 1;
  console.log(`== ${boot.name}: ${sums[0]} passed, ${sums[1]} failed, ${Math.round((performance.now() - began) / 1000)} s`);
}

mkdirSync(scratch, { recursive: true });
await bundleProduct(join(scratch, "dist"));
await bundleActor(scratch);
for (const [at, { files }] of wanted.entries()) await bundleTests(join(scratch, String(at)), files);
const waiting = wanted.map((boot, at) => () => run(boot, at));
await Promise.all(
  Array.from({ length: atOnce }, async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await next();
  }),
);
rmSync(scratch, { recursive: true, force: true });
console.log(`vm: ${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
