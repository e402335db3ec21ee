import { describe, expect, it } from "vitest";
import { cgroupsPathOfOci, containerIdAt, scopePath, slicePath, unitAt } from "../../../../src/core/cgroup/systemd-names.ts";

const id = "c".repeat(64);
const pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";

describe("a slice", () => {
  it("is where the dashes of its name say", () => {
    expect(slicePath("kubepods.slice")).toBe("/kubepods.slice");
    expect(slicePath("kubepods-burstable-pod1_2.slice")).toBe(pod);
  });

  it.each([
    "-.slice",
    ".slice",
    "a",
    "a.scope",
    "-a.slice",
    "a-.slice",
    "a--b.slice",
    "a/b.slice",
    "a b.slice",
    `${"a".repeat(250)}.slice`,
  ])("is refused when it is %j", (name) => {
    expect(() => slicePath(name)).toThrow();
  });
});

describe("the unit of a cgroup", () => {
  it("is a scope for a container and a slice for a pod", () => {
    const path = scopePath(pod, id);
    expect(path).toBe(`${pod}/cri-containerd-${id}.scope`);
    expect(unitAt(path)).toEqual({ kind: "scope", name: `cri-containerd-${id}.scope`, slice: "kubepods-burstable-pod1_2.slice" });
    expect(unitAt(pod)).toMatchObject({
      kind: "slice",
      name: "kubepods-burstable-pod1_2.slice",
      slice: "kubepods-burstable.slice",
    });
    expect(unitAt("/kubepods.slice")).toMatchObject({ kind: "slice", slice: "-.slice" });
  });

  it.each(["/kubepods/pod1/c1", "/caisson-x/shims", "/a.slice/b/c.scope", "/x.scope", `${pod}/c1`])("is none at %s", (path) => {
    expect(unitAt(path)).toBeUndefined();
  });

  it("names its container, as a plain cgroup does", () => {
    expect(containerIdAt(scopePath(pod, id))).toBe(id);
    expect(containerIdAt(`/kubepods/pod1/${id}`)).toBe(id);
  });
});

describe("a path of the OCI specification", () => {
  it.each([
    ["/a/b", "/a/b"],
    ["system.slice:runc:x", "/system.slice/runc-x.scope"],
    ["a-b.slice:cri-containerd:x", "/a.slice/a-b.slice/cri-containerd-x.scope"],
    [":runc:x", "/system.slice/runc-x.scope"],
    ["a.slice::x", "/a.slice/x.scope"],
    ["a.slice:runc:b-c.slice", "/b.slice/b-c.slice"],
    ["no/systemd/form", "no/systemd/form"],
  ])("%s is %s", (asked, path) => {
    expect(cgroupsPathOfOci(asked)).toBe(path);
  });

  it("cannot leave its slice", () => {
    expect(() => cgroupsPathOfOci("a.slice:x:../../b")).toThrow();
    expect(() => cgroupsPathOfOci("../a.slice:x:y")).toThrow();
  });
});
