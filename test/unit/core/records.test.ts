import { describe, expect, it } from "vitest";
import { exitOf, stateOf } from "../../../src/core/container-exit.ts";
import { planContainer } from "../../../src/core/container-plan.ts";
import { parseExitRecord } from "../../../src/core/exit-record.ts";
import { finalSpec, joinedKinds } from "../../../src/core/final-spec.ts";
import { kernelAtLeast } from "../../../src/core/host-runtime.ts";
import { sysctlPath } from "../../../src/core/namespace/sysctl-path.ts";
import { planText } from "../../../src/core/plan-text.ts";
import type { ContainerSpec, PodSpec } from "../../../src/core/runtime.ts";
import { containerInput, plainPod, spec } from "./plan-fixtures.ts";

const told = { id: "c", status: 0, atNs: 20n, startedAtNs: 10n, oomKilled: 0, logDroppedBytes: 0n };

describe("an exit", () => {
  it("has the code that the process gave", () => {
    expect(exitOf({ ...told, status: 3 << 8 })).toMatchObject({ exitCode: 3, signal: 0, known: true, finishedAtNs: 20n });
  });

  it("has 128 and the signal when one ended it", () => {
    expect(exitOf({ ...told, status: 9, oomKilled: 1 })).toMatchObject({ exitCode: 137, signal: 9, oomKilled: true });
  });

  it("is 255 and unknown when nobody saw it", () => {
    expect(exitOf({ ...told, status: 0xffff_ffff })).toMatchObject({ exitCode: 255, known: false });
  });

  it("belongs to the state of an exited container only", () => {
    const state = { ...told, phase: 4, pid: 7, startTicks: 1n, exitedAtNs: 20n };
    expect(stateOf(state)).toMatchObject({ phase: "running", exit: undefined });
    expect(stateOf({ ...state, phase: 5 }).exit).toMatchObject({ exitCode: 0, finishedAtNs: 20n });
  });

  it("is read from the shim's record", () => {
    const text = "pid 7\nstatus 256\natNs 20\nstartedAtNs 10\noomKilled 0\nlogDroppedBytes 5\n";
    expect(parseExitRecord(text, "c")).toMatchObject({ exitCode: 1, finishedAtNs: 20n, logDroppedBytes: 5n });
    expect(() => parseExitRecord("status 256\n", "c")).toThrow(/lacks atNs/);
  });
});

describe("the final spec", () => {
  const pod = { ...plainPod, id: "p", hostname: "h", runDir: "/r", netnsPath: "/run/netns/x", shmBytes: 1 } satisfies PodSpec;
  const container = { oci: spec(), pidNamespace: { kind: "private" }, cgroupNamespace: "private" } as ContainerSpec;
  const init = { pid: 42, startTicks: 1n };

  it("names what is joined and leaves what is the container's own without a path", () => {
    const { namespaces } = finalSpec(container, pod, init, undefined).linux;
    expect(namespaces).toContainEqual({ type: "network", path: "/run/netns/x" });
    expect(namespaces).toContainEqual({ type: "ipc", path: "/proc/42/ns/ipc" });
    expect(namespaces).toContainEqual({ type: "pid" });
    expect(namespaces).toContainEqual({ type: "cgroup" });
  });

  it("tells an exec what to join, also after the daemon has forgotten everything else", () => {
    expect(joinedKinds(finalSpec(container, pod, init, undefined))).toEqual({ cgroupNamespace: "private", hostPid: false });
    const onHost = { ...container, pidNamespace: { kind: "host" }, cgroupNamespace: "host" } as ContainerSpec;
    expect(joinedKinds(finalSpec(onHost, pod, init, undefined))).toEqual({ cgroupNamespace: "host", hostPid: true });
  });
});

describe("a printed plan", () => {
  it("has a line per operation, in words where numbers say nothing", () => {
    const { plan, cloneKinds } = planContainer(containerInput());
    const lines = planText(plan, cloneKinds).trimEnd().split("\n");
    expect(lines).toHaveLength(plan.length + 1);
    expect(lines[0]).toContain("born with            mnt,pid");
    expect(lines.join("\n")).toContain("join-ns              slot=pod:net kind=net");
    expect(lines.join("\n")).toContain("permitted=chown,dac_override");
    expect(lines.at(-1)).toContain('exec                 path="sh" args=["sh","-c","true"]');
  });
});

describe("small things", () => {
  it("read sysctl names with dots or slashes", () => {
    expect(sysctlPath("net.ipv4.ip_forward")).toBe("net/ipv4/ip_forward");
    expect(sysctlPath("net/ipv4/conf/eth0.1/rp_filter")).toBe("net/ipv4/conf/eth0.1/rp_filter");
    expect(sysctlPath("net.ipv4.conf.eth0/1.rp_filter")).toBe("net/ipv4/conf/eth0.1/rp_filter");
  });

  it("compare kernel releases by number", () => {
    expect(kernelAtLeast("6.18.44-fc-v657", 6, 17)).toBe(true);
    expect(kernelAtLeast("6.1.0-18-amd64", 6, 17)).toBe(false);
    expect(kernelAtLeast("7.0", 6, 17)).toBe(true);
  });
});
