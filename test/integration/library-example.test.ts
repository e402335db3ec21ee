/** examples/run-bash.ts as a user would start it: by the package's name, from what was built. */
import { execFile, spawnSync } from "node:child_process";
import { existsSync, globSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const top = join(import.meta.dirname, "../..");
const script = join(top, "examples/run-bash.ts");
const status = (name: string, text: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(text)?.[1];

/** All test containers of that name share one cgroup: one at a time. */
async function bash(line: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [script, "-c", line], { cwd: top, encoding: "utf8" });
  return stdout.trim();
}

it("runs bash as user daemon in namespaces of its own #ns-new #id-mappings #user #stdio #capabilities #rlimits #hostname", async () => {
  const text = await bash('id; echo "host $HOSTNAME home $HOME"; ulimit -n; cat /proc/self/uid_map; cat /proc/self/status');
  expect(text).toContain("uid=1(daemon) gid=1(daemon)");
  expect(text).toContain("host testing home /usr/sbin");
  expect(text).toMatch(/^1025$/m);
  expect(text).toMatch(/^\s*0\s+1000\s+65536$/m);
  expect(status("CapBnd", text)).toBe("0000000020000020");
  expect(status("CapInh", text)).toBe("0000000000000000");
  expect(status("CapAmb", text)).toBe("0000000000000000");
});

it("has the devices, masks, read-only paths and mounts that were asked for #default-devices #device-rules #masked-paths #read-only-paths #mqueue #tmpfs #loopback", async () => {
  const text = await bash(
    [
      "ls /dev",
      "echo x > /dev/null && echo null-works",
      "ls -A /sys/firmware | while read l; do echo firmware-shows $l; done",
      "cat /proc/self/mounts",
      "cat /proc/self/cgroup",
      "ls /proc | while read p; do [ -d /proc/$p/ns ] && echo pid $p; done",
      "cat /proc/net/dev",
    ].join("; "),
  );
  const devices = [
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
  ];
  expect(text.split("\n").slice(0, devices.length)).toEqual(devices);
  expect(text).toContain("null-works");
  for (const path of ["sys", "sysrq-trigger", "irq", "bus"]) {
    expect(text.includes(`proc /proc/${path} proc ro,`)).toBe(existsSync(`/proc/${path}`));
  }
  expect(text).not.toContain("firmware-shows");
  for (const line of [
    /^tmpfs \/dev tmpfs/m,
    /^devpts \/dev\/pts devpts/m,
    /^shm \/dev\/shm tmpfs .*size=65536k/m,
    /^mqueue \/dev\/mqueue mqueue/m,
  ])
    expect(text).toMatch(line);
  expect(text).toMatch(/^sysfs \/sys sysfs ro,/m);
  expect(text).not.toContain("test-container");
  expect(text).toMatch(/^pid 1$/m);
  expect([...text.matchAll(/^\s*(\w+):.*\d+ .*\d+/gm)].map(([, name]) => name)).toContain("lo");
});

it("ends as bash ends, reads this program's stdin, and leaves nothing #start-run #wait #destroy", () => {
  const { status: code, stdout } = spawnSync(process.execPath, [script], {
    cwd: top,
    encoding: "utf8",
    input: "echo from stdin\nexit 9\n",
  });
  expect([stdout, code]).toEqual(["from stdin\n", 9]);
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith("caisson-example-"))).toEqual([]);
  expect(globSync("/sys/fs/cgroup/{,*/}system/test-container")).toEqual([]);
});
