import { describe, expect, it } from "vitest";
import { mapText, toHostId } from "../../../../src/core/namespace/id-map.ts";
import {
  planNetworkCounters,
  planPodNamespaces,
  planReaper,
  planShm,
  planSysctls,
} from "../../../../src/core/namespace/pod-namespaces.ts";
import { nsKind, podPin } from "../../../../src/core/plan-schema.ts";
import { names, plainPod, position, userPod } from "../plan-fixtures.ts";

const pod = { ...plainPod, hostname: "h", netnsPath: "/run/netns/x" };
const made = nsKind.net | nsKind.ipc | nsKind.uts;

describe("namespaces of a pod", () => {
  it("are born with one child, which pins each and binds the network's to its file", () => {
    const [step, ...rest] = planPodNamespaces(pod);
    expect(rest).toEqual([]);
    expect(step?.cloneKinds).toBe(made);
    expect(step?.plan.filter(({ op }) => op === "pin").map((op) => "pin" in op && op.pin)).toEqual([
      podPin.net,
      podPin.ipc,
      podPin.uts,
    ]);
    expect(step?.plan.at(-1)).toEqual({ op: "bind-own-ns", kind: nsKind.net, path: "/run/netns/x" });
    expect(step?.plan).toContainEqual({ op: "loopback-up" });
    expect(step?.plan).toContainEqual({ op: "hostname", name: "h" });
  });

  it("are none for a pod that shares everything with the node", () => {
    expect(planPodNamespaces({ ...pod, network: "host", ipc: "host", uts: "host", netnsPath: null })).toEqual([]);
  });

  it("leave the node's loopback and name alone", () => {
    const [step] = planPodNamespaces({ ...pod, network: "host", uts: "host", netnsPath: null });
    expect(step?.cloneKinds).toBe(nsKind.ipc);
    expect(names(step?.plan ?? [])).toEqual(["open-own-ns", "pin"]);
  });

  it("belong to the pod's user namespace, which comes first", () => {
    const [step, bind] = planPodNamespaces({ ...pod, user: userPod.user });
    expect(step?.cloneKinds).toBe(0);
    const plan = step?.plan ?? [];
    expect(plan[0]).toEqual({ op: "new-userns", uidMap: "0 100000 65536\n", gidMap: "0 100000 65536\n" });
    expect(position(plan, { op: "pin", pin: podPin.user })).toBeLessThan(position(plan, { op: "new-ns", kinds: made }));
    expect(names(plan)).not.toContain("bind-own-ns");
    // Only a process outside of it may change the host's mounts.
    expect(names(bind?.plan ?? [])).toEqual(["join-ns", "bind-own-ns"]);
  });

  it("have a reaper as process 1 of a shared PID namespace, which ends with the shim", () => {
    const { plan } = planReaper({ ...pod, pid: "pod" }, false);
    expect(plan[0]).toEqual({ op: "parent-death-signal", signal: 9 });
    expect(names(plan).slice(-4)).toEqual(["fork", "open-own-ns", "pin", "reaper"]);
    expect(position(plan, { op: "new-ns" })).toBeGreaterThan(position(plan, { op: "join-ns", slot: podPin.uts }));
  });

  it("lend a procfs that was mounted before there was anybody to trace the one who mounts it", () => {
    const { plan } = planReaper({ ...pod, pid: "pod" }, true);
    expect(names(plan).slice(-4)).toEqual(["pin", "fsmount", "export", "reaper"]);
    expect(position(plan, { op: "fsmount", type: "proc" })).toBeGreaterThan(position(plan, { op: "fork" }));
  });

  it("take sysctls without leaving the initial user namespace", () => {
    const { plan } = planSysctls({ ...pod, user: userPod.user }, new Map([["net/ipv4/x", "1"]]));
    expect(plan.some((op) => op.op === "join-ns" && op.slot === podPin.user)).toBe(false);
    expect(plan.at(-1)).toEqual({ op: "sysctl", key: "net/ipv4/x", value: "1" });
  });
});

describe("shared memory of a pod", () => {
  it("is a tmpfs of the asked size that belongs to the pod's root", () => {
    const { plan } = planShm({ hostPath: "/r/shm", bytes: 4096, uid: 100_000, gid: 100_000 });
    expect(plan[0]).toMatchObject({ type: "tmpfs", options: ["mode=1777", "size=4096", "uid=100000", "gid=100000"], attrs: 14 });
    expect(plan[1]).toEqual({ op: "attach-host", slot: 0, path: "/r/shm" });
  });
});

describe("id maps", () => {
  const mappings = [
    { containerID: 0, hostID: 1000, size: 10 },
    { containerID: 10, hostID: 5000, size: 5 },
  ];

  it("become lines", () => {
    expect(mapText(mappings)).toBe("0 1000 10\n10 5000 5\n");
  });

  it("translate ids, and refuse those without a mapping", () => {
    expect([toHostId(0, mappings), toHostId(9, mappings), toHostId(12, mappings)]).toEqual([1000, 1009, 5002]);
    expect(() => toHostId(15, mappings)).toThrow(/no mapping/);
  });
});

describe("network counters", () => {
  it("are opened inside the pod's namespace, and sent back", () => {
    expect(planNetworkCounters()).toEqual({
      cloneKinds: 0,
      plan: [
        { op: "join-ns", slot: podPin.net, kind: nsKind.net },
        { op: "open-host", out: 0, path: "/proc/self/net/dev" },
        { op: "export", slot: 0 },
      ],
    });
  });
});
