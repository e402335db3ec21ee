import { describe, expect, it } from "vitest";
import { adjustCgroupsPath } from "../../../src/cri/adjust-cgroup.ts";
import { adjustNamespaces, refuseForeignSysctls } from "../../../src/cri/adjust-namespaces.ts";
import { sandbox, securedPod, userNamespace } from "./translate-fixture.ts";

describe("a cgroup that an NRI plugin wants", () => {
  it("is a path, or SLICE:PREFIX:NAME, with either driver", () => {
    expect(adjustCgroupsPath("", "cgroupfs")).toBeUndefined();
    expect(adjustCgroupsPath("/a/b/", "cgroupfs")).toBe("/a/b");
    const scope = "/a.slice/a-b.slice/x-1.scope";
    for (const driver of ["cgroupfs", "systemd"] as const) {
      expect(adjustCgroupsPath("a-b.slice:x:1", driver)).toBe(scope);
      expect(adjustCgroupsPath(scope, driver)).toBe(scope);
    }
  });

  it.each(["/a/b", "/a.slice/b", "/a.slice", "/x.scope"])("is a scope in a slice with the systemd driver, and not %s", (path) => {
    expect(() => adjustCgroupsPath(path, "systemd")).toThrow(/is no scope in a slice/);
  });

  it.each([
    ["/", "must not be the root cgroup"],
    ["a", "is not an absolute path"],
    ["/a/../b", 'contains ".."'],
    ["/a\nb", "control characters"],
    [`/${"x".repeat(256)}`, "is too long"],
    ["a:b:c/d", "is not the name of a systemd unit"],
  ])("is not %j", (path, why) => {
    expect(() => adjustCgroupsPath(path, "cgroupfs")).toThrow(why);
  });
});

describe("namespaces that NRI plugins want", () => {
  const input = { pod: sandbox(), cgroupVersion: "v2" } as const;
  const before = { pidNamespace: { kind: "private" }, cgroupNamespace: "private" } as const;
  const wanted = (...namespaces: readonly (readonly [type: string, path?: string])[]) =>
    namespaces.map(([type, path = ""]) => ({ type, path }));

  it("stay what they are when nobody wants others", () => {
    expect(adjustNamespaces(input, before, [])).toEqual(before);
  });

  it("are new, the node's or those of a path; what is set comes after what is taken away", () => {
    expect(
      adjustNamespaces(input, before, wanted(["-network"], ["ipc"], ["-uts"], ["uts", "/run/uts"], ["-pid"], ["-cgroup"])),
    ).toEqual({
      pidNamespace: { kind: "host" },
      cgroupNamespace: "host",
      namespaces: { network: "host", ipc: "new", uts: { path: "/run/uts" } },
    });
  });

  it("are the node's too where the path of a PID namespace says so", () => {
    expect(adjustNamespaces(input, before, wanted(["pid", `/proc/${process.pid}/ns/pid`])).pidNamespace).toEqual({
      kind: "host",
    });
  });

  it("have no cgroup namespace of their own on v1", () => {
    expect(adjustNamespaces({ ...input, cgroupVersion: "v1" }, before, wanted(["cgroup"])).cgroupNamespace).toBe("host");
  });

  it("are new ones only below the pod's user namespace", () => {
    const inUser = { ...input, pod: sandbox(securedPod({ namespaceOptions: userNamespace })) };
    expect(adjustNamespaces(inUser, before, wanted(["network"])).namespaces).toEqual({ network: "new" });
    expect(adjustNamespaces(inUser, before, wanted(["-cgroup"])).cgroupNamespace).toBe("host");
    for (const other of [wanted(["-network"]), wanted(["ipc", "/run/ipc"]), wanted(["-pid"])])
      expect(() => adjustNamespaces(inUser, before, other)).toThrow(/only new ones can be had/);
  });

  it("leave the sysctls of the pod's others to be set", () => {
    const namespaces = { network: "new" } as const;
    expect(() => refuseForeignSysctls(["net.ipv4.ip_forward"], { namespaces })).toThrow(/has not the pod's network namespace/);
    expect(() => refuseForeignSysctls(["kernel.shmmax"], { namespaces })).not.toThrow();
  });
});
