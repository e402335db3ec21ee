/** The client against the real shim: what the daemon needs of it, one connection at a time. */
import { closeSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { nsKind, podPin } from "../../src/core/plan-schema.ts";
import { connectShim } from "../../src/core/shim/connect.ts";
import { shimPhase } from "../../src/core/shim/messages.ts";
import { ProcessHandle, readStartTicks } from "../../src/core/shim/process-handle.ts";
import { loadShimImage, startShim } from "../../src/core/shim/start.ts";
import { readWaitStatus } from "../../src/core/shim/wait-status.ts";
import { addon } from "../../src/native/addon.ts";
import { seccompAction } from "../../src/native/constants.ts";
import { openDescriptors } from "../helpers/open-descriptors.ts";
import { buildShim, cgroup1, podId, ShimPod, until } from "../helpers/shim-pod.ts";

let binary: string;
let pod: ShimPod;
let before: readonly string[];

beforeAll(() => {
  binary = buildShim();
});
const open = async (path: string = binary): Promise<void> => {
  before = openDescriptors();
  pod = await ShimPod.start(path);
};
const close = async (): Promise<void> => {
  await pod[Symbol.asyncDispose]();
  expect(openDescriptors()).toEqual(before);
};

/** Kinds of what the shim has open, which must not grow. */
const shimDescriptors = (): readonly string[] =>
  openDescriptors(pod.process.identity.pid)
    .map((line) => line.replace(/^\d+ -> /, "").replace(/\[\d+\]/, ""))
    .toSorted();

/** Whether any process of the machine has this command line. */
const running = (...args: string[]): boolean =>
  readdirSync("/proc").some((entry) => {
    try {
      return readFileSync(`/proc/${entry}/cmdline`, "utf8") === `${args.join("\0")}\0`;
    } catch {
      return false;
    }
  });

describe("a pod's shim", () => {
  beforeEach(() => open());
  afterEach(close);

  it("starts where and as it shall", () => {
    const { pid } = pod.process.identity;
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, "utf8");
    expect(cgroups).toContain(`0::/caisson-shimtest-${process.pid}`);
    if (cgroup1 !== undefined) expect(cgroups).toContain(`pids:/caisson-shimtest-${process.pid}`);
    expect(readlinkSync(`/proc/${pid}/exe`)).toMatch(/memfd:caisson-shim/);
    const [, , , session] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    expect(Number(session)).toBe(pid);
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toBe(`caisson-shim\0--pod\0${podId}\0`);
    for (const kind of ["mnt", "pid", "net"]) {
      expect(readlinkSync(`/proc/${pid}/ns/${kind}`)).toBe(readlinkSync(`/proc/self/ns/${kind}`));
    }
  });

  it("passes on a usual descriptor limit, whatever it and Node take for themselves", async () => {
    await pod.run("c1", "sh", "-c", "ulimit -Sn");
    await pod.finish("c1");
    expect(pod.log("c1").stdout).toBe("1024");
  });

  it("makes namespaces, keeps them and hands them out", async () => {
    const kinds = nsKind.net | nsKind.uts;
    const made = await pod.shim.run({
      plan: [
        { op: "loopback-up" },
        { op: "hostname", name: "pod-one" },
        { op: "open-own-ns", out: 0, kind: nsKind.net },
        { op: "pin", slot: 0, pin: podPin.net },
        { op: "open-own-ns", out: 1, kind: nsKind.uts },
        { op: "pin", slot: 1, pin: podPin.uts },
      ],
      cloneKinds: kinds,
      deadlineMs: 5000,
      what: "namespaces",
    });
    expect(made).toEqual({ exitCode: 0, fds: [] });
    const { fds } = await pod.shim.run({
      plan: [
        { op: "join-ns", slot: podPin.net, kind: nsKind.net },
        { op: "open-own-ns", out: 0, kind: nsKind.net },
        { op: "export", slot: 0 },
        { op: "export", slot: podPin.uts },
      ],
      cloneKinds: 0,
      deadlineMs: 5000,
      what: "namespaces",
    });
    const links = fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`));
    expect(links.map((link) => link.replace(/\d+/, "N"))).toEqual(["net:[N]", "uts:[N]"]);
    expect(links[0]).not.toBe(readlinkSync("/proc/self/ns/net"));
    for (const fd of fds) closeSync(fd);
  });

  it("runs a container from creation to its exit, with its log", async () => {
    const pid = await pod.create("c1", { args: ["sh", "-c", "echo out; echo err >&2; exit 3"] });
    expect(await pod.shim.list()).toMatchObject([{ id: "c1", phase: shimPhase.parked, pid, startTicks: readStartTicks(pid) }]);
    expect(pod.log("c1").stdout).toBe("");
    const { startedAtNs } = await pod.shim.start("c1");
    expect(Math.abs(Number(startedAtNs) / 1e6 - Date.now())).toBeLessThan(5000);
    const exit = await pod.exitOf("c1");
    expect(readWaitStatus(exit.status)).toEqual({ exitCode: 3, signal: 0, known: true });
    expect(exit).toMatchObject({ pid, startedAtNs, oomKilled: 0, logDroppedBytes: 0n });
    expect(exit.atNs).toBeGreaterThanOrEqual(startedAtNs);
    expect(pod.log("c1")).toEqual({ stdout: "out", stderr: "err" });
    await pod.finish("c1");
    expect(await pod.shim.list()).toEqual([]);
  });

  it("takes a plan that does not fit a packet", async () => {
    const env = [`PATH=/bin`, ...Array.from({ length: 60 }, (_, i) => `V${i}=${"x".repeat(10_000)}`)];
    await pod.create("c1", { args: ["sh", "-c", "echo $V59 | wc -c"], env });
    await pod.shim.start("c1");
    expect(readWaitStatus((await pod.finish("c1")).status).exitCode).toBe(0);
    expect(pod.log("c1").stdout).toBe("10001");
  });

  it("loads what the seccomp compiler makes: refused, unknown and allowed system calls", async () => {
    const program = await addon.seccompCompile({
      defaultAction: seccompAction.allow,
      architectures: [],
      rules: ["mkdir", "mkdirat"].map((syscall) => ({ action: seccompAction.errno | 13, syscall, args: [] })),
    });
    await pod.create("c1", {
      args: ["sh", "-c", "mkdir /x; echo $?; grep ^Seccomp: /proc/self/status"],
      identity: [{ op: "no-new-privs" }, { op: "seccomp", flags: 0, program }],
    });
    await pod.shim.start("c1");
    await pod.finish("c1");
    expect(pod.log("c1")).toEqual({ stdout: "1\nSeccomp:\t2", stderr: "mkdir: can't create directory '/x': Permission denied" });
  });

  it("executes in a container: both streams, exit code, process 1 in sight", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const { stdout, stderr, ending, truncated } = await pod.exec("c1", pid, [
      "sh",
      "-c",
      "echo out; echo err >&2; cat /proc/1/cmdline; exit 42",
    ]);
    expect(stdout.toString()).toBe("out\nsleep\x00100\0");
    expect(stderr.toString()).toBe("err\n");
    expect(ending).toMatchObject({ exitCode: 42, signal: 0, timedOut: false });
    expect(truncated).toBe(false);
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const output = await pod.exec("c1", pid, ["sh", "-c", `echo ${i}; exit ${i}`]);
        expect([output.stdout.toString(), output.ending.exitCode]).toEqual([`${i}\n`, i]);
      }),
    );
  });

  it("bounds the output of both streams together and reads on (CVE-2022-1708, class-exec-output)", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const script = "dd if=/dev/zero bs=1000 count=3000 2>/dev/null; dd if=/dev/zero bs=1000 count=3000 >&2 2>/dev/null; exit 5";
    const { stdout, stderr, ending, truncated } = await pod.exec("c1", pid, ["sh", "-c", script], { maxOutputBytes: 100_000 });
    expect(stdout.length + stderr.length).toBe(100_000);
    expect(truncated).toBe(true);
    expect(ending.exitCode).toBe(5);
  });

  it("kills the whole session of an exec that takes too long (class-exec-time)", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const { ending, stdout } = await pod.exec("c1", pid, ["sh", "-c", "echo begin; sleep 4712 & sleep 4712"], { timeoutMs: 300 });
    expect(ending).toMatchObject({ timedOut: true, signal: 9, exitCode: 137 });
    expect(stdout.toString()).toBe("begin\n");
    expect(running("sleep", "4712")).toBe(false);
  });

  it("stops reading some time after the end of an exec whose child keeps the pipes", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const start = Date.now();
    const { stdout, ending } = await pod.exec("c1", pid, ["sh", "-c", "echo quick; sleep 60 &"], { drainMs: 300 });
    expect(Date.now() - start).toBeLessThan(5000);
    expect(Date.now() - start).toBeGreaterThanOrEqual(290);
    expect(stdout.toString()).toBe("quick\n");
    expect(ending.exitCode).toBe(0);
  });

  it("kills an exec whose caller has gone", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const abort = new AbortController();
    // No other process of the machine sleeps as long.
    const seconds = String(1_000_000 + process.pid);
    const executing = pod.exec("c1", pid, ["sh", "-c", `exec sleep ${seconds}`], { signal: abort.signal });
    await until("the exec", () => running("sleep", seconds));
    abort.abort();
    await expect(executing).rejects.toMatchObject({ code: "canceled" });
    await until("end of the exec", () => !running("sleep", seconds));
  });

  it("says what is wrong with a plan, and keeps nothing of it", async () => {
    await expect(
      pod.create("c1", { args: ["true"], open: [{ op: "open-tree", out: 9, path: "/nonexistent/volume", flags: 1 }] }),
    ).rejects.toMatchObject({
      code: "invalid_argument",
      message: 'container c1: cannot open "/nonexistent/volume" for mounting: no such file or directory (ENOENT)',
    });
    await expect(pod.create("c1", { args: ["true"], after: [{ op: "cwd", path: "/bin/sh", create: 0 }] })).rejects.toMatchObject({
      code: "invalid_argument",
      message: 'container c1: cannot change into the working directory "/bin/sh": not a directory (ENOTDIR)',
    });
    expect(await pod.shim.list()).toEqual([]);
  });

  it("says what is wrong with a command at its start, and the container ends", async () => {
    await pod.create("c1", { args: ["/nonexistent/command"] });
    await expect(pod.shim.start("c1")).rejects.toMatchObject({
      code: "invalid_argument",
      message: 'container c1: cannot execute "/nonexistent/command": no such file or directory (ENOENT)',
    });
    const exit = await pod.exitOf("c1");
    expect(exit.startedAtNs).toBe(0n);
    await pod.finish("c1");
  });

  it("says what is wrong with the command of an exec", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    await expect(pod.exec("c1", pid, ["nonexistent"])).rejects.toMatchObject({
      code: "invalid_argument",
      message: 'exec in container c1: exec: "nonexistent": executable file not found in $PATH',
    });
  });

  it("refuses requests that make no sense, with codes", async () => {
    await expect(pod.shim.start("nobody")).rejects.toMatchObject({ code: "not_found" });
    await expect(pod.shim.forget("nobody")).rejects.toMatchObject({ code: "not_found" });
    await expect(pod.shim.signal("nobody", 15, "init")).rejects.toMatchObject({ code: "not_found" });
    await pod.run("c1", "sleep", "100");
    await expect(pod.shim.start("c1")).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(pod.shim.forget("c1")).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(pod.create("c1", { args: ["true"] })).rejects.toMatchObject({ code: "already_exists" });
  });

  it("signals init alone or everything in the cgroup", async () => {
    await pod.create("c1", { args: ["sh", "-c", "trap 'exit 9' TERM; sleep 100 & wait"], cgroups: true });
    await pod.shim.start("c1");
    await sleep(200); // for the trap
    await pod.shim.signal("c1", 15, "init");
    expect(readWaitStatus((await pod.finish("c1")).status).exitCode).toBe(9);
    await pod.create("c2", { args: ["sleep", "100"], cgroups: true });
    await pod.shim.start("c2");
    await pod.shim.signal("c2", 9, "all");
    expect(readWaitStatus((await pod.exitOf("c2")).status)).toMatchObject({ signal: 9, exitCode: 137 });
    await pod.shim.signal("c2", 9, "init"); // has ended: no error
  });

  it("stops at barriers", async () => {
    const met: number[] = [];
    const pid = await pod.create("c1", {
      args: ["true"],
      before: [{ op: "barrier", number: 7 }],
      after: [{ op: "barrier", number: 8 }],
      onBarrier: async (number, child) => {
        expect(readStartTicks(child)).toBeDefined();
        met.push(number);
        await sleep(20);
      },
    });
    expect(met).toEqual([7, 8]);
    expect(readStartTicks(pid)).toBeDefined();
    const failing = pod.create("c2", {
      args: ["true"],
      before: [{ op: "barrier", number: 7 }],
      onBarrier: () => Promise.reject(new Error("no id map")),
    });
    await expect(failing).rejects.toThrow("no id map");
    await until(
      "removal of the child",
      () => readdirSync(`/proc/${pod.process.identity.pid}/task/${pod.process.identity.pid}`).length > 0,
    );
    await sleep(100);
    expect((await pod.shim.list()).map(({ id }) => id)).toEqual(["c1"]);
  });

  it("takes back a container whose creation is given up", async () => {
    const abort = new AbortController();
    const creating = pod.create("c1", {
      args: ["true"],
      before: [{ op: "barrier", number: 1 }],
      onBarrier: async () => {
        abort.abort();
        await sleep(50);
      },
      signal: abort.signal,
    });
    await expect(creating).rejects.toMatchObject({ code: "canceled" });
    await sleep(200);
    expect(await pod.shim.list()).toEqual([]);
  });

  it("starts programs of the host and tells their end", async () => {
    const [readEnd, writeEnd] = addon.pipe(0);
    const program = { argv: ["/bin/sh", "-c", 'echo "$X"; exit 6'], env: ["X=1"], cwd: "/", deadlineMs: 5000 };
    const { ended } = await pod.shim.spawnHost({ ...program, fds: [readEnd, writeEnd, writeEnd] });
    expect(await ended).toMatchObject({ exitCode: 6, timedOut: false });
    const late = await pod.shim.spawnHost({
      ...program,
      argv: ["/bin/sleep", "60"],
      fds: [readEnd, writeEnd, writeEnd],
      deadlineMs: 100,
    });
    expect(await late.ended).toMatchObject({ signal: 9, timedOut: true });
    closeSync(writeEnd);
    expect(readFileSync(readEnd, "utf8")).toBe("1\n");
    closeSync(readEnd);
  });

  it("has the same descriptors after a hundred execs and ten containers (class-watches)", async () => {
    const pid = await pod.run("c0", "sleep", "100");
    await pod.exec("c0", pid, ["true"]);
    const shimBefore = shimDescriptors();
    const mine = openDescriptors();
    for (let i = 0; i < 100; i++) await pod.exec("c0", pid, ["true"]);
    for (let i = 1; i <= 10; i++) {
      await pod.run(`c${i}`, "true");
      await pod.finish(`c${i}`);
    }
    await pod.create("refused", { args: ["true"], after: [{ op: "cwd", path: "/none", create: 0 }] }).catch(() => {});
    await pod.exec("c0", pid, ["nonexistent"]).catch(() => {});
    await until("idle shim", () => shimDescriptors().length === shimBefore.length);
    expect(shimDescriptors()).toEqual(shimBefore);
    expect(openDescriptors()).toEqual(mine);
  });

  it("takes its containers with it when it is killed, and that is seen", async () => {
    const pid = await pod.run("c1", "sleep", "100");
    const container = ProcessHandle.find({ pid, startTicks: readStartTicks(pid) ?? 0n });
    pod.process.kill(9);
    await pod.process.ended;
    await until("loss of the connection", () => pod.lost[0]);
    expect(pod.lost).toHaveLength(1);
    expect(pod.lost[0]?.code).toBe("unavailable");
    container?.kill(9); // what the runtime does by the cgroup
    await container?.ended;
    container?.[Symbol.dispose]();
    await expect(pod.reconnect()).rejects.toMatchObject({ code: "unavailable", fields: { errnoName: "ECONNREFUSED" } });
  });
});

describe("a daemon that goes and comes back", () => {
  beforeEach(() => open());
  afterEach(close);

  it("gets exits that happened meanwhile, again and again until it acknowledges them", async () => {
    await pod.create("c1", { args: ["sh", "-c", "echo late; exit 4"] });
    pod.shim.disconnect();
    await pod.reconnect();
    await pod.shim.start("c1");
    pod.shim.disconnect();
    await sleep(300);
    expect(pod.exits).toEqual([]);
    await pod.reconnect();
    expect(readWaitStatus((await pod.exitOf("c1")).status).exitCode).toBe(4);
    expect(pod.log("c1").stdout).toBe("late");
    pod.shim.disconnect();
    await pod.reconnect();
    await until("the exit once more", () => pod.exits.length === 2);
    await pod.shim.ackExit("c1");
    pod.shim.disconnect();
    await pod.reconnect();
    await sleep(100);
    expect(pod.exits).toHaveLength(2);
    expect(await pod.shim.list()).toMatchObject([{ id: "c1", phase: shimPhase.exited }]);
    await pod.shim.forget("c1");
  });

  it("finds nothing of what was half made when it went", async () => {
    const creating = pod.create("c1", {
      args: ["true"],
      before: [{ op: "barrier", number: 1 }],
      onBarrier: async () => pod.shim.disconnect(),
    });
    await expect(creating).rejects.toMatchObject({ code: "unavailable" });
    await pod.reconnect();
    await sleep(100);
    expect(await pod.shim.list()).toEqual([]);
  });

  it("does not mistake another process for the shim that it recorded", async () => {
    const { pid, startTicks } = pod.process.identity;
    const listeners = { onExit: () => {}, onLost: () => {} };
    const wrong = connectShim({ podId, runDir: pod.runDir, expected: { pid, startTicks: startTicks + 1n }, listeners });
    await expect(wrong).rejects.toMatchObject({ code: "failed_precondition" });
    await expect(connectShim({ podId: "a".repeat(64), runDir: pod.runDir, expected: null, listeners })).rejects.toThrow(
      /cannot be trusted/,
    );
    expect(ProcessHandle.find({ pid, startTicks: startTicks + 1n })).toBeUndefined();
    using found = ProcessHandle.find({ pid, startTicks });
    expect(found).toBeDefined();
  });

  it("can be two at a time: both hear of an exit", async () => {
    const heard: string[] = [];
    const second = await connectShim({
      podId,
      runDir: pod.runDir,
      expected: pod.process.identity,
      listeners: { onExit: (exit) => heard.push(exit.id), onLost: () => {} },
    });
    await pod.run("c1", "true");
    await until("exit at the second", () => heard[0]);
    await pod.finish("c1");
    second.disconnect();
  });
});

describe.each([
  { name: "the version before", protocol: 1, minProtocol: 1, speaks: 1 },
  { name: "the version after", protocol: 3, minProtocol: 2, speaks: 2 },
])("a shim of $name", ({ protocol, minProtocol, speaks }) => {
  let other: string;
  beforeAll(() => {
    other = buildShim({ protocol, minProtocol, build: `protocol-${protocol}` });
  });
  beforeEach(() => open(other));
  afterEach(close);

  it("creates, executes, logs, reports the exit and stops", async () => {
    expect(pod.shim).toMatchObject({ protocol: speaks, build: `protocol-${protocol}` });
    const pid = await pod.run("c1", "sh", "-c", "trap 'echo bye; exit 8' TERM; echo hello; sleep 100 & wait");
    await until("output", () => pod.log("c1").stdout === "hello");
    expect((await pod.exec("c1", pid, ["sh", "-c", "echo hi"])).stdout.toString()).toBe("hi\n");
    await pod.shim.signal("c1", 15, "init");
    expect(readWaitStatus((await pod.finish("c1")).status).exitCode).toBe(8);
    expect(pod.log("c1").stdout).toBe("hello\nbye");
    await pod.shim.shutdown();
    await pod.process.ended;
  });
});

describe("a shim too far away", () => {
  it("is refused with both ranges, and not left running", async () => {
    const before = openDescriptors();
    const far = buildShim({ protocol: 9, minProtocol: 8, build: "protocol-9" });
    await expect(ShimPod.start(far)).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringMatching(/refuses this daemon \(protocols 1 to 2\): .*this shim speaks 8 to 9/),
    });
    expect(running("caisson-shim", "--pod", podId)).toBe(false);
    expect(openDescriptors()).toEqual(before);
  });
});

describe("a shim that becomes a newer one", () => {
  beforeEach(() => open());
  afterEach(close);

  it("keeps pid, containers, logs and exits, while a container runs", async () => {
    const newer = buildShim({ protocol: 3, minProtocol: 1, build: "protocol-3-wide" });
    const script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 5";
    const pid = await pod.run("c1", "sh", "-c", script);
    await pod.create("c2", { args: ["sh", "-c", "echo parked then run"] });
    await pod.run("c3", "sh", "-c", "exit 2");
    await pod.exitOf("c3");
    const pinned = await pod.shim.run({
      plan: [
        { op: "open-own-ns", out: 0, kind: nsKind.uts },
        { op: "pin", slot: 0, pin: podPin.uts },
      ],
      cloneKinds: nsKind.uts,
      deadlineMs: 5000,
      what: "pin",
    });
    expect(pinned.exitCode).toBe(0);
    const image = await loadShimImage(newer);
    await pod.shim.reexec(image.fd);
    image[Symbol.dispose]();
    await until("end of the old connection", () => !pod.shim.connected);
    await pod.reconnect();
    expect(pod.shim).toMatchObject({ build: "protocol-3-wide", process: pod.process.identity });
    expect((await pod.shim.list()).map(({ id, phase }) => [id, phase]).toSorted()).toEqual([
      ["c1", shimPhase.running],
      ["c2", shimPhase.parked],
      ["c3", shimPhase.exited],
    ]);
    expect((await pod.exec("c1", pid, ["sh", "-c", "echo still"])).stdout.toString()).toBe("still\n");
    await pod.shim.run({
      plan: [{ op: "join-ns", slot: podPin.uts, kind: nsKind.uts }],
      cloneKinds: 0,
      deadlineMs: 5000,
      what: "pin",
    });
    await pod.shim.start("c2");
    expect(readWaitStatus((await pod.finish("c2")).status).exitCode).toBe(0);
    expect(pod.log("c2").stdout).toBe("parked then run");
    expect(readWaitStatus((await pod.finish("c1")).status).exitCode).toBe(5);
    expect(pod.log("c1").stdout.split("\n")).toEqual(Array.from({ length: 40 }, (_, i) => `line ${i}`));
    await pod.finish("c3");
  });
});

describe("starting a shim", () => {
  it("fails with the shim's own words, and leaves neither process nor descriptor", async () => {
    const image = await loadShimImage(binary);
    const before = openDescriptors();
    const options = {
      runDir: "/tmp",
      image,
      cgroup: { directory: null, taskFiles: [] },
      softNofile: null,
      stderrFd: null,
      env: [],
      listeners: { onExit: () => {}, onLost: () => {} },
    };
    await expect(startShim({ ...options, podId: "not a pod" })).rejects.toThrow(
      /did not start: caisson-shim: --pod: Invalid argument/,
    );
    await expect(startShim({ ...options, podId, runDir: "/nonexistent" })).rejects.toThrow(/cannot be started: ENOENT/);
    await expect(
      startShim({ ...options, podId, cgroup: { directory: null, taskFiles: ["/nonexistent/tasks"] } }),
    ).rejects.toThrow(/cannot be started: open of a cgroup's tasks/);
    await expect(startShim({ ...options, podId, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "canceled" });
    expect(openDescriptors()).toEqual(before);
    const children = readdirSync("/proc/self/task").flatMap((task) =>
      readFileSync(`/proc/self/task/${task}/children`, "utf8").trim().split(" "),
    );
    expect(children.filter((pid) => pid !== "" && /shim/.test(readFileSync(`/proc/${pid}/stat`, "utf8")))).toEqual([]);
    image[Symbol.dispose]();
  });
});
