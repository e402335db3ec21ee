import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { prettyLine } from "../../../src/lib/log.ts";

const run = (code: string): { line: Record<string, unknown>; text: string } => {
  const source = `import { createLog } from "./src/lib/log.ts"; import { RuntimeError } from "./src/lib/errors.ts"; const log = createLog("info"); ${code}`;
  const { stderr } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", source], {
    cwd: join(import.meta.dirname, "../../.."),
    encoding: "utf8",
    env: { ...process.env, NODE_NO_WARNINGS: "1" },
  });
  return { line: JSON.parse(stderr.split("\n")[0] ?? "") as Record<string, unknown>, text: stderr };
};

it("writes one JSON line with level, time, message and fields", () => {
  const { line } = run('log.child({ rpc: "X" }).info({ id: "a" }, "hello"); log.debug({}, "not this");');
  expect(line).toMatchObject({ level: "info", msg: "hello", rpc: "X", id: "a" });
  expect(Date.parse(String(line.time))).toBeGreaterThan(Date.now() - 60_000);
});

it("hides secrets", () => {
  const { text } = run(
    'log.info({ password: "s3cret", request: { auth: { username: "u", password: "s3cret" } }, headers: { authorization: "s3cret" } }, "x");',
  );
  expect(text).not.toContain("s3cret");
});

it("shows an error's code, fields and cause, and a stack only of what is unexpected", () => {
  const { line } = run(
    'log.warn({ err: new RuntimeError("not_found", "no such pod", { id: "p" }, new Error("inner")) }, "rpc failed");',
  );
  expect(line.err).toMatchObject({ code: "not_found", message: "no such pod", id: "p", cause: { message: "inner" } });
  expect(Object.hasOwn(line.err as object, "stack")).toBe(false);
  expect(run('log.error({ err: new Error("x") }, "y");').line.err).toHaveProperty("stack");
});

it("is short text on a terminal", () => {
  const line = '{"level":"warn","time":"2026-11-23T14:14:00.123Z","msg":"odd","err":{"message":"why"},"id":"a","n":1}';
  expect(prettyLine(line)).toBe("14:14:00.123 warn  odd error=why id=a n=1\n");
});
