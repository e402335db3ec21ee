import { describe, expect, it } from "vitest";
import { Cgroups } from "../../../../src/core/cgroup/cgroups.ts";
import { hierarchiesBelow, parseOwnCgroups } from "../../../../src/core/cgroup/hierarchies.ts";
import { cgroupOf, recordedCgroup } from "../../../../src/core/library/container-cgroup.ts";
import { helperIdOf } from "../../../../src/core/library/container-shim.ts";
import { advance, type Status } from "../../../../src/core/library/container-state.ts";
import { EventQueue } from "../../../../src/core/library/event-queue.ts";
import type { Machine } from "../../../../src/core/library/machine.ts";
import { Process } from "../../../../src/core/library/process.ts";
import { signalNumber } from "../../../../src/core/library/signals.ts";
import { translateProcess } from "../../../../src/core/library/translate.ts";
import { resolveUser } from "../../../../src/core/library/user.ts";

describe("states", () => {
  it("follow one another as libcontainer has it", () => {
    const legal: readonly [Status, Status][] = [
      ["stopped", "created"],
      ["stopped", "running"],
      ["created", "running"],
      ["created", "paused"],
      ["created", "stopped"],
      ["running", "paused"],
      ["running", "stopped"],
      ["paused", "running"],
      ["paused", "stopped"],
      ["paused", "created"],
    ];
    const states: readonly Status[] = ["stopped", "created", "running", "paused"];
    for (const from of states) {
      for (const to of states) {
        if (from === to || legal.some(([a, b]) => a === from && b === to)) expect(advance(from, to)).toBe(to);
        else expect(() => advance(from, to)).toThrow(`invalid state transition from ${from} to ${to}`);
      }
    }
  });
});

describe("signals", () => {
  it("are numbers or names in any form", () => {
    expect(["9", "KILL", "sigkill", "SIGKILL", 9, "0"].map(signalNumber)).toEqual([9, 9, 9, 9, 9, 0]);
    for (const bad of ["", "NOPE", "65", "-1", "SIG"]) expect(() => signalNumber(bad)).toThrow("unknown signal");
  });
});

describe("users", () => {
  const files: Record<string, string> = {
    "/etc/passwd": "root:x:0:0::/:/bin/sh\ndaemon:x:1:2::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n",
    "/etc/group": "root:x:0:\ndaemon:x:2:\nadm:x:4:daemon,other\n",
  };
  const rootfs = { readFile: async (path: string) => (files[path] === undefined ? undefined : Buffer.from(files[path])) };

  it("are looked up in the container's files", async () => {
    expect(await resolveUser("daemon", rootfs)).toEqual({ uid: 1, gid: 2, additionalGids: [4] });
    expect(await resolveUser("daemon:adm", rootfs)).toEqual({ uid: 1, gid: 4, additionalGids: [4] });
    expect(await resolveUser("1:7", rootfs)).toEqual({ uid: 1, gid: 7, additionalGids: [4] });
    expect(await resolveUser(undefined, rootfs)).toEqual({ uid: 0, gid: 0, additionalGids: [] });
    await expect(resolveUser("nobody", rootfs)).rejects.toThrow('unable to find user "nobody"');
    await expect(resolveUser("daemon:none", rootfs)).rejects.toThrow('unable to find group "none"');
  });

  it("with digits are ids, whatever the files say (CVE-2016-3697)", async () => {
    expect(await resolveUser("1000", rootfs)).toEqual({ uid: 1000, gid: 0, additionalGids: [] });
    await expect(resolveUser("4294967295", rootfs)).rejects.toThrow("outside of 0 to 2147483647");
  });
});

describe("cgroups of a container", () => {
  const cgroups = new Cgroups({
    version: "hybrid",
    v1: [
      { controllers: ["memory"], mountPoint: "/sys/fs/cgroup/memory" },
      { controllers: ["cpu", "cpuacct"], mountPoint: "/sys/fs/cgroup/cpu,cpuacct" },
    ],
    unified: { mountPoint: "/sys/fs/cgroup/unified", controllers: new Set() },
  });
  const own = parseOwnCgroups("3:memory:/own/mem\n2:cpu,cpuacct:/\n0::/own/uni\n");
  const machine = { cgroups, ownCgroups: new Cgroups(hierarchiesBelow(cgroups.hierarchies, own)) } as Machine;
  const directories = (config: Parameters<typeof cgroupOf>[2]) => {
    const at = cgroupOf(machine, "one", config);
    return Object.fromEntries(at.cgroups.directories(at.path));
  };

  it("begin at the hierarchy's root when absolute, else at the caller's own", () => {
    expect(directories({ rootfs: "/", cgroups: { path: "/a/b" } })).toEqual({
      memory: "/sys/fs/cgroup/memory/a/b",
      "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a/b",
      "": "/sys/fs/cgroup/unified/a/b",
    });
    expect(directories({ rootfs: "/", cgroups: { name: "n", parent: "p" } })).toEqual({
      memory: "/sys/fs/cgroup/memory/own/mem/p/n",
      "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/p/n",
      "": "/sys/fs/cgroup/unified/own/uni/p/n",
    });
    expect(directories({ rootfs: "/" }).memory).toBe("/sys/fs/cgroup/memory/own/mem/one");
  });

  it("cannot climb", () => {
    expect(directories({ rootfs: "/", cgroups: { path: "../../../a" } }).memory).toBe("/sys/fs/cgroup/memory/own/mem/a");
    expect(directories({ rootfs: "/", cgroups: { path: "/../a" } }).memory).toBe("/sys/fs/cgroup/memory/a");
  });

  it("are found again by a process that lives elsewhere", () => {
    const config = { rootfs: "/", cgroups: { name: "n", parent: "p" } };
    const elsewhere = { cgroups, ownCgroups: cgroups } as Machine;
    const at = recordedCgroup(elsewhere, "one", config, directories(config));
    expect(Object.fromEntries(at.cgroups.directories(at.path))).toEqual(directories(config));
    expect(at.cgroups.use(at.path).mounts.entries.map(({ name }) => name)).toEqual(["memory", "cpu,cpuacct", "unified"]);
  });
});

describe("event queues", () => {
  it("keep events until they are read, and end", async () => {
    let closed = 0;
    const queue = new EventQueue<number>(() => closed++);
    queue.push(1);
    const second = queue.next().then(async (first) => [first, await queue.next()]);
    await new Promise((resolve) => setImmediate(resolve));
    queue.push(2);
    queue.end();
    queue.push(3);
    expect(await second).toEqual([
      { done: false, value: 1 },
      { done: false, value: 2 },
    ]);
    expect(await queue.next()).toEqual({ done: true, value: undefined });
    expect(closed).toBe(1);
  });
});

describe("processes", () => {
  it("are refused without a command or with a relative directory", () => {
    expect(() => new Process({ args: [] })).toThrow("args must not be empty");
    expect(() => new Process({ args: ["a"], cwd: "b" })).toThrow("Cwd must be an absolute path");
    expect(() => new Process({ args: ["a"] }).pid).toThrow("invalid process");
  });

  it("say it before their container does", () => {
    const user = { uid: 0, gid: 0, additionalGids: [] };
    const config = {
      rootfs: "/",
      umask: 0o77,
      noNewPrivileges: true,
      oomScoreAdj: 1,
      rlimits: [{ type: "RLIMIT_CORE", soft: 0, hard: 0 }],
    };
    expect(translateProcess(config, { args: ["a"] }, user)).toMatchObject({
      user: { umask: 0o77 },
      noNewPrivileges: true,
      oomScoreAdj: 1,
      rlimits: config.rlimits,
    });
    const spec = { args: ["a"], umask: 0, noNewPrivileges: false, oomScoreAdj: 0, rlimits: [] };
    expect(translateProcess(config, spec, user)).toMatchObject({
      user: { umask: 0 },
      noNewPrivileges: false,
      oomScoreAdj: 0,
      rlimits: [],
    });
    for (const env of [["A"], ["=b"], ["A=\0"]])
      expect(() => translateProcess(config, { args: ["a"], env }, user)).toThrow("environment variable");
  });

  it("have ids that their helper takes", () => {
    expect(["a", "a+b", ".a", "x".repeat(200)].map(helperIdOf)).toEqual(["a", "a_b", "_a", "x".repeat(128)]);
  });
});
