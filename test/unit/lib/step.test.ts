import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { allSteps, armFault, parseFault, step } from "../../../src/lib/step.ts";

afterEach(() => armFault(undefined));
const module = join(import.meta.dirname, "../../../src/lib/step.ts");
const program = `import { step } from ${JSON.stringify(module)}; console.log(await step("pod.forget", () => "done"));`;

describe("a fault", () => {
  it.each([
    ["kill:before:pod.forget", { action: "kill", when: "before", step: "pod.forget" }],
    ["throw:after:exec.shim-exec", { action: "throw", when: "after", step: "exec.shim-exec" }],
    ["pause=50:before:pod.destroy", { action: "pause", pauseMs: 50, when: "before", step: "pod.destroy" }],
  ])("is read from %s", (text, fault) => {
    expect(parseFault(text)).toMatchObject(fault);
  });

  it.each(["kill:before:no.such-step", "explode:before:pod.forget", "kill:during:pod.forget", "pod.forget"])(
    "refuses %s",
    (text) => {
      expect(() => parseFault(text)).toThrow("names no fault");
    },
  );

  it("is absent without a text", () => {
    expect(parseFault(undefined)).toBeUndefined();
    expect(parseFault("")).toBeUndefined();
  });
});

describe("a step", () => {
  it("does its synchronous work in the caller's tick", () => {
    let done = false;
    void step("pod.forget", () => {
      done = true;
    });
    expect(done).toBe(true);
  });

  it("fails before or after its work when armed so", async () => {
    const seen: string[] = [];
    for (const when of ["before", "after"] as const) {
      void armFault({ action: "throw", pauseMs: 0, when, step: "pod.forget" });
      await step("pod.forget", () => seen.push(when)).catch(() => {});
    }
    expect(seen).toEqual(["after"]);
  });

  it("kills its process with SIGKILL", () => {
    const { signal } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
      env: { ...process.env, CAISSON_FAULT: "kill:after:pod.forget" },
    });
    expect(signal).toBe("SIGKILL");
  });

  it("leaves a trace where one is asked for", () => {
    const dir = mkdtempSync(join(tmpdir(), "caisson-step-"));
    const trace = join(dir, "trace");
    const env = { ...process.env, CAISSON_FAULT_TRACE: trace };
    expect(execFileSync(process.execPath, ["--input-type=module", "-e", program], { env, encoding: "utf8" })).toBe("done\n");
    expect(readFileSync(trace, "utf8")).toBe("pod.forget\n");
    rmSync(dir, { recursive: true });
  });

  it("has a name of its own", () => {
    expect(new Set(allSteps).size).toBe(allSteps.length);
  });
});
