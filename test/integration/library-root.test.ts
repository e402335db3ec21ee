/** Roots of the library's containers: without pivot_root, propagation, copy-up, recursive attributes. */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Config, Container, Mount, RootOverlay } from "../../src/core/library/public.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

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

const mapped = 200_000;
const mapping = [{ containerID: 0, hostID: mapped, size: 65_536 }];
const inUser: Partial<Config> = {
  namespaces: (["mnt", "uts", "ipc", "pid", "net", "user"] as const).map((type) => ({ type })),
  uidMappings: mapping,
  gidMappings: mapping,
};
let made = 0;
/** Directories of our own, each with a file that has its name. */
function layersOf(...names: readonly string[]): readonly string[] {
  const top = join(place.top, `layers-${made++}`);
  return names.map((name) => {
    const layer = join(top, name);
    mkdirSync(join(layer, "etc"), { recursive: true });
    writeFileSync(join(layer, "etc", name), name);
    writeFileSync(join(layer, "etc/top"), name);
    return layer;
  });
}
function writable(): { readonly upper: string; readonly work: string } {
  const top = join(place.top, `writable-${made++}`);
  mkdirSync(top);
  return { upper: join(top, "upper"), work: join(top, "work") };
}
const withOverlay = (overlay: RootOverlay, more: Partial<Config> = {}): Partial<Config> => ({ overlay, ...more });

describe("a root of layers #overlay-root", () => {
  it("shows the topmost file of each name, and keeps changes apart from every layer", async () => {
    const layers = layersOf("a", "b", "c");
    const { upper, work } = writable();
    const container = await place.sleeping(withOverlay({ layers, upper, work }));
    expect(await output(container, "cat /etc/a /etc/b /etc/c /etc/top; rm /etc/b; echo new > /etc/new")).toBe("abca");
    expect(container.state().config.overlay).toEqual({ layers, upper, work });
    expect(mountinfo(container).split("\n")[0]).toMatch(/ - overlay overlay rw,/);
    await end(container);
    expect(readdirSync(join(upper, "etc")).toSorted()).toEqual(["b", "new"]);
    expect(statSync(join(upper, "etc/b")).isCharacterDevice()).toBe(true);
    expect(existsSync(join(place.rootfs, "etc/new"))).toBe(false);
    expect(readFileSync(join(layers[1] ?? "", "etc/b"), "utf8")).toBe("b");

    // The next container goes on where this one stopped.
    const next = await place.sleeping(withOverlay({ layers, upper, work }, { readonlyfs: true }));
    expect(await output(next, "ls /etc/b /etc/new 2>/dev/null; echo x > /etc/x; cat /etc/new")).toBe("/etc/new\nnew");
    await end(next);
    expect(existsSync(join(upper, "etc/x"))).toBe(false);
  });

  it("gives the upper layer the look of the topmost one", async () => {
    const layers = layersOf("a");
    chmodSync(layers[0] ?? "", 0o751);
    chownSync(layers[0] ?? "", 7, 8);
    const { upper, work } = writable();
    const container = await place.sleeping(withOverlay({ layers, upper, work }));
    expect(await output(container, "stat -c '%a %u %g' /")).toBe("751 7 8");
    await end(container);
  });

  it("is read-only without an upper one", async () => {
    const container = await place.sleeping(withOverlay({ layers: layersOf("a", "b") }));
    expect(await output(container, "touch /etc/x 2>&1; cat /etc/a /etc/b")).toBe("touch: /etc/x: Read-only file system\nab");
    await end(container);
  });

  it("takes two hundred of them", async () => {
    const names = Array.from({ length: 200 }, (_, at) => `l${at}`);
    const container = await place.sleeping(withOverlay({ layers: layersOf(...names), ...writable() }));
    expect(await output(container, "ls /etc | grep -c l; cat /etc/top")).toBe("200\nl0");
    await end(container);
  });

  it("is where users are looked up", async () => {
    const [layer = ""] = layersOf("users");
    writeFileSync(join(layer, "etc/passwd"), "root:x:0:0::/:/bin/sh\nlayered:x:77:78::/:/bin/sh\n");
    writeFileSync(join(layer, "etc/group"), "layered:x:78:\n");
    const container = await place.sleeping(withOverlay({ layers: [layer], ...writable() }), { user: "layered" });
    expect(await output(container, "id -u; id -g", { user: "layered" })).toBe("77\n78");
    expect(statSync(`/proc/${container.state().init_process_pid}`).uid).toBe(77);
    await end(container);
  });

  it("is moved over / where it cannot be pivoted to #no-pivot", async () => {
    const container = await place.sleeping(withOverlay({ layers: layersOf("a"), ...writable() }, { noPivotRoot: true }));
    expect(await output(container, "cat /etc/a; pwd; cd ../..; test -d home/user && echo root")).toBe("a/\nroot");
    await end(container);
  });

  it("leaves nothing behind when it cannot be mounted", async () => {
    const [a = ""] = layersOf("a");
    const { upper, work } = writable();
    execFileSync("mkdir", ["-p", work]);
    execFileSync("mount", ["-t", "tmpfs", "caisson-other", work]);
    try {
      const container = await place.create(withOverlay({ layers: [a], upper, work }));
      await expect(container.run(shell("true"))).rejects.toThrow(/overlay: upper .* and work .* are on different file systems/);
      expect(await container.status()).toBe("stopped");
      await container.destroy();
    } finally {
      execFileSync("umount", [work]);
    }
    expect(place.cgroups()).toEqual([]);
  });
});

describe("an id-mapped root #idmap-root", () => {
  it("belongs to the container's own root, and stays the host's", async () => {
    chownSync(join(place.rootfs, "data"), 1000, 1001);
    const container = await place.sleeping({ ...inUser, idmapRoot: true });
    expect(await output(container, "stat -c '%u %g' / /etc/passwd /data; echo x > /root/mapped; cat /proc/self/uid_map")).toMatch(
      new RegExp(`^0 0\n0 0\n1000 1001\n *0 *${mapped} *65536$`),
    );
    await end(container);
    // Written by the container's root, 200000 of the host, into a file system that knows nothing of it.
    expect(statSync(join(place.rootfs, "root/mapped")).uid).toBe(0);
  });

  it("without it the same files are nobody's", async () => {
    const container = await place.sleeping(inUser);
    expect(await output(container, "stat -c '%u %g' /etc/passwd; touch /data/x 2>/dev/null || echo refused")).toBe(
      "65534 65534\nrefused",
    );
    await end(container);
  });

  it("of layers has each of them mapped, and what is written belongs to the mapped ids #overlay-root", async () => {
    const { upper, work } = writable();
    const layers = layersOf("a", "b");
    const container = await place.sleeping(withOverlay({ layers, upper, work }, { ...inUser, idmapRoot: true }));
    expect(await output(container, "stat -c '%u' / /etc/a /etc/b /etc/passwd; echo more >> /etc/a; touch /new; cat /etc/a")).toBe(
      "0\n0\n0\n0\namore",
    );
    await end(container);
    expect(["", "etc/a", "new"].map((name) => statSync(join(upper, name)).uid)).toEqual([mapped, mapped, mapped]);
    expect(statSync(join(layers[0] ?? "", "etc/a")).uid).toBe(0);
  });

  it("is mapped too where the user namespace is joined", async () => {
    const first = await place.sleeping({ ...inUser, idmapRoot: true });
    const namespaces: Config["namespaces"] = [
      ...(inUser.namespaces ?? []).filter(({ type }) => type !== "user"),
      { type: "user", container: first.id },
    ];
    const second = await place.sleeping({ ...inUser, namespaces, idmapRoot: true });
    expect(await output(second, "stat -c '%u %g' /etc/passwd; touch /root/joined && echo written")).toBe("0 0\nwritten");
    await end(second);
    await end(first);
    expect(statSync(join(place.rootfs, "root/joined")).uid).toBe(0);
  });

  it("names a file system that cannot be mapped", async () => {
    const shared = join(place.top, "inner");
    const layers = layersOf("a");
    mkdirSync(shared);
    // An overlay cannot be mapped itself, so not as a layer either.
    execFileSync("mount", ["-t", "overlay", "overlay", "-o", `lowerdir=${layers[0]}:${place.rootfs}`, shared]);
    try {
      const container = await place.create(withOverlay({ layers: [shared], ...writable() }, { ...inUser, idmapRoot: true }));
      await expect(container.run(shell("true"))).rejects.toThrow(`overlay layer ${shared}: its file system cannot be id-mapped`);
      await container.destroy();
      const single = await place.create({ ...inUser, rootfs: shared, idmapRoot: true });
      await expect(single.run(shell("true"))).rejects.toThrow(`root ${shared}: its file system cannot be id-mapped`);
      await single.destroy();
    } finally {
      execFileSync("umount", [shared]);
    }
  });
});
