/** Pods with a user namespace, with a shared PID namespace and its reaper, and pinned namespaces. */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Op } from "../../src/core/plan.ts";
import { nsKind, podPin } from "../../src/core/plan-schema.ts";
import {
  attach,
  attr,
  bind,
  buildPlanExec,
  container,
  containerKinds,
  containerPlan,
  devMounts,
  msRecSlave,
  overlayStep,
  procMount,
  Scratch,
  type Step,
  tmpfs,
} from "./plan-runner.ts";

let scratch: Scratch;
beforeAll(() => {
  buildPlanExec();
  scratch = new Scratch();
});
afterAll(() => scratch[Symbol.dispose]());

/** Zombies wait for whoever inherits them. */
const isAlive = (pid: string): boolean => {
  try {
    return !/State:\s+[ZX]/.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const pinOwn = (kind: number, pin: number): Op[] => [
  { op: "open-own-ns", out: 30, kind },
  { op: "pin", slot: 30, pin },
];

const userPod: Step = {
  cloneKinds: 0,
  plan: [
    { op: "clean-start" },
    { op: "new-userns", uidMap: "0 100000 65536\n", gidMap: "0 200000 65536\n" },
    ...pinOwn(nsKind.user, podPin.user),
    { op: "new-ns", kinds: nsKind.net | nsKind.ipc | nsKind.uts },
    { op: "loopback-up" },
    { op: "hostname", name: "pod" },
    ...pinOwn(nsKind.net, podPin.net),
    ...pinOwn(nsKind.ipc, podPin.ipc),
    ...pinOwn(nsKind.uts, podPin.uts),
  ],
};
const joins: Op[] = [
  { op: "join-ns", slot: podPin.user, kind: nsKind.user },
  { op: "join-ns", slot: podPin.net, kind: nsKind.net },
  { op: "join-ns", slot: podPin.ipc, kind: nsKind.ipc },
  { op: "join-ns", slot: podPin.uts, kind: nsKind.uts },
];
const hostDevices = ["null", "zero", "urandom"] as const;

function userContainer(name: string, script: string, rootPath: string): readonly Step[] {
  const overlay = overlayStep(scratch, name, ["lower"], podPin.user);
  chownSync(join(scratch.path, name, "upper"), 100000, 200000);
  const volume = scratch.directory(`${name}-volume`);
  chownSync(scratch.file(`${name}-volume/file`, "content"), 7, 8);
  return [
    userPod,
    overlay,
    {
      cloneKinds: 0,
      plan: [
        { op: "parent-death-signal", signal: 9 },
        { op: "clean-start" },
        { op: "oom-score-adj", value: 321n },
        { op: "chown-slot", slot: 1, uid: 101000, gid: 201000 },
        { op: "chown-slot", slot: 2, uid: 101000, gid: 201000 },
        bind(4, volume),
        { op: "mount-attr", slot: 4, set: 0, clear: 0, propagation: 0, recursive: 0, userns: podPin.user },
        ...hostDevices.map((device, i) => bind(5 + i, `/dev/${device}`)),
        ...joins,
        { op: "new-ns", kinds: nsKind.mnt | nsKind.pid | nsKind.cgroup },
        { op: "fork" },
        { op: "root-propagation", flags: msRecSlave },
        { op: "attach-root", slot: 3, path: rootPath },
        ...procMount,
        ...tmpfs("/dev", "mode=755"),
        {
          op: "fsmount",
          out: 20,
          type: "devpts",
          source: "devpts",
          options: ["newinstance", "ptmxmode=0666"],
          attrs: attr.nosuid,
        },
        attach(20, "/dev/pts"),
        ...hostDevices.map((device, i) => attach(5 + i, `/dev/${device}`)),
        { op: "fsmount", out: 20, type: "sysfs", source: "sysfs", options: [], attrs: attr.rdonly | attr.nosuid },
        attach(20, "/sys", 3),
        attach(4, "/volume"),
        { op: "mask", path: "/proc/keys" },
        { op: "mask", path: "/proc/fs" },
        { op: "mask", path: "/proc/tty" },
        { op: "readonly", path: "/proc/sys" },
        { op: "pivot" },
        { op: "stdio", stdin: 0xffff_ffff, stdout: 1, stderr: 2 },
        { op: "bounding-caps", set: 0n },
        { op: "user", uid: 1000, gid: 1000, groups: [5] },
        { op: "caps", permitted: 0n, effective: 0n, inheritable: 0n, ambient: 0n },
        { op: "no-new-privs" },
        { op: "park" },
        { op: "parent-death-signal", signal: 0 },
        { op: "exec", path: "sh", args: sh(script), env: ["PATH=/bin"] },
      ],
    },
  ];
}

it("runs a container in a user namespace", async () => {
  let status = "";
  const script =
    "echo $$; id -u; cat /proc/self/uid_map /proc/self/oom_score_adj; stat -c %u:%g /volume/file /bin/sh; hostname; ls /sys/class/net; " +
    "ip link show lo | grep -c UP; wc -c < /proc/keys; ls -A /proc/fs; ls -A /proc/tty; head -c 3 /dev/zero | wc -c; echo $HOME; echo again >> /dev/fd/1; grep Cap /proc/self/status";
  const out = await scratch.run(
    userContainer("user", script.replace("/dev/fd/1", "/proc/self/fd/1"), join(scratch.path, "root")),
    {
      held: (event) => {
        status = readFileSync(`/proc/${event.split(" ")[1]}/status`, "utf8");
      },
    },
  );
  expect(out.failed).toBe("");
  expect(out.stderr).toBe("");
  expect(status).toMatch(/^Uid:\s+101000\s+101000\s+101000\s+101000$/m);
  expect(status).toMatch(/^Groups:\s+200005 $/m);
  expect(
    out.stdout
      .replaceAll(/[ \t]+/g, " ")
      .split("\n")
      .slice(0, 13),
  ).toEqual(
    ["1", "1000", " 0 100000 65536", "321", "7:8", "0:0", "pod", "lo", "1", "0", "3", "/home/user", "again"].slice(0, 13),
  );
  expect(out.stdout.match(/\t0{16}\n/g)).toHaveLength(5);
});

it("needs no way through the host's private directories for the root", async () => {
  const closed = scratch.directory("closed");
  chmodSync(closed, 0o700);
  const out = await scratch.run(
    userContainer("closed-user", "ls /volume; ls -d /closed", join(scratch.directory("closed/root"))),
  );
  expect(out.failed).toBe("");
  expect(out.stdout).toBe("file\n");
});

it("pins a network namespace to a file", async () => {
  const path = scratch.file("netns", "");
  const out = await scratch.run([
    {
      cloneKinds: nsKind.net,
      plan: [{ op: "clean-start" }, { op: "loopback-up" }, { op: "bind-own-ns", kind: nsKind.net, path }],
    },
  ]);
  expect(out.failed).toBe("");
  // Made in the child's network namespace but in our mount namespace.
  expect(execFileSync("nsenter", [`--net=${path}`, "cat", "/sys/class/net/lo/flags"], { encoding: "utf8" })).toBeTruthy();
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toMatch(new RegExp(`net:\\[\\d+\\] ${path} .*nsfs`));
  execFileSync("umount", [path]);
});

const sharedPod: Step = {
  cloneKinds: 0,
  plan: [
    { op: "clean-start" },
    { op: "new-ns", kinds: nsKind.pid | nsKind.mnt | nsKind.net | nsKind.ipc | nsKind.uts },
    { op: "fork" },
    ...pinOwn(nsKind.pid, podPin.pid),
    { op: "reaper" },
  ],
};
const sibling = (script: string): Step => ({
  cloneKinds: nsKind.mnt | nsKind.uts,
  plan: containerPlan(scratch, {
    args: sh(script),
    before: [{ op: "join-ns", slot: podPin.pid, kind: nsKind.pid }],
    park: true,
    identity: [
      { op: "bounding-caps", set: 0n },
      { op: "user", uid: 1000, gid: 1000, groups: [] },
      { op: "caps", permitted: 0n, effective: 0n, inheritable: 0n, ambient: 0n },
      { op: "no-new-privs" },
      { op: "fork" },
    ],
  }),
});

it("enters a shared PID namespace with nothing to take over", async () => {
  let parked: Record<string, unknown> = {};
  const overlay = overlayStep(scratch, "sibling");
  const out = await scratch.run(
    [sharedPod, overlay, sibling("echo $$; ls -d /proc/1 /proc/$$; cat /proc/1/cmdline; grep PPid /proc/self/status")],
    {
      held: (event) => {
        const pid = event.split(" ")[1] ?? "";
        const status = readFileSync(`/proc/${pid}/status`, "utf8");
        parked = {
          fds: readdirSync(`/proc/${pid}/fd`).length,
          caps: /CapPrm:\s+(\S+)/.exec(status)?.[1],
          bounding: /CapBnd:\s+(\S+)/.exec(status)?.[1],
          noNewPrivs: /NoNewPrivs:\s+(\S+)/.exec(status)?.[1],
          nspid: /NSpid:\s+\d+\s+(\d+)/.exec(status)?.[1],
          root: readdirSync(`/proc/${pid}/root/`).includes("work"),
        };
      },
    },
  );
  expect(out.failed).toBe("");
  expect(parked).toEqual({ fds: 5, caps: "0".repeat(16), bounding: "0".repeat(16), noNewPrivs: "1", nspid: "2", root: false });
  expect(out.stdout.replaceAll("\0", "|")).toMatch(/^2\n\/proc\/1\n\/proc\/2\ncaisson-reaper\|/);
});

it("refuses procfs of a joined PID namespace in words where the kernel cannot make one", async () => {
  const out = await scratch.run([sharedPod, overlayStep(scratch, "old-kernel"), sibling("true")], { deny: "proc_pidns" });
  expect(out.failed).toBe("failed fsmount errno=95 procfs of a joined pid namespace needs Linux 6.17");
});

it("has a reaper that owns nothing and reaps orphans", async () => {
  let facts: Record<string, unknown> = {};
  const overlay = overlayStep(scratch, "orphans");
  const out = await scratch.run(
    [sharedPod, overlay, sibling("(sleep 0.1 &) ; sleep 0.4; ls -d /proc/[0-9]*; kill -9 1; kill -15 1; echo done")],
    {
      held: (event) => {
        const nspid = readlinkSync(`/proc/${event.split(" ")[1]}/ns/pid`);
        const reaper = readdirSync("/proc").find((pid) => {
          try {
            return (
              /^\d+$/.test(pid) &&
              readlinkSync(`/proc/${pid}/ns/pid`) === nspid &&
              readFileSync(`/proc/${pid}/status`, "utf8").includes("caisson-reaper")
            );
          } catch {
            return false;
          }
        });
        const status = readFileSync(`/proc/${reaper}/status`, "utf8");
        const rollup = readFileSync(`/proc/${reaper}/smaps_rollup`, "utf8");
        facts = {
          fds: readdirSync(`/proc/${reaper}/fd`),
          root: readdirSync(`/proc/${reaper}/root/`),
          mounts: readFileSync(`/proc/${reaper}/mountinfo`, "utf8").trim().split("\n").length,
          caps: [...status.matchAll(/Cap\w+:\s+(\S+)/g)].every(([, set]) => set === "0".repeat(16)),
          seccomp: /Seccomp:\s+(\d)/.exec(status)?.[1],
          small: Number(/Private_Dirty:\s+(\d+)/.exec(rollup)?.[1]) <= 24,
        };
      },
    },
  );
  expect(out.failed).toBe("");
  expect(facts).toEqual({ fds: [], root: [], mounts: 1, caps: true, seccomp: "2", small: true });
  expect(out.stdout).toMatch(/done\n$/);
  // The reaper and the shell: the orphan is gone, and not as a zombie.
  expect(out.stdout.match(/\/proc\/\d+/g)).toHaveLength(2);
});

it("starts the reaper in a user namespace too", async () => {
  const steps: Step[] = [
    userPod,
    {
      cloneKinds: 0,
      plan: [
        { op: "clean-start" },
        ...joins,
        { op: "new-ns", kinds: nsKind.pid | nsKind.mnt },
        { op: "fork" },
        ...pinOwn(nsKind.pid, podPin.pid),
        { op: "reaper" },
      ],
    },
    { cloneKinds: 0, plan: [{ op: "clean-start" }] },
  ];
  const out = await scratch.run(steps);
  expect(out.failed).toBe("");
  expect(out.events).toContain("pin 67");
  expect(out.events.filter((event) => event.startsWith("runs "))).toHaveLength(2);
});

it("puts a container into a pid namespace of its own that dies with it", async () => {
  const out = await scratch.run(container(scratch, { args: sh("sleep 100 & echo $!") }));
  expect(out.stdout).toBe("2\n");
  expect(existsSync(`/proc/${out.events.find((e) => e.startsWith("runs "))?.slice(5)}`)).toBe(false);
});

it("ends with its parent before the program runs", async () => {
  const steps = container(scratch, { args: ["/bin/true"], park: true });
  let pid = "";
  await scratch.run(steps, {
    held: (event) => {
      pid = event.split(" ")[1] ?? "";
      const parent = /PPid:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
      process.kill(Number(parent), "SIGKILL");
    },
  });
  await expect
    .poll(() => existsSync(`/proc/${pid}/exe`) && !/State:\s+[ZX]/.test(readFileSync(`/proc/${pid}/status`, "utf8")))
    .toBe(false);
});

it("keeps the death signal over fork and a change of user, and so does the reaper", async () => {
  const overlay = overlayStep(scratch, "death");
  let pid = "";
  const out = await scratch.run([sharedPod, overlay, sibling("true")], {
    held: (event) => {
      pid = event.split(" ")[1] ?? "";
      const parent = /PPid:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
      process.kill(Number(parent), "SIGKILL");
    },
  });
  const reaper = out.events.find((event) => event.startsWith("runs "))?.slice(5) ?? "";
  expect(pid).not.toBe("");
  expect(reaper).not.toBe("");
  // The reaper ends when the last zombie of its namespace is gone, which process 1 of the machine inherits.
  await expect.poll(() => isAlive(pid) || isAlive(reaper), { timeout: 10_000 }).toBe(false);
});

it("is told which descriptors a request did not bring", async () => {
  const out = await scratch.run([{ cloneKinds: 0, plan: [{ op: "join-ns", slot: podPin.net, kind: nsKind.net }] }]);
  expect(out.failed).toBe("failed join-ns errno=9 ");
  expect(containerKinds & nsKind.user).toBe(0);
  expect(devMounts.length).toBeGreaterThan(0);
});
