import { describe, expect, it } from "vitest";
import type { OciMount } from "../../../src/core/oci.ts";
import { directory, fakeNode, runDir, secured, securedPod, translate, userNamespace } from "./translate-fixture.ts";

const [PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL] = [0, 1, 2] as const;
const data = { containerPath: "/data", hostPath: "/data" };

async function mountsOf(mounts: object[], more: object = {}): Promise<readonly OciMount[]> {
  return (await translate({ ...more, config: { mounts, ...("config" in more ? (more.config as object) : {}) } })).oci.mounts;
}
const at = (mounts: readonly OciMount[], destination: string): OciMount | undefined =>
  mounts.find((mount) => mount.destination === destination);
const refused = async (mount: object, message: RegExp, more: object = {}) =>
  await expect(mountsOf([{ ...data, ...mount }], more)).rejects.toThrow(message);

describe("what every container has mounted", () => {
  it("is the same for all, parents before children", async () => {
    const mounts = await mountsOf([]);
    expect(mounts.map((mount) => mount.destination)).toEqual([
      "/proc",
      "/dev",
      "/sys",
      "/dev/pts",
      "/dev/mqueue",
      "/dev/shm",
      "/etc/hostname",
      "/etc/hosts",
      "/etc/resolv.conf",
      "/sys/fs/cgroup",
    ]);
    expect(at(mounts, "/sys")?.options).toEqual(["nosuid", "noexec", "nodev", "ro"]);
    expect(at(mounts, "/sys/fs/cgroup")?.options).toEqual(["nosuid", "noexec", "nodev", "relatime", "ro"]);
    expect(at(mounts, "/dev/pts")?.options).toContain("gid=5");
    expect(at(mounts, "/dev/shm")).toMatchObject({ source: `${runDir}/shm`, type: "bind" });
    expect(at(mounts, "/etc/hosts")).toMatchObject({ source: `${runDir}/hosts`, options: ["rbind", "rprivate", "rw"] });
  });

  it("has the three files read-only with a read-only root", async () => {
    const mounts = await mountsOf([], { config: secured({ readonlyRootfs: true }) });
    for (const name of ["hostname", "hosts", "resolv.conf"]) expect(at(mounts, `/etc/${name}`)?.options).toContain("ro");
    expect(at(mounts, "/dev/shm")?.options).toContain("rw");
  });

  it("has /sys and the cgroups writable in a privileged container", async () => {
    const mounts = await mountsOf([], { config: secured({ privileged: true }), pod: securedPod({ privileged: true }) });
    expect(at(mounts, "/sys")?.options).toContain("rw");
    expect(at(mounts, "/sys/fs/cgroup")?.options).toContain("rw");
  });

  it("has the node's /dev/shm with the node's IPC", async () => {
    const mounts = await mountsOf([], { pod: securedPod({ namespaceOptions: { ipc: 2 } }) });
    expect(at(mounts, "/dev/shm")?.source).toBe("/dev/shm");
  });

  it("binds the node's /sys in a user namespace with the node's network", async () => {
    const mounts = await mountsOf([], { pod: securedPod({ namespaceOptions: { ...userNamespace, network: 2 } }) });
    expect(at(mounts, "/sys")).toMatchObject({
      type: "bind",
      source: "/sys",
      options: ["rbind", "rslave", "rro", "nosuid", "noexec", "nodev"],
    });
    expect(at(await mountsOf([], { pod: securedPod({ namespaceOptions: userNamespace }) }), "/sys")?.type).toBe("sysfs");
  });

  it("does not name a group of terminals that the user namespace lacks", async () => {
    const line = { containerId: 0, hostId: 100_000, length: 3 };
    const usernsOptions = { mode: 0 as const, uids: [line], gids: [line] };
    const mounts = await mountsOf([], { pod: securedPod({ namespaceOptions: { usernsOptions } }) });
    expect(at(mounts, "/dev/pts")?.options?.join()).not.toMatch(/gid=/);
  });
});

describe("mounts of the pod", () => {
  it("are recursive, private and writable by default", async () => {
    expect(at(await mountsOf([data]), "/data")).toEqual({
      destination: "/data",
      type: "bind",
      source: "/data",
      options: ["rbind", "rprivate", "rw"],
    });
    expect(at(await mountsOf([{ ...data, readonly: true }]), "/data")?.options).toEqual(["rbind", "rprivate", "ro"]);
  });

  it("come parents first, equals in the order of the request", async () => {
    const mounts = await mountsOf(["/b/c/d", "/z", "/b/c", "/a"].map((containerPath) => ({ containerPath, hostPath: "/data" })));
    const own = mounts.filter((mount) => mount.source === "/data").map((mount) => mount.destination);
    expect(own).toEqual(["/z", "/a", "/b/c", "/b/c/d"]);
  });

  it.each(["/etc/hosts", "/dev/shm", "/sys/fs/cgroup", "/proc", "/dev/mqueue"])(
    "replace the default at %s",
    async (containerPath) => {
      const mounts = await mountsOf([{ containerPath: `${containerPath}/`, hostPath: "/data" }]);
      expect(mounts.filter((mount) => mount.destination === containerPath)).toMatchObject([{ source: "/data" }]);
    },
  );

  it.each(["/dev", "/sys"])("at %s replace the defaults below it as well", async (containerPath) => {
    const mounts = await mountsOf([{ containerPath, hostPath: "/data" }]);
    expect(mounts.filter((mount) => mount.destination.startsWith(containerPath)).map((mount) => mount.destination)).toEqual([
      containerPath,
    ]);
  });

  it("at one place are one: the last", async () => {
    const node = fakeNode();
    node.fake.paths.set("/other", directory);
    const result = await translate({
      config: { mounts: [data, { ...data, hostPath: "/other", containerPath: "/data/" }] },
      node,
    });
    expect(result.oci.mounts.filter((mount) => mount.destination === "/data")).toMatchObject([{ source: "/other" }]);
    expect(result.notes).toEqual([expect.stringMatching(/several mounts at \/data/)]);
  });

  it("are reported as they were given", async () => {
    expect((await translate({ config: { mounts: [data] } })).mounts).toMatchObject([data]);
  });

  it.each([
    [{ containerPath: "" }, /container_path is empty/],
    [{ containerPath: "data" }, /not an absolute path/],
    [{ containerPath: "/" }, /must not be the root/],
    [{ containerPath: "//" }, /must not be the root/],
    [{ containerPath: "/a/../../etc" }, /contains "\.\."/],
    [{ containerPath: "/a\nb" }, /control characters/],
    [{ containerPath: "/a\0b" }, /NUL/],
    [{ containerPath: `/${"a".repeat(5000)}` }, /longer than/],
    [{ hostPath: "" }, /host_path of the mount at \/data is empty/],
    [{ hostPath: "data" }, /not an absolute path/],
    [{ hostPath: "/data/../etc" }, /contains "\.\."/],
    [{ imageSubPath: "x" }, /image_sub_path but no image/],
    [{ mountOptions: ["suid"] }, /mount option "suid"/],
    [{ propagation: 9 }, /unknown mount propagation 9/],
  ])("are refused with %j", async (mount, message) => {
    await refused(mount, message);
  });

  it("may have further restrictions, which hold for what is mounted below as well", async () => {
    expect(at(await mountsOf([{ ...data, mountOptions: ["noexec", "nosuid"] }]), "/data")?.options).toEqual([
      "rbind",
      "rprivate",
      "rw",
      "rnoexec",
      "rnosuid",
    ]);
  });
});

describe("sources of mounts", () => {
  it("have their symlinks resolved", async () => {
    const node = fakeNode();
    node.fake.paths.set("/link", { link: "/data" });
    expect(at(await mountsOf([{ ...data, hostPath: "/link" }], { node }), "/data")?.source).toBe("/data");
  });

  it("are made as directories when they are missing", async () => {
    const node = fakeNode();
    expect(at(await mountsOf([{ ...data, hostPath: "/new/dir" }], { node }), "/data")?.source).toBe("/new/dir");
    expect(node.fake.made).toEqual(["/new/dir"]);
  });

  it("are refused when they are missing, where the node is configured so", async () => {
    const node = fakeNode();
    await refused({ hostPath: "/new/dir" }, /"\/new\/dir" of the mount at \/data does not exist/, {
      node,
      options: { absentMountSources: "refuse" },
    });
    expect(node.fake.made).toEqual([]);
  });

  it("say why a missing one cannot be made", async () => {
    const node = fakeNode();
    const host = { ...node.host, makeDirectory: () => Promise.reject(new Error("read-only file system")) };
    await refused({ hostPath: "/new" }, /cannot be made: read-only file system/, { node: { ...node, host } });
  });

  it("that are descriptors of another process are opened, not read (CVE-2021-25741)", async () => {
    const node = fakeNode();
    node.fake.paths.set("/proc/77/fd/5", { link: "/data" });
    expect(at(await mountsOf([{ ...data, hostPath: "/proc/77/fd/5" }], { node }), "/data")?.source).toBe("/proc/77/fd/5");
  });
});

describe("propagation", () => {
  const shared = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n";
  const slave = "22 21 0:5 / /slave rw master:1 - tmpfs tmpfs rw\n";
  const own = "23 21 0:6 / /own rw - tmpfs tmpfs rw\n24 21 0:7 / /own\\040dir rw shared:9 - tmpfs tmpfs rw\n";
  const over = "25 23 0:8 / /own rw shared:7 - tmpfs tmpfs rw\n";
  const option = async (hostPath: string, propagation: number, mountinfo = shared + slave + own) => {
    const node = fakeNode();
    node.fake.mountinfo = mountinfo;
    for (const path of ["/slave/x", "/own/x", "/own dir/x"]) node.fake.paths.set(path, directory);
    const { oci } = await translate({ config: { mounts: [{ ...data, hostPath, propagation: propagation as never }] }, node });
    return [at(oci.mounts, "/data")?.options?.[1], oci.linux.rootfsPropagation];
  };

  it("raises the container's root as well", async () => {
    expect(await option("/data", PRIVATE)).toEqual(["rprivate", undefined]);
    expect(await option("/data", HOST_TO_CONTAINER)).toEqual(["rslave", "rslave"]);
    expect(await option("/data", BIDIRECTIONAL)).toEqual(["rshared", "rshared"]);
  });

  it("from the host works with a slave as well, both ways needs a shared mount", async () => {
    expect(await option("/slave/x", HOST_TO_CONTAINER)).toEqual(["rslave", "rslave"]);
    await expect(option("/slave/x", BIDIRECTIONAL)).rejects.toThrow(
      /path \/slave\/x is mounted on \/slave but it is not a shared mount/,
    );
  });

  it("is refused on a private mount, with the remedy", async () => {
    await expect(option("/own/x", HOST_TO_CONTAINER)).rejects.toThrow(
      /path \/own\/x is mounted on \/own but it is not a shared or slave mount: run "mount --make-rshared \/own"/,
    );
    await expect(option("/own/x", BIDIRECTIONAL)).rejects.toMatchObject({ code: "failed_precondition" });
    expect(await option("/own/x", PRIVATE)).toEqual(["rprivate", undefined]);
  });

  it("looks at the uppermost mount of a place, and reads escaped names", async () => {
    expect(await option("/own/x", BIDIRECTIONAL, shared + own + over)).toEqual(["rshared", "rshared"]);
    expect(await option("/own dir/x", BIDIRECTIONAL)).toEqual(["rshared", "rshared"]);
  });
});

describe("recursive read-only", () => {
  const rro = { readonly: true, recursiveReadOnly: true };

  it("is an option of its own", async () => {
    expect(at(await mountsOf([{ ...data, ...rro }]), "/data")?.options).toEqual(["rbind", "rprivate", "rro"]);
  });

  it("needs readonly, propagation PRIVATE and a kernel that can", async () => {
    await refused({ recursiveReadOnly: true }, /needs readonly/);
    await refused({ ...rro, propagation: HOST_TO_CONTAINER }, /needs propagation PRIVATE/);
    await refused(rro, /^RROUnsupported: /, { node: fakeNode({ recursiveReadOnly: false }) });
  });
});

describe("id-mapped mounts", () => {
  const { uids: uidMappings, gids: gidMappings } = userNamespace.usernsOptions;
  const pod = securedPod({ namespaceOptions: userNamespace });

  it("carry the mappings of the pod's user namespace", async () => {
    expect(at(await mountsOf([{ ...data, uidMappings, gidMappings }], { pod }), "/data")).toMatchObject({
      uidMappings: [{ containerID: 0, hostID: 100_000, size: 65_536 }],
      gidMappings: [{ containerID: 0, hostID: 200_000, size: 65_536 }],
    });
  });

  it("are refused without a user namespace, with half of the mappings and with others", async () => {
    await refused({ uidMappings, gidMappings }, /no user namespace/);
    await refused({ uidMappings }, /differ from those of the pod/, { pod });
    await refused({ uidMappings, gidMappings: uidMappings }, /differ from those of the pod/, { pod });
  });
});

describe("image mounts", () => {
  const images = { tools: ["/l/2", "/l/1"] };
  const mount = { containerPath: "/tools/", hostPath: "", readonly: true, image: { image: "tools" } };
  const translated = async (more: object, of: object = {}) =>
    await translate({ ...of, images, config: { mounts: [{ ...mount, ...more }] } });

  it("are read-only trees of the image's layers, without setuid files and devices", async () => {
    const { oci, images: opened } = await translated({ imageSubPath: "./a//b/", mountOptions: ["noexec"] });
    expect(at(oci.mounts, "/tools")).toEqual({
      destination: "/tools",
      type: "overlay",
      source: "id of tools",
      options: ["ro", "nosuid", "nodev", "noexec", "lowerdir=/l/2:/l/1"],
    });
    expect(opened).toEqual([{ destination: "/tools", layerDirs: ["/l/2", "/l/1"], path: "a/b" }]);
    expect((await translated({})).images).toMatchObject([{ path: "" }]);
  });

  it("are reported with the id of the image", async () => {
    expect((await translated({})).mounts).toMatchObject([{ ...mount, image: { image: "tools", imageRef: "id of tools" } }]);
  });

  it("need not be id-mapped: their layers are", async () => {
    const pod = securedPod({ namespaceOptions: userNamespace });
    const line = { containerId: 0, hostId: 100_000, length: 65_536 };
    const { oci } = await translated({ uidMappings: [line], gidMappings: [{ ...line, hostId: 200_000 }] }, { pod });
    expect(at(oci.mounts, "/tools")).not.toHaveProperty("uidMappings");
  });

  it("are limited in number, since each takes a descriptor of the plan", async () => {
    const mounts = Array.from({ length: 33 }, (_, at) => ({ ...mount, containerPath: `/t/${at}` }));
    expect((await translate({ images, config: { mounts: mounts.slice(1) } })).images).toHaveLength(32);
    await expect(translate({ images, config: { mounts } })).rejects.toThrow(
      /^ImageVolumeMountFailed: 33 image mounts are more than 32/,
    );
  });

  it("are not opened where a later mount takes their place", async () => {
    const { images: opened } = await translate({ images, config: { mounts: [mount, { ...data, containerPath: "/tools" }] } });
    expect(opened).toEqual([]);
  });

  it.each([
    [{ hostPath: "/data" }, /^ImageVolumeMountFailed: .* both a host_path and an image/],
    [{ readonly: false }, /^ImageVolumeMountFailed: .* must be readonly/],
    [{ propagation: HOST_TO_CONTAINER }, /^ImageVolumeMountFailed: .* propagation PRIVATE/],
    [{ imageSubPath: "/etc" }, /^ImageVolumeMountFailed: image_sub_path "\/etc" .* must be relative/],
    [{ imageSubPath: "a/../../etc" }, /^ImageVolumeMountFailed: .* must not contain "\.\."/],
    [{ imageSubPath: "a\nb" }, /^ImageVolumeMountFailed: .* control characters/],
    [{ imageSubPath: "a".repeat(5000) }, /^ImageVolumeMountFailed: .* longer than 4095 bytes/],
  ])("with %j are refused", async (more, message) => {
    await expect(translated(more)).rejects.toThrow(message);
  });
});

describe("volumes of the image", () => {
  const volumesOf = async (volumes: string[], mounts: object[] = []) => {
    const result = await translate({ image: { volumes }, config: { mounts } });
    return { volumes: result.volumes, mounts: result.oci.mounts, notes: result.notes };
  };
  const base = `/var/lib/caisson/containers/${"c".repeat(64)}/volumes`;

  it("get a directory each, mounted writable, in a stable order", async () => {
    const { volumes, mounts } = await volumesOf(["/var/lib/db/", "/cache"]);
    expect(volumes).toEqual([
      { path: "/cache", hostPath: `${base}/0` },
      { path: "/var/lib/db", hostPath: `${base}/1` },
    ]);
    expect(at(mounts, "/var/lib/db")).toEqual({
      destination: "/var/lib/db",
      type: "bind",
      source: `${base}/1`,
      options: ["rbind", "rprivate", "rw"],
    });
  });

  it("are not made where the pod mounts something or a default is mounted", async () => {
    expect((await volumesOf(["/data", "/dev/shm", "/etc/hosts"], [data])).volumes).toEqual([]);
  });

  it("cannot climb out of the root (CVE-2022-23648)", async () => {
    expect((await volumesOf(["/../../etc/x", "../../var/y", "rel"])).volumes.map((volume) => volume.path)).toEqual([
      "/etc/x",
      "/rel",
      "/var/y",
    ]);
  });

  it("are ignored below /proc, /sys and /dev", async () => {
    const { volumes, notes } = await volumesOf(["/proc/sys", "/sys/fs", "/dev/x", "/process"]);
    expect(volumes.map((volume) => volume.path)).toEqual(["/process"]);
    expect(notes).toHaveLength(3);
  });

  it("are refused when they are the root, empty, strange or too many", async () => {
    for (const volume of ["/", "..", "", "/a\nb"])
      await expect(volumesOf([volume])).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(volumesOf(Array.from({ length: 257 }, (_, i) => `/v${i}`))).rejects.toThrow(/more than 256/);
  });
});
