import { describe, expect, it } from "vitest";
import type { NamespaceType } from "../../../../src/core/library/config.ts";
import { cgroupBarrier, type InitPlanInput, planInit, timeBarrier } from "../../../../src/core/library/init-plan.ts";
import { planSetns } from "../../../../src/core/library/setns-plan.ts";
import type { OciProcess } from "../../../../src/core/oci.ts";
import { encodePlan, type Plan } from "../../../../src/core/plan.ts";
import { noSlot, nsKind, podPin } from "../../../../src/core/plan-schema.ts";
import { propagation } from "../../../../src/core/rootfs/mount-flags.ts";
import { all, names, position, settings } from "../plan-fixtures.ts";
import { initInput, shape, withUser } from "./fixtures.ts";

const plan = (changes: Parameters<typeof initInput>[0] = {}): Plan => planInit(initInput(changes)).plan;
const born = (changes: Partial<InitPlanInput> = {}) => planInit(initInput(changes)).cloneKinds;
const joined = (...entries: [NamespaceType, number][]) => ({ joined: new Map(entries) });

function inOrder(of: Plan, ...wanted: Parameters<typeof position>[1][]): void {
  const found = wanted.map((op) => position(of, op));
  expect(found.every((at) => at >= 0)).toBe(true);
  expect(found).toEqual(found.toSorted((a, b) => a - b));
}

describe("plan of a first process", () => {
  it("can be encoded and ends parked", () => {
    expect(encodePlan(plan()).length).toBeGreaterThan(500);
    expect(names(plan()).slice(-3)).toEqual(["park", "parent-death-signal", "exec"]);
  });

  it("is born with its namespaces where nothing speaks against it", () => {
    expect(born()).toBe(nsKind.mnt | nsKind.pid | nsKind.uts | nsKind.ipc | nsKind.net);
    expect(born({ shape: shape({ net: "shared", pid: "joined" }) })).toBe(nsKind.mnt | nsKind.uts | nsKind.ipc);
    expect(names(plan())).not.toContain("fork");
  });

  it("opens its root as a copy that is no peer of the host's, before the tree becomes a slave", () => {
    const found = plan();
    inOrder(
      found,
      { op: "open-tree", path: "/roots/one" },
      { op: "mount-attr", propagation: propagation.slave },
      { op: "open-tree", path: "/srv" },
      { op: "root-propagation" },
      { op: "attach-root" },
      { op: "pivot" },
    );
    const [root] = all(found, "mount-attr");
    expect([root?.propagation, root?.recursive, root?.userns]).toEqual([propagation.slave, 1, noSlot]);
  });

  it("makes its root private where that is asked for", () => {
    expect(all(plan({ config: { ...withUser, rootPropagation: "rprivate" } }), "mount-attr")[0]?.propagation).toBe(
      propagation.private,
    );
  });

  it("sets sysctls while the host's procfs is at hand, and confines last", () => {
    inOrder(
      plan(),
      { op: "cgroup-attach" },
      { op: "loopback-up" },
      { op: "sysctl" },
      { op: "attach-root" },
      { op: "pivot" },
      { op: "stdio" },
      { op: "hostname" },
      { op: "keyring" },
      { op: "user" },
      { op: "caps" },
      { op: "park" },
    );
  });

  it("waits for a cgroup that is made around it before it enters any, or has any namespace of its own to make", () => {
    const found = plan({ waitsForCgroup: true, config: withUser, shape: shape({ user: "new", cgroup: "new" }) });
    inOrder(found, { op: "barrier", number: cgroupBarrier }, { op: "cgroup-attach" }, { op: "join-ns" }, { op: "new-ns" });
    expect(all(plan(), "barrier")).toEqual([]);
  });

  it("keeps the caller's keyring when asked to", () => {
    expect(names(plan({ keyring: false }))).not.toContain("keyring");
  });

  it("enters a user namespace after everything that needs the host, and makes the rest in it", () => {
    const found = plan({
      config: withUser,
      shape: shape({ user: "new", cgroup: "new" }),
      ...joined(["uts", 5]),
      giveAway: [{ slot: 3, uid: 9, gid: 9 }],
    });
    inOrder(
      found,
      { op: "chown-slot", slot: 3 },
      { op: "open-tree", path: "/roots/one" },
      { op: "join-ns", kind: nsKind.uts },
      { op: "join-ns", slot: podPin.user },
      { op: "new-ns" },
      { op: "fork" },
      { op: "attach-root" },
    );
    expect(all(found, "new-ns")[0]?.kinds).toBe(nsKind.mnt | nsKind.pid | nsKind.uts | nsKind.ipc | nsKind.net | nsKind.cgroup);
    expect(planInit(initInput({ config: withUser, shape: shape({ user: "new" }) })).cloneKinds).toBe(0);
  });

  it("begins with the user namespace for an ordinary user, who can open nothing for mounting before", () => {
    const found = plan({
      config: withUser,
      shape: shape({ user: "new", uts: "joined" }),
      ...joined(["uts", 5]),
      rootless: true,
      giveAway: [],
    });
    inOrder(
      found,
      { op: "oom-score-adj" },
      { op: "clean-start" },
      { op: "join-ns", slot: podPin.user },
      { op: "join-ns", kind: nsKind.uts },
      { op: "new-ns" },
      { op: "fork" },
      { op: "open-tree", path: "/roots/one" },
      { op: "root-propagation" },
      { op: "attach-root" },
    );
    expect(all(found, "oom-score-adj")).toHaveLength(1);
  });

  it("makes a cgroup namespace after it has entered its cgroup", () => {
    inOrder(plan({ shape: shape({ cgroup: "new" }) }), { op: "cgroup-attach" }, { op: "new-ns", kinds: nsKind.cgroup });
  });

  it("is process 1 in a new PID namespace also when it needs a fork for its clocks", () => {
    const changes = { shape: shape({ time: "new" }), timeOffsets: true };
    expect(born(changes) & nsKind.pid).toBe(0);
    const found = plan(changes);
    expect(all(found, "new-ns")[0]?.kinds).toBe(nsKind.pid | nsKind.time);
    inOrder(found, { op: "new-ns" }, { op: "barrier", number: timeBarrier }, { op: "fork" }, { op: "attach-root" });
    expect(all(found, "fork")).toHaveLength(1);
  });

  it("enters a joined PID namespace with nothing left to take over", () => {
    const found = plan({ shape: shape({ pid: "joined", time: "new" }), ...joined(["pid", 5]), timeOffsets: true });
    inOrder(found, { op: "join-ns", kind: nsKind.pid }, { op: "caps" }, { op: "fork" }, { op: "park" });
    expect(all(found, "fork")).toHaveLength(1);
  });

  it("leaves a joined mount namespace as it is", () => {
    const found = names(plan({ shape: shape({ mnt: "joined" }), ...joined(["mnt", 5]) }));
    for (const name of ["open-tree", "root-propagation", "attach-root", "attach", "mask", "pivot"])
      expect(found).not.toContain(name);
  });
});

describe("plan of a further process", () => {
  const input = {
    containerId: "one",
    shape: shape({ user: "new", time: "joined" }),
    keyring: true,
    cgroupTasks: ["/t"],
    settings,
    init: 3,
    keep: [],
    giveAway: [],
  };
  const { oci: base } = initInput();
  const oci = (changes: Partial<OciProcess> = {}) => ({
    ...base,
    process: { ...base.process, consoleSize: { height: 3, width: 4 }, ...changes },
  });
  const stdio = { stdin: 0, stdout: 1, stderr: 2 };

  it("joins everything that is not shared, is confined, and only then forked", () => {
    const found = planSetns({ ...input, oci: oci(), stdio });
    inOrder(
      found,
      { op: "cgroup-attach" },
      { op: "join-process" },
      { op: "stdio" },
      { op: "caps" },
      { op: "fork" },
      { op: "exec" },
    );
    const kinds = nsKind.user | nsKind.mnt | nsKind.pid | nsKind.net | nsKind.ipc | nsKind.uts | nsKind.time;
    expect(all(found, "join-process")).toEqual([{ op: "join-process", slot: 3, kinds }]);
  });

  it("has a terminal without taking /dev/console", () => {
    const found = planSetns({ ...input, oci: oci({ terminal: true }), stdio });
    expect(all(found, "console")).toEqual([{ op: "console", rows: 3, cols: 4, bindConsole: 0, export: 1 }]);
  });

  it("takes CPUs around its cgroup, and labels before privileges go", () => {
    const process = oci({
      execCPUAffinity: { initial: "0", final: "1,64" },
      apparmorProfile: "mine",
      selinuxLabel: "a:b:c",
      ioPriority: { class: "IOPRIO_CLASS_IDLE" },
    });
    const found = planSetns({ ...input, oci: process, stdio });
    inOrder(
      found,
      { op: "cpu-affinity" },
      { op: "cgroup-attach" },
      { op: "io-priority", class: 3, priority: 0 },
      { op: "join-process" },
      { op: "apparmor", profile: "mine" },
      { op: "selinux", label: "a:b:c", keys: 1 },
      { op: "selinux", label: "a:b:c", keys: 0 },
      { op: "keyring" },
      { op: "cwd" },
    );
    const mask = Buffer.alloc(16);
    mask[0] = 2;
    mask[8] = 1;
    expect(all(found, "cpu-affinity")[1]?.mask).toEqual(mask);
  });

  it("puts further descriptors in place before seccomp can refuse that", () => {
    const seccomp = { flags: 0, program: Buffer.alloc(8) };
    for (const plan of [
      planSetns({ ...input, settings: { ...settings, seccomp }, keep: [5, 6], oci: oci(), stdio }),
      planInit(initInput({ settings: { ...settings, seccomp }, keep: [5, 6] })).plan,
    ]) {
      inOrder(plan, { op: "stdio" }, { op: "keep" }, { op: "seccomp" }, { op: "exec" });
      expect(all(plan, "keep")).toEqual([{ op: "keep", slots: [5, 6] }]);
    }
  });

  it("leaves the terminal of a first process with the helper where it is to be attached to", () => {
    const terminal = oci({ terminal: true });
    const exported = [false, true].map((keepsConsole) => planInit(initInput({ oci: terminal, keepsConsole })).plan);
    expect(exported.map((plan) => all(plan, "console")[0]?.export)).toEqual([1, 0]);
  });

  it("does not fork where the PID namespace is the caller's", () => {
    expect(names(planSetns({ ...input, shape: shape({ pid: "shared" }), oci: oci(), stdio }))).not.toContain("fork");
  });
});
