/** Roots of the library's containers: without pivot_root, propagation, copy-up, recursive attributes. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Container, Mount } from "../../src/core/library/public.ts";
import { LibraryPlace, output } from "../helpers/library-place.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}
const mountinfo = (container: Container): string => readFileSync(`/proc/${container.state().init_process_pid}/mountinfo`, "utf8");
const mountsWith = (...more: readonly Mount[]): { mounts: readonly Mount[] } => ({
  mounts: [...(place.config("x").mounts ?? []), ...more],
});

describe("without pivot_root #no-pivot", () => {
  const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
  const plain = ["mnt", "uts", "ipc", "pid", "net"] as const;

  it.each([
    ["as the host's root", plain, {}],
    ["in a user namespace", [...plain, "user"] as const, { uidMappings: ids, gidMappings: ids }],
  ])("the root is moved over / and the host's is out of sight: %s", async (_, types, mappings) => {
    const container = await place.sleeping({ ...mappings, namespaces: types.map((type) => ({ type })), noPivotRoot: true });
    expect(await output(container, "ls /")).toContain("root");
    expect(await output(container, `test -e ${place.top} || echo unseen; cd /; cd ../../..; test -d home/user && pwd`)).toBe(
      "unseen\n/",
    );
    // Whoever unmasks a procfs needs a full one in sight.
    const seen = await output(container, "cat /proc/self/mountinfo");
    expect(
      seen
        .split("\n")
        .filter((line) => / - (proc|sysfs) /.test(line))
        .map((line) => line.split(" ")[4])
        .toSorted(),
    ).toEqual(["/proc", "/sys"]);
    await end(container);
  });

  it("a private root is refused", async () => {
    await expect(place.create({ noPivotRoot: true, rootPropagation: "rprivate" })).rejects.toThrow("needs pivot_root");
  });
});

describe("propagation of the root #root-propagation", () => {
  it.each([
    ["private", /^\S+ \S+ \S+ \S+ \/ \S+ - /m],
    ["slave", /^\S+ \S+ \S+ \S+ \/ \S+ (master:\d+ )?- /m],
    ["shared", /^\S+ \S+ \S+ \S+ \/ \S+ .*shared:\d+/m],
    ["unbindable", /^\S+ \S+ \S+ \S+ \/ \S+ .*unbindable/m],
  ])("is %s", async (rootPropagation, form) => {
    const container = await place.sleeping({ rootPropagation });
    expect(mountinfo(container)).toMatch(form);
    await end(container);
  });

  it("of the host's later mounts reaches an rslave bind, and none of the container's comes back #propagation", async () => {
    const source = join(place.top, "volume");
    mkdirSync(join(source, "later"), { recursive: true });
    execFileSync("mount", ["--bind", source, source]);
    execFileSync("mount", ["--make-shared", source]);
    try {
      const container = await place.sleeping(
        mountsWith({ source, destination: "/data", device: "bind", flags: ["rbind", "rslave"] }),
      );
      execFileSync("mount", ["-t", "tmpfs", "caisson-later", join(source, "later")]);
      expect(await output(container, "grep -c caisson-later /proc/self/mountinfo")).toBe("1");
      await end(container);
    } finally {
      execFileSync("umount", ["-R", source]);
    }
  });
});

describe("file systems of the root", () => {
  it("a tmpfs may begin with what it covers #tmpcopyup #tmpfs", async () => {
    const container = await place.sleeping(
      mountsWith({ source: "tmpfs", destination: "/etc", device: "tmpfs", flags: ["tmpcopyup"], data: "mode=755" }),
    );
    expect(await output(container, "grep -c root /etc/passwd; echo more >> /etc/passwd; tail -n 1 /etc/passwd")).toBe("1\nmore");
    await end(container);
    expect(readFileSync(join(place.rootfs, "etc/passwd"), "utf8")).not.toContain("more");
  });

  it("flags and options are those of the mount alone #mount-options #bind #tmpfs", async () => {
    const source = join(place.top, "flagged");
    mkdirSync(source, { recursive: true });
    writeFileSync(join(source, "file"), "x");
    const container = await place.sleeping(
      mountsWith(
        {
          source,
          destination: "/data",
          device: "bind",
          flags: ["bind", "ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"],
        },
        { source: join(source, "file"), destination: "/tmp/file", device: "bind", flags: ["bind"] },
        {
          source: "tmpfs",
          destination: "/home",
          device: "tmpfs",
          flags: ["nodev", "nodiratime"],
          data: "mode=700,size=64k,uid=7",
        },
      ),
    );
    const lines = (await output(container, "cat /proc/self/mountinfo")).split("\n").map((line) => line.split(" "));
    const of = (path: string): readonly string[] => lines.find((fields) => fields[4] === path) ?? [];
    expect(of("/data")[5]?.split(",").toSorted()).toEqual(["noatime", "nodev", "noexec", "nosuid", "nosymfollow", "ro"]);
    expect(of("/home")[5]?.split(",").toSorted()).toEqual(["nodev", "nodiratime", "relatime", "rw"]);
    expect(of("/home").at(-1)).toMatch(/size=64k.*mode=700.*uid=7/);
    expect(of("/tmp/file")[5]).toMatch(/^rw,/);
    expect(await output(container, "touch /data/x 2>/dev/null; echo y > /tmp/file; cat /data/file")).toBe("y");
    await end(container);
  });

  it("recursive attributes reach what is mounted inside a bind, plain ones do not #recursive-attributes", async () => {
    const source = join(place.top, "tree");
    mkdirSync(join(source, "inner"), { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "caisson-inner", join(source, "inner")]);
    try {
      writeFileSync(join(source, "inner/file"), "x");
      for (const [flag, inner] of [
        ["rro", "ro"],
        ["ro", "rw"],
      ] as const) {
        const container = await place.sleeping(
          mountsWith({ source, destination: "/data", device: "bind", flags: ["rbind", flag] }),
        );
        const options = (await output(container, "grep -E ' /data' /proc/self/mountinfo"))
          .split("\n")
          .map((line) => line.split(" ")[5]?.split(",")[0]);
        expect(options).toEqual(["ro", inner]);
        await end(container);
      }
    } finally {
      execFileSync("umount", [join(source, "inner")]);
    }
  });

  it("an overlay of any number of layers is a mount like others, also as the place that the root's parts come from #overlay", async () => {
    const layers = ["a", "b", "c", "upper", "work"].map((name) => join(place.top, "layers", name));
    for (const layer of layers) mkdirSync(layer, { recursive: true });
    for (const [at, name] of ["a", "b", "c"].entries()) writeFileSync(join(layers[at] ?? "", name), name);
    const [a, b, c, upper, work] = layers;
    const container = await place.sleeping(
      mountsWith({
        source: "overlay",
        destination: "/data",
        device: "overlay",
        data: `lowerdir=${a}:${b}:${c},upperdir=${upper},workdir=${work}`,
      }),
    );
    expect(await output(container, "cat /data/a /data/b /data/c; echo d > /data/d")).toBe("abc");
    expect(readFileSync(join(upper ?? "", "d"), "utf8")).toBe("d\n");
    await end(container);
  });
});
