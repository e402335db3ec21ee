/**
 * The shim as a process: protocol, life of containers, logs, execs, signals, OOM, re-exec, memory. The tests are written in Python
 * (test/native/shim), which has SEQPACKET sockets with descriptors of its own: nothing of the daemon takes part.
 */
import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, describe, expect, it } from "vitest";

const directory = join(import.meta.dirname, "shim");
const native = join(import.meta.dirname, "../../native");
const run = promisify(execFile);
const python = async (...args: readonly string[]): Promise<string> => {
  const { stderr } = await run("python3", ["-B", join(directory, "one.py"), ...args], {
    cwd: directory,
    maxBuffer: 64 << 20,
  }).catch((error: { stderr?: string }) => ({ stderr: error.stderr ?? String(error) }));
  return stderr;
};
const tests = execFileSync("python3", ["-B", join(directory, "one.py")], { cwd: directory, encoding: "utf8" })
  .trim()
  .split("\n");
const groups = Map.groupBy(tests, (id) => id.split(".").slice(0, 2).join("."));

beforeAll(() => {
  execFileSync("make", ["-C", native, "-s", `NODE=${process.execPath}`, "shim"], { stdio: "inherit" });
});

for (const [group, ids] of groups) {
  describe(group.replace("test_", "shim "), () => {
    it.each(ids)("%s", async (id) => {
      expect(await python(id)).toMatch(/\nOK\n$/);
    });
  });
}
