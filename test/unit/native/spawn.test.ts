import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addon, errnoOf, isErrno } from "../../../src/native/addon.ts";
import type { SpawnRequest } from "../../../src/native/types.ts";
import { openDescriptors } from "../../helpers/open-descriptors.ts";

const defaults: SpawnRequest = {
  path: "/bin/sh",
  imageFd: null,
  argv: ["sh"],
  env: ["PATH=/usr/bin:/bin"],
  cwd: null,
  fds: [],
  parentDeathSignal: 0,
  newSession: false,
};

/** Runs a shell script; its stdout. `extra` are further descriptors from 3 on. */
async function shell(script: string, change: Partial<SpawnRequest> = {}, extra: readonly number[] = []) {
  const [readEnd, writeEnd] = addon.pipe(0);
  const child = addon.spawn({ ...defaults, argv: ["sh", "-c", script], fds: [null, writeEnd, writeEnd, ...extra], ...change });
  addon.close(writeEnd);
  let output = "";
  await new Promise((resolve) =>
    addon.readPipe(
      readEnd,
      (chunk) => {
        output += chunk.toString();
      },
      resolve,
    ),
  );
  const exit = await addon.waitChild(child.pidfd);
  addon.close(child.pidfd);
  return { output, exit, pid: child.pid };
}

it("starts nothing with the short slices and the nice value below 0 of this thread", async () => {
  const nice = getPriority();
  addon.setSlices(100, -3);
  try {
    const { output } = await shell("chrt -p $$; nice");
    expect(output).toContain("SCHED_OTHER\n");
    expect(output).toMatch(/\n0\n$/);
  } finally {
    addon.setSlices(3000, nice);
  }
});

const statusLine = (status: string, key: string): string | undefined => new RegExp(`^${key}:\\s*(\\S+)`, "m").exec(status)?.[1];

describe.each([
  { kind: "", deny: [] },
  { kind: " without clone3 and close_range", deny: ["clone3", "close_range"] },
])("spawn$kind", ({ deny }) => {
  beforeAll(() => addon.denySyscalls(deny));
  afterAll(() => addon.denySyscalls([]));

  it("tells the exit code and the signal", async () => {
    expect((await shell("exit 7")).exit).toEqual({ code: 7, signal: 0 });
    expect((await shell("kill -TERM $$")).exit).toEqual({ code: -1, signal: 15 });
  });

  it("gives the child an empty mask, default dispositions, umask 022 and a usual descriptor limit", async () => {
    process.on("SIGUSR2", () => {});
    const mine = readFileSync("/proc/self/status", "utf8");
    expect(statusLine(mine, "SigIgn")).not.toBe("0000000000000000"); // node ignores SIGPIPE: the test would prove nothing
    const { output } = await shell("umask; ulimit -Sn; exec cat /proc/self/status");
    expect(output.split("\n").slice(0, 2)).toEqual(["0022", "1024"]);
    expect(statusLine(output, "SigIgn")).toBe("0000000000000000");
    expect(statusLine(output, "SigBlk")).toBe("0000000000000000");
    process.removeAllListeners("SIGUSR2");
  });

  it("keeps its own signal mask and dispositions", async () => {
    const before = readFileSync("/proc/thread-self/status", "utf8");
    await shell("true");
    const after = readFileSync("/proc/thread-self/status", "utf8");
    for (const key of ["SigBlk", "SigIgn", "SigCgt"]) expect(statusLine(after, key)).toBe(statusLine(before, key));
  });

  it("caps the soft descriptor limit at the hard one", async () => {
    const hard = (await shell("ulimit -Hn")).output;
    expect((await shell("ulimit -Sn", { softNofile: 4_000_000_000 })).output).toBe(hard);
    expect((await shell("ulimit -Sn", { softNofile: 333 })).output).toBe("333\n");
  });

  it("passes the listed descriptors and nothing else", async () => {
    const leak = openSync("/etc/hostname", "r");
    const { output } = await shell("exec ls -l /proc/self/fd");
    closeSync(leak);
    const targets = [...output.matchAll(/(\d+ -> \S+)$/gm)].map(([target]) =>
      target.replace(/:\[\d+\]/, "").replace(/\/\d+\/fd/, "/PID/fd"),
    );
    expect(targets).toEqual(["0 -> /dev/null", "1 -> pipe", "2 -> pipe", "3 -> /proc/PID/fd"]); // 3 is what ls itself opened
  });

  it("gets descriptors right whose numbers overlap with their targets", async () => {
    // Low numbers are wanted as sources: close some until the kernel hands them out again.
    const files = Array.from({ length: 40 }, (_, i) => {
      writeFileSync(`/tmp/caisson-fd-${process.pid}-${i}`, `${i}`);
      return openSync(`/tmp/caisson-fd-${process.pid}-${i}`, "r");
    });
    const most = Math.max(...files);
    const shuffled = [...files, ...files].sort((a, b) => ((a * 7919) % 101) - ((b * 7919) % 101));
    const names = shuffled.map((fd) => files.indexOf(fd));
    expect(shuffled.length).toBeGreaterThan(most - 20); // targets reach into the sources
    const { output } = await shell("for n in $(seq 3 82); do readlink /proc/$$/fd/$n; done", {}, shuffled);
    for (const fd of files) closeSync(fd);
    expect(output.trim().split("\n")).toEqual(names.map((i) => `/tmp/caisson-fd-${process.pid}-${i}`));
    for (let i = 0; i < files.length; i++)
      await import("node:fs/promises").then((fs) => fs.rm(`/tmp/caisson-fd-${process.pid}-${i}`));
  });

  it("executes a sealed image that nobody can write to", async () => {
    const image = addon.sealedMemfd("busybox", readFileSync("/bin/busybox"), true);
    const { output, exit } = await shell("", {
      path: "busybox",
      imageFd: image,
      argv: ["busybox", "readlink", "/proc/self/exe"],
    });
    expect(output).toBe("/memfd:busybox (deleted)\n");
    expect(exit.code).toBe(0);
    expect(() => openSync(`/proc/self/fd/${image}`, "r+")).not.toThrow(); // opening is not refused, writing is
    const writable = openSync(`/proc/self/fd/${image}`, "r+");
    expect(() => writeFileSync(writable, "x")).toThrow(/EPERM/);
    closeSync(writable);
    addon.close(image);
  });

  it("says which call failed and why, and leaves neither zombie nor descriptor", () => {
    const before = openDescriptors();
    const failure = (change: Partial<SpawnRequest>): unknown => {
      try {
        addon.spawn({ ...defaults, ...change });
      } catch (error) {
        return error;
      }
      throw new Error("it did not fail");
    };
    expect(failure({ path: "/nonexistent" })).toMatchObject({
      message: 'execve of "/nonexistent": no such file or directory (ENOENT)',
      fields: { errno: 2, errnoName: "ENOENT", syscall: "execve" },
    });
    expect(failure({ cwd: "/nonexistent" })).toMatchObject({ fields: { syscall: "chdir" } });
    expect(isErrno(failure({ fds: [9999] }), "EBADF")).toBe(true);
    expect(errnoOf(failure({ taskFiles: ["/nonexistent/tasks"] }))).toBe(2);
    expect(openDescriptors()).toEqual(before);
    expect(readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim()).toBe("");
  });

  it("refuses arguments of the wrong shape instead of guessing", () => {
    expect(() => addon.spawn({ ...defaults, argv: ["a\0b"] })).toThrow(/without NUL/);
    expect(() => addon.spawn({ ...defaults, fds: [Number.NaN] })).toThrow(/descriptors/);
  });

  it("starts a session of its own when asked", async () => {
    const { output, pid } = await shell("cut -d' ' -f6 /proc/$$/stat", { newSession: true });
    expect(Number(output)).toBe(pid);
  });

  it("costs what a vfork costs, however large the heap is", async () => {
    const ballast = Buffer.alloc(200 << 20, 1);
    const times: number[] = [];
    for (let i = 0; i < 50; i++) {
      const start = process.hrtime.bigint();
      const child = addon.spawn({ ...defaults, path: "/bin/busybox", argv: ["true"] });
      times.push(Number(process.hrtime.bigint() - start) / 1000);
      await addon.waitChild(child.pidfd);
      addon.close(child.pidfd);
    }
    expect(ballast.length).toBeGreaterThan(0);
    const fastest = Math.min(...times);
    expect(fastest).toBeLessThan(1500); // a fork of this process takes several milliseconds
  });
});

describe("pidfd", () => {
  it("waits for a process that is not a child, and for one that has ended already", async () => {
    const child = addon.spawn({ ...defaults, argv: ["sh", "-c", "exec sleep 100"] });
    const second = addon.pidfdOpen(child.pid);
    const gone = addon.waitGone(second);
    addon.close(second); // the wait has its own
    addon.pidfdSignal(child.pidfd, 9);
    await gone;
    await addon.waitGone(child.pidfd);
    expect(await addon.waitChild(child.pidfd)).toEqual({ code: -1, signal: 9 });
    expect(() => addon.pidfdSignal(child.pidfd, 0)).toThrow(/ESRCH/);
    addon.close(child.pidfd);
    await expect(addon.waitChild(child.pidfd)).rejects.toThrow(/EBADF/);
  });

  it("kills a group, but never all groups", async () => {
    const child = addon.spawn({ ...defaults, argv: ["sh", "-c", "sleep 100 & sleep 100"], newSession: true });
    addon.killGroup(child.pid, 9);
    expect((await addon.waitChild(child.pidfd)).signal).toBe(9);
    addon.close(child.pidfd);
    expect(() => addon.killGroup(1, 9)).toThrow(/above 1/);
    expect(() => addon.killGroup(0, 9)).toThrow(/above 1/);
  });

  it("does not keep the process alive for a wait in the background", () => {
    const script = `
      const { addon } = await import(${JSON.stringify(new URL("../../../src/native/addon.ts", import.meta.url).href)});
      const child = addon.spawn({ path: "/bin/sleep", imageFd: null, argv: ["sleep", "30"], env: [], cwd: null, fds: [], parentDeathSignal: 9, newSession: false });
      addon.waitChild(child.pidfd, true).then(() => console.log("ended"));
    `;
    const start = Date.now();
    const out = addon.pipe(0);
    const child = addon.spawn({
      ...defaults,
      path: process.execPath,
      argv: ["node", "--input-type=module", "-e", script],
      fds: [null, out[1], 2],
    });
    addon.close(out[1]);
    addon.close(out[0]);
    return addon.waitChild(child.pidfd).then((exit) => {
      addon.close(child.pidfd);
      expect(exit.code).toBe(0);
      expect(Date.now() - start).toBeLessThan(15_000);
    });
  });
});
