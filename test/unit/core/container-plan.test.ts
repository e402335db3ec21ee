import { describe, expect, it } from "vitest";
import { planContainer } from "../../../src/core/container-plan.ts";
import { shapeWithout } from "../../../src/core/other-namespaces.ts";
import { encodePlan } from "../../../src/core/plan.ts";
import { attachFlag, noSlot, nsKind, podPin } from "../../../src/core/plan-schema.ts";
import { mountAttr, msRec, propagation } from "../../../src/core/rootfs/mount-flags.ts";
import { all, containerInput, names, plainPod, position, settings, spec, userPod } from "./plan-fixtures.ts";

/** Asserts that the operations stand in this order. */
function inOrder(plan: Parameters<typeof position>[0], ...wanted: Parameters<typeof position>[1][]): void {
  const found = wanted.map((op) => position(plan, op));
  expect(found).toEqual(found.toSorted((a, b) => a - b));
}

describe("plan of a container", () => {
  const { plan, cloneKinds } = planContainer(containerInput());

  it("is born with its own mount and PID namespaces", () => {
    expect(cloneKinds).toBe(nsKind.mnt | nsKind.pid);
  });

  it("can be encoded", () => {
    expect(encodePlan(plan).length).toBeGreaterThan(1000);
  });

  it("dies with the shim until it executes", () => {
    expect(plan[0]).toEqual({ op: "parent-death-signal", signal: 9 });
    expect(plan.slice(-3).map(({ op }) => op)).toEqual(["park", "parent-death-signal", "exec"]);
    expect(plan.at(-2)).toEqual({ op: "parent-death-signal", signal: 0 });
  });

  it("enters its cgroups and the pod's namespaces before it looks at any path", () => {
    inOrder(
      plan,
      { op: "clean-start" },
      { op: "cgroup-attach", path: "/sys/fs/cgroup/memory/k/c1/tasks" },
      { op: "oom-score-adj" },
      { op: "join-ns", slot: podPin.net },
      { op: "join-ns", slot: podPin.ipc },
      { op: "join-ns", slot: podPin.uts },
      { op: "open-tree" },
    );
  });

  it("waits, when asked to, before it is in any cgroup, and dies with the shim while it waits", () => {
    const waiting = planContainer(containerInput({ cgroupBarrier: true })).plan;
    inOrder(waiting, { op: "parent-death-signal", signal: 9 }, { op: "barrier", number: 0 }, { op: "cgroup-attach" });
    expect(waiting.filter(({ op }) => op !== "barrier")).toEqual(plan);
  });

  it("opens bind sources before the tree leaves its peer groups, and attaches only afterwards", () => {
    inOrder(
      plan,
      { op: "open-tree", path: "/run/p/shm" },
      { op: "root-propagation", flags: msRec | propagation.slave },
      { op: "attach-root", slot: 3 },
      { op: "attach", path: "/dev/shm" },
    );
  });

  it("never makes the host's tree private: a container in preparation would pin the host's mounts", () => {
    expect(all(plan, "root-propagation").map(({ flags }) => flags)).toEqual([msRec | propagation.slave]);
  });

  it("mounts parents before children", () => {
    expect(all(plan, "attach").map(({ path }) => path)).toEqual([
      "/proc",
      "/dev",
      "/sys",
      "/dev/shm",
      "/dev/pts",
      "/sys/fs/cgroup",
      "/sys/fs/cgroup/cpu,cpuacct",
      "/sys/fs/cgroup/memory",
    ]);
  });

  it("puts proc and sysfs on ordinary directories only, and keeps others off procfs", () => {
    const flags = new Map(all(plan, "attach").map((op) => [op.path, op.flags]));
    expect(flags.get("/proc")).toBe(attachFlag.create | attachFlag.fresh);
    expect(flags.get("/sys")).toBe(attachFlag.create | attachFlag.fresh);
    expect(flags.get("/dev/shm")).toBe(attachFlag.create | attachFlag.procRule);
    expect(flags.get("/dev")).toBe(attachFlag.create | attachFlag.procRule);
  });

  it("masks when nothing more is mounted, then pivots, then seals, the root last", () => {
    inOrder(
      plan,
      { op: "attach", path: "/sys/fs/cgroup/memory" },
      { op: "mknod", path: "/dev/null" },
      { op: "symlink", path: "/dev/ptmx" },
      { op: "mkdir", path: "/work" },
      { op: "mask", path: "/proc/kcore" },
      { op: "readonly", path: "/proc/sys" },
      { op: "pivot" },
      { op: "stdio" },
      { op: "remount-attr", path: "/sys/fs/cgroup" },
      { op: "remount-attr", path: "/" },
      { op: "cwd" },
    );
    expect(all(plan, "remount-attr").at(-1)).toEqual({ op: "remount-attr", path: "/", set: mountAttr.rdonly, clear: 0 });
  });

  it("shows a v1 container its own cgroups read-only, in a tmpfs that is sealed at the end", () => {
    const tmpfs = all(plan, "fsmount").filter(({ source, type }) => type === "tmpfs" && source === "tmpfs");
    expect(tmpfs.at(-1)?.attrs).toBe(mountAttr.nosuid | mountAttr.nodev | mountAttr.noexec);
    const opened = position(plan, { op: "open-tree", path: "/sys/fs/cgroup/memory/k/c1" });
    expect(plan[opened + 1]).toMatchObject({ op: "mount-attr", set: expect.any(Number), propagation: propagation.private });
    expect((plan[opened + 1] as { set: number }).set & mountAttr.rdonly).toBe(mountAttr.rdonly);
    expect(plan).toContainEqual({ op: "symlink", target: "cpu,cpuacct", path: "/sys/fs/cgroup/cpu" });
  });

  it("loads the filter while it may, drops privileges, and parks with nothing left", () => {
    inOrder(
      plan,
      { op: "cwd" },
      { op: "rlimit" },
      { op: "seccomp" },
      { op: "bounding-caps", set: 0xffn },
      { op: "user", uid: 1000 },
      { op: "caps", permitted: 0x7fn },
      { op: "park" },
    );
    expect(names(plan)).not.toContain("no-new-privs");
  });

  it("loads the filter as late as possible with no_new_privs", () => {
    const late = planContainer(containerInput({ oci: spec({ process: { noNewPrivileges: true } }) })).plan;
    inOrder(late, { op: "user" }, { op: "caps" }, { op: "no-new-privs" }, { op: "seccomp" }, { op: "park" });
  });

  it("gives the last value of a variable", () => {
    expect(plan.at(-1)).toMatchObject({ op: "exec", path: "sh", args: ["sh", "-c", "true"], env: ["PATH=/bin", "A=2"] });
  });

  it("takes stdin from the container's own null device unless it is kept open", () => {
    expect(all(plan, "stdio")).toEqual([{ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 }]);
    const kept = planContainer(containerInput({ stdin: true })).plan;
    expect(all(kept, "stdio")[0]?.stdin).toBe(0);
  });

  it("opens the terminal in the container's own devpts before the root is sealed", () => {
    const oci = spec({ process: { terminal: true, consoleSize: { height: 25, width: 80 } } });
    const tty = planContainer(containerInput({ oci })).plan;
    inOrder(
      tty,
      { op: "pivot" },
      { op: "console", rows: 25, cols: 80, bindConsole: 1, export: 0 },
      { op: "remount-attr", path: "/" },
    );
    expect(names(tty)).not.toContain("stdio");
  });

  it("copies image volumes before anything covers the image", () => {
    const volumes = [{ path: "/data", hostPath: "/var/v/1" }];
    const withVolume = planContainer(containerInput({ volumes })).plan;
    inOrder(
      withVolume,
      { op: "use-root", slot: 3 },
      { op: "open-host", path: "/var/v/1" },
      { op: "copy-tree", path: "/data" },
      { op: "root-propagation" },
      { op: "attach", path: "/proc" },
    );
  });

  it("leaves a /dev of the host alone", () => {
    const oci = spec({ mounts: [{ destination: "/dev/", type: "bind", source: "/dev", options: ["rbind"] }] });
    const ops = names(planContainer(containerInput({ oci })).plan);
    expect(ops).not.toContain("mknod");
    expect(ops).not.toContain("symlink");
  });

  it("never follows what an image names as a working directory outside the root", () => {
    const oci = spec({ process: { cwd: "/proc/self/fd/7" } });
    expect(planContainer(containerInput({ oci })).plan).toContainEqual({ op: "cwd", path: "/proc/self/fd/7", create: 0 });
  });
});

describe("plan of a container on cgroup v2", () => {
  const onV2 = { cgroupTasks: [], cgroupMount: { kind: "fresh" }, cgroupNamespace: "private" } as const;

  it("makes its cgroup namespace after it was born in its cgroup and before cgroup2 is mounted", () => {
    const { plan } = planContainer(containerInput(onV2));
    inOrder(plan, { op: "clean-start" }, { op: "new-ns", kinds: nsKind.cgroup }, { op: "fsmount", type: "cgroup2" });
  });

  it("binds the host's tree where it shares the host's namespace, since a new mount would reset the hierarchy's options", () => {
    const host = { ...onV2, cgroupMount: { kind: "tree", hostPath: "/sys/fs/cgroup" }, cgroupNamespace: "host" } as const;
    const { plan } = planContainer(containerInput(host));
    expect(all(plan, "fsmount").map(({ type }) => type)).not.toContain("cgroup2");
    expect(names(plan)).not.toContain("new-ns");
    inOrder(plan, { op: "open-tree", path: "/sys/fs/cgroup" }, { op: "attach", path: "/sys/fs/cgroup" });
  });
});

describe("plan of a container in a shared PID namespace", () => {
  it("enters it fully confined, just before it parks", () => {
    const { plan, cloneKinds } = planContainer(
      containerInput({ pidNamespace: { kind: "pod" }, pod: { ...plainPod, pid: "pod" } }),
    );
    expect(cloneKinds).toBe(nsKind.mnt);
    inOrder(plan, { op: "join-ns", slot: podPin.pid }, { op: "fsmount", type: "proc" }, { op: "caps" }, { op: "fork" });
    expect(plan[position(plan, { op: "fork" }) + 1]).toEqual({ op: "park" });
  });

  it("takes a copy of the pod's procfs where the kernel can mount one only from inside", () => {
    const proc = { kind: "tree", hostPath: "/run/p/proc" } as const;
    const { plan } = planContainer(containerInput({ pidNamespace: { kind: "pod" }, proc }));
    expect(all(plan, "fsmount").map(({ type }) => type)).not.toContain("proc");
    inOrder(
      plan,
      { op: "open-tree", path: "/run/p/proc" },
      { op: "root-propagation" },
      { op: "attach", path: "/proc" },
      { op: "fork" },
    );
    expect(all(plan, "attach").find(({ path }) => path === "/proc")?.flags).toBe(attachFlag.create | attachFlag.fresh);
  });

  it("takes a procfs that came with the request", () => {
    const proc = { kind: "slot", slot: 5 } as const;
    const target = { kind: "target", containerId: "t" } as const;
    const { plan } = planContainer(containerInput({ pidNamespace: target, proc, receivedSlots: 6 }));
    expect(plan).toContainEqual({ op: "attach", slot: 5, path: "/proc", flags: attachFlag.create | attachFlag.fresh });
  });

  it("joins a target by its process, not by a path that another process could take over", () => {
    const { plan } = planContainer(containerInput({ pidNamespace: { kind: "target", containerId: "t" }, receivedSlots: 5 }));
    expect(plan).toContainEqual({ op: "join-process", slot: 4, kinds: nsKind.pid });
    expect(all(plan, "open-tree").every(({ out }) => out >= 5)).toBe(true);
  });

  it("has none of its own on the host's", () => {
    const { plan, cloneKinds } = planContainer(containerInput({ pidNamespace: { kind: "host" } }));
    expect(cloneKinds).toBe(nsKind.mnt);
    expect(names(plan)).not.toContain("fork");
  });
});

describe("plan of a container in a user namespace", () => {
  const { plan, cloneKinds } = planContainer(containerInput({ pod: userPod }));
  const joined = position(plan, { op: "join-ns", slot: podPin.user });

  it("is born in no new namespace: all of them are made by a process that is already inside", () => {
    expect(cloneKinds).toBe(0);
    expect(plan[position(plan, { op: "new-ns" })]).toEqual({ op: "new-ns", kinds: nsKind.mnt | nsKind.pid });
    inOrder(plan, { op: "join-ns", slot: podPin.user }, { op: "join-ns", slot: podPin.net }, { op: "new-ns" }, { op: "fork" });
  });

  it("does what needs the host's powers before it gives them up", () => {
    for (const op of ["open-tree", "cgroup-attach", "oom-score-adj", "chown-slot"] as const) {
      expect(plan.findLastIndex((item) => item.op === op)).toBeLessThan(joined);
    }
    expect(all(plan, "open-tree").map(({ path }) => path)).toContain("/dev/null");
  });

  it("mounts fresh filesystems inside, so that they belong to the user namespace", () => {
    expect(position(plan, { op: "fsmount", type: "proc" })).toBeGreaterThan(position(plan, { op: "fork" }));
    expect(position(plan, { op: "fsmount", type: "sysfs" })).toBeGreaterThan(joined);
  });

  it("binds device nodes instead of making them", () => {
    expect(names(plan)).not.toContain("mknod");
    inOrder(plan, { op: "open-tree", path: "/dev/null" }, { op: "attach", path: "/dev/null" });
  });

  it("gives its pipes to the user as the host knows them", () => {
    expect(all(plan, "chown-slot")).toEqual([
      { op: "chown-slot", slot: 1, uid: 101_000, gid: 101_000 },
      { op: "chown-slot", slot: 2, uid: 101_000, gid: 101_000 },
    ]);
  });

  it("raises a hard limit while it can", () => {
    const raising = { ...settings, raises: new Set([7]) };
    const raised = planContainer(containerInput({ pod: userPod, settings: raising })).plan;
    expect(position(raised, { op: "rlimit", resource: 7 })).toBeLessThan(position(raised, { op: "join-ns", slot: podPin.user }));
    expect(all(raised, "rlimit")).toHaveLength(2);
  });

  it("id-maps a volume that asks for it before it joins", () => {
    const mappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    const mount = {
      destination: "/v",
      type: "bind",
      source: "/s",
      options: ["rbind"],
      uidMappings: mappings,
      gidMappings: mappings,
    };
    const oci = spec({ mounts: [mount] });
    const mapped = planContainer(containerInput({ pod: userPod, oci, idmapSlot: () => podPin.user })).plan;
    expect(position(mapped, { op: "mount-attr", userns: podPin.user })).toBeLessThan(
      position(mapped, { op: "join-ns", slot: podPin.user }),
    );
  });
});

describe("a mount whose content is already open", () => {
  const image = { destination: "/img", type: "overlay", source: "id", options: ["ro", "nosuid", "nodev", "lowerdir=/a:/b"] };
  const trees = { oci: spec({ mounts: [image] }), treeSlot: () => 4, receivedSlots: 5 };

  it.each([
    ["without", {}],
    ["with", { pod: userPod }],
  ])("is restricted and attached, %s a user namespace", (_, more) => {
    const { plan } = planContainer(containerInput({ ...trees, ...more }));
    inOrder(
      plan,
      { op: "mount-attr", slot: 4, set: 0x7 },
      { op: "attach-root" },
      { op: "attach", slot: 4, path: "/img" },
      { op: "pivot" },
    );
    expect(all(plan, "fsmount")).toEqual([]);
  });
});

describe("many mounts", () => {
  const binds = Array.from({ length: 100 }, (_, at) => ({
    destination: `/m/${at}`,
    type: "bind",
    source: `/s/${at}`,
    options: ["rbind", at === 99 ? "rshared" : "rprivate"],
  }));

  it("fit into the slots of a plan, those that stay shared opened ahead", () => {
    const { plan } = planContainer(containerInput({ oci: spec({ mounts: binds }) }));
    expect(all(plan, "attach")).toHaveLength(100);
    expect(Math.max(...all(plan, "open-tree").map(({ out }) => out))).toBeLessThan(64);
    inOrder(plan, { op: "open-tree", path: "/s/99" }, { op: "root-propagation" });
  });

  it("never take the pod's own slots, however many descriptors come with the request", () => {
    const full = containerInput({ oci: spec({ mounts: binds }), receivedSlots: 70 });
    expect(() => planContainer(full)).toThrow(/too many mounts/);
  });

  it("are refused with a reason where all must be opened ahead", () => {
    expect(() => planContainer(containerInput({ pod: userPod, oci: spec({ mounts: binds }) }))).toThrow(/too many mounts/);
  });
});

describe("namespaces that are not the pod's", () => {
  const others = { network: { path: "/run/netns/x" }, ipc: "new", uts: "new" } as const;
  const pod = shapeWithout(plainPod, others);
  const namespaces = { joined: [{ slot: 9, kind: nsKind.net }], made: nsKind.ipc | nsKind.uts };
  const oci = { ...spec(), hostname: "web" };

  it("are joined and made where the pod's are, before any path is looked at", () => {
    const { plan } = planContainer(containerInput({ pod, namespaces, oci }));
    inOrder(
      plan,
      { op: "join-ns", slot: 9, kind: nsKind.net },
      { op: "new-ns", kinds: nsKind.ipc | nsKind.uts },
      { op: "hostname", name: "web" },
      { op: "open-tree" },
    );
    expect(all(plan, "join-ns")).toHaveLength(1);
    expect(names(plan)).not.toContain("loopback-up");
  });

  it("belong to the pod's user namespace, where there is one", () => {
    const { plan } = planContainer(
      containerInput({ pod: shapeWithout(userPod, { network: "new" }), namespaces: { joined: [], made: nsKind.net } }),
    );
    inOrder(plan, { op: "join-ns", slot: podPin.user }, { op: "new-ns" }, { op: "loopback-up" }, { op: "pivot" });
    expect(all(plan, "new-ns").some(({ kinds }) => (kinds & nsKind.net) !== 0)).toBe(true);
    expect(all(plan, "join-ns").map(({ slot }) => slot)).not.toContain(podPin.net);
  });
});

describe("scheduler, I/O priority and memory policy", () => {
  const process = {
    scheduler: { policy: "SCHED_DEADLINE", runtime: 1, deadline: 2, period: 3 },
    ioPriority: { class: "IOPRIO_CLASS_RT" },
  };
  const linux = { memoryPolicy: { mode: "MPOL_BIND", nodes: "0" } };

  it("are set while the host's powers last", () => {
    const { plan } = planContainer(containerInput({ oci: spec({ process, linux }) }));
    inOrder(plan, { op: "cgroup-attach" }, { op: "scheduler" }, { op: "io-priority" }, { op: "memory-policy" }, { op: "user" });
  });

  it("are refused where a fork into a shared PID namespace would lose them", () => {
    const shared = containerInput({ oci: spec({ process }), pidNamespace: { kind: "pod" } });
    expect(() => planContainer(shared)).toThrow(/SCHED_DEADLINE .* would not survive the fork/);
  });
});
