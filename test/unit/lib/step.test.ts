import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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

  it("heeds a file that says what is armed now, and is let out of its pause when the file says something else", async () => {
    const dir = mkdtempSync(join(tmpdir(), "caisson-step-"));
    const [file, trace] = [join(dir, "fault"), join(dir, "trace")];
    const env = { ...process.env, CAISSON_FAULT_FILE: file, CAISSON_FAULT_TRACE: trace };
    const twice = `${program} console.log(await step("pod.forget", () => "again"));`;
    writeFileSync(file, "pause=60000:after:pod.forget");
    const child = spawn(process.execPath, ["--input-type=module", "-e", twice], { env, stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    child.stdout.on("data", (chunk) => {
      said += chunk;
    });
    const paused = () => existsSync(trace) && readFileSync(trace, "utf8").includes("pause:after:pod.forget");
    await expect.poll(paused, { timeout: 15_000 }).toBe(true);
    expect(said).toBe("");
    writeFileSync(file, "kill:before:pod.forget");
    const [, signal] = await once(child, "close");
    expect([said, signal]).toEqual(["done\n", "SIGKILL"]);
    rmSync(dir, { recursive: true });
  });

  it("has a name of its own", () => {
    expect(new Set(allSteps).size).toBe(allSteps.length);
  });
});
