/**
 * Runs test files inside the virtual machine, one after the other, with Vitest's runner and expectations but without its processes and
 * servers. Prints one line per case, what went wrong at once, and ends with "vm: N passed, N failed".
 */

import type { Suite, Task, Test, VitestRunner } from "@vitest/runner";
import { startTests } from "@vitest/runner";
import type { Chosen } from "./bundle.ts";

/** The emulated processor is slow, and the host may be busy: what hangs is ended all the same. */
const patienceMs = 240_000;
let passed = 0;
let failed = 0;

const config: VitestRunner["config"] = {
  root: process.cwd(),
  setupFiles: [],
  name: undefined,
  passWithNoTests: false,
  testNamePattern: undefined,
  allowOnly: false,
  sequence: { seed: 1, hooks: "stack", setupFiles: "list" },
  chaiConfig: undefined,
  maxConcurrency: 1,
  testTimeout: patienceMs,
  hookTimeout: patienceMs,
  retry: 0,
  includeTaskLocation: false,
  tags: [],
  tagsFilter: undefined,
  strictTags: false,
};

const nameOf = (task: Task): string => (task.suite === undefined ? task.name : `${nameOf(task.suite)} > ${task.name}`);

function report(task: Test | Suite): void {
  const { state, errors = [], duration = 0 } = task.result ?? {};
  if (state === "pass" && task.type === "test") {
    passed++;
    console.log(`ok      ${nameOf(task)} (${Math.round(duration)} ms)`);
  }
  // A suite fails with its tests, and by itself when a hook of it does: only then it has errors of its own.
  if (state === "fail" && (task.type === "test" || errors.length > 0)) {
    failed++;
    console.log(`FAILED  ${nameOf(task)}`);
    for (const { stack, message, diff } of errors) console.log(stack ?? message, diff ?? "");
  }
}

export async function runFiles(files: readonly (Chosen & { readonly load: () => Promise<unknown> })[]): Promise<void> {
  // Vitest's expectations look for what its worker would have told.
  const worker = { config: { expect: { poll: { timeout: patienceMs } }, snapshotOptions: {} }, providedContext: {} };
  Object.assign(globalThis, { __vitest_worker__: worker });
  for (const { file, cases = "", load } of files) {
    const began = performance.now();
    const runner: VitestRunner = { config, importFile: load, onAfterRunTask: report, onAfterRunSuite: report };
    const before = passed + failed;
    const [task] = await startTests([{ filepath: file, testNamePattern: new RegExp(cases) }], runner);
    // A file that could not be loaded has run nothing, and so has a choice of cases that fits none.
    if (task?.result?.state === "fail" && task.tasks.length === 0) report(task);
    else if (passed + failed === before) {
      failed++;
      console.log(`FAILED  ${file}: no case is called ${cases}`);
    }
    console.log(`        ${file} took ${Math.round((performance.now() - began) / 1000)} s`);
  }
  console.log(`vm: ${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
