import { describe, expect, it } from "vitest";
import { ancestry, cleanCgroupPath } from "../../../../src/core/cgroup/cgroup-path.ts";
import {
  directoryOf,
  hierarchyMounts,
  killPathsOf,
  oomPathOf,
  placeOf,
  taskFilesOf,
} from "../../../../src/core/cgroup/cgroup-place.ts";
import { findHierarchies, locate } from "../../../../src/core/cgroup/hierarchies.ts";

const hybridTable = `22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:35 / /elsewhere rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;
const v2Table = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

const hybrid = await findHierarchies(hybridTable, async () => ["hugetlb"]);
const v2 = await findHierarchies(v2Table, async () => ["cpu", "memory", "pids"]);

describe("hierarchies", () => {
  it("are told by the mount table", () => {
    expect(hybrid.version).toBe("hybrid");
    expect(v2.version).toBe("v2");
    expect(hybrid.v1.map(({ controllers }) => controllers.join())).toEqual([
      "cpu,cpuacct",
      "cpuset",
      "memory",
      "freezer",
      "name=systemd",
    ]);
  });

  it("are only v1 where nothing unified is mounted", async () => {
    const v1 = await findHierarchies(hybridTable.replace(/.*cgroup2.*\n/, ""), async () => []);
    expect([v1.version, v1.unified]).toEqual(["v1", undefined]);
  });

  it("must exist", async () => {
    await expect(findHierarchies("22 27 0:21 / /proc rw - proc proc rw\n", async () => [])).rejects.toThrow(
      /no cgroup hierarchy/,
    );
  });

  it("have each controller in one place", () => {
    expect(locate(hybrid, "memory")).toEqual({ version: 1, mountPoint: "/sys/fs/cgroup/memory" });
    expect(locate(hybrid, "hugetlb")).toEqual({ version: 2, mountPoint: "/sys/fs/cgroup/unified" });
    expect(locate(hybrid, "rdma")).toBeUndefined();
    expect(locate(v2, "cpuacct")?.version).toBe(2);
    expect(locate(v2, "hugetlb")).toBeUndefined();
  });

  it("decode spaces in mount points", async () => {
    const odd = await findHierarchies("1 2 0:1 / /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw\n", async () => []);
    expect(odd.unified?.mountPoint).toBe("/sys/fs/my cgroup");
  });
});

describe("the place of a cgroup", () => {
  const place = placeOf(hybrid, "/kubepods/pod1/c1");

  it("has a tasks file per v1 hierarchy, and v2 as the place to be born in", () => {
    expect(taskFilesOf(place)).toHaveLength(5);
    expect(taskFilesOf(place)[0]).toBe("/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/c1/tasks");
    expect(place.unified).toBe("/sys/fs/cgroup/unified/kubepods/pod1/c1");
  });

  it("kills by v2 first, else by the freezer", () => {
    expect(killPathsOf(place)).toEqual(["/sys/fs/cgroup/unified/kubepods/pod1/c1", "/sys/fs/cgroup/freezer/kubepods/pod1/c1"]);
  });

  it("tells where OOM kills are seen", () => {
    expect(oomPathOf(hybrid, place)).toBe("/sys/fs/cgroup/memory/kubepods/pod1/c1");
    expect(oomPathOf(v2, placeOf(v2, "/a"))).toBe("/sys/fs/cgroup/a/memory.events");
    expect(directoryOf(v2, placeOf(v2, "/a"), "hugetlb")).toBeUndefined();
  });

  it("shows a container its own directories, with links for controllers that share one", () => {
    const { entries, links } = hierarchyMounts(hybrid, place);
    expect(entries.map(({ name }) => name)).toEqual(["cpu,cpuacct", "cpuset", "memory", "freezer", "systemd", "unified"]);
    expect(links).toEqual([
      { name: "cpu", target: "cpu,cpuacct" },
      { name: "cpuacct", target: "cpu,cpuacct" },
    ]);
  });
});

describe("a cgroup path", () => {
  it("cannot climb out of the hierarchy", () => {
    expect(cleanCgroupPath("/a/../../../b/./c//")).toBe("/b/c");
  });

  it.each(["", "a/b", "/", "/..", "/a/..", "/a\0b"])("is refused when it is %j", (path) => {
    expect(() => cleanCgroupPath(path)).toThrow();
  });

  it("has its parents topmost first", () => {
    expect(ancestry("/a/b/c")).toEqual(["/a", "/a/b", "/a/b/c"]);
  });
});
