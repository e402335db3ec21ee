import { describe, expect, it } from "vitest";
import { character, directory, fakeNode, secured, securedPod, translate, userNamespace } from "./translate-fixture.ts";

function node() {
  const made = fakeNode();
  made.fake.paths
    .set("/dev", directory)
    .set("/dev/null", character(1, 3, 0o666, 0))
    .set("/dev/fuse", character(10, 229))
    .set("/dev/fuse-link", { link: "/dev/fuse" })
    .set("/dev/snd", directory)
    .set("/dev/snd/pcm", character(116, 2))
    .set("/dev/snd/by-id", directory)
    .set("/dev/snd/by-id/link", { link: "/dev/snd/pcm" })
    .set("/dev/snd/by-id/x", { ...character(116, 9), kind: "block" })
    .set("/dev/pts", directory)
    .set("/dev/pts/0", character(136, 0))
    .set("/dev/console", character(5, 1));
  return made;
}
const deny = { allow: false, access: "rwm" };

async function devicesOf(devices: object[], more: object = {}) {
  const { linux } = (await translate({ config: { devices, ...more }, node: node() })).oci;
  return { devices: linux.devices, rules: linux.resources?.devices };
}

describe("devices", () => {
  it("are none, and all is denied, when none is asked for", async () => {
    expect(await devicesOf([])).toEqual({ devices: [], rules: [deny] });
  });

  it("follow symlinks of the host and keep mode and owner", async () => {
    expect(await devicesOf([{ hostPath: "/dev/fuse-link", containerPath: "/dev/f", permissions: "rw" }])).toEqual({
      devices: [{ type: "c", path: "/dev/f", major: 10, minor: 229, fileMode: 0o660, uid: 0, gid: 6 }],
      rules: [deny, { allow: true, type: "c", major: 10, minor: 229, access: "rw" }],
    });
  });

  it("of a directory are all below it, without its symlinks", async () => {
    const { devices } = await devicesOf([{ hostPath: "/dev/snd", containerPath: "/dev/sound", permissions: "r" }]);
    expect(devices?.map((device) => [device.path, device.type])).toEqual([
      ["/dev/sound/by-id/x", "b"],
      ["/dev/sound/pcm", "c"],
    ]);
  });

  it("of a directory are taken to a limited depth and number", async () => {
    const deep = node();
    let path = "/dev/deep";
    for (let level = 1; level <= 12; level++, path += "/d") {
      deep.fake.paths.set(path, directory).set(`${path}/node`, character(1, level));
    }
    const config = { devices: [{ hostPath: "/dev/deep" }] };
    expect((await translate({ config, node: deep })).oci.linux.devices).toHaveLength(8);

    const many = node();
    many.fake.paths.set("/dev/many", directory);
    const host = {
      ...many.host,
      list: async () => Array.from({ length: 4097 }, (_, i) => `n${i}`),
      lstat: async (at: string) => (at === "/dev/many" ? directory : character(1, 3)),
    };
    const asked = translate({ config: { devices: [{ hostPath: "/dev/many" }] }, node: { ...many, host } });
    await expect(asked).rejects.toThrow(/more than 4096 devices/);
  });

  it("have all permissions and the host's path by default", async () => {
    const { devices, rules } = await devicesOf([{ hostPath: "/dev/fuse" }]);
    expect(devices?.[0]?.path).toBe("/dev/fuse");
    expect(rules?.[1]?.access).toBe("rwm");
  });

  it.each([
    [{ hostPath: "/dev/nowhere", containerPath: "/dev/x" }, /does not exist on this node/],
    [{ hostPath: "/data", containerPath: "/" }, /must not be \//],
    [{ hostPath: "dev/fuse", containerPath: "/dev/x" }, /not an absolute path/],
    [{ hostPath: "/dev/fuse", containerPath: "x" }, /not an absolute path/],
    [{ hostPath: "/dev/fuse", containerPath: "/dev/../etc/x" }, /contains "\.\."/],
    [{ hostPath: "/dev/fuse", containerPath: "/dev/x", permissions: "rwx" }, /not a subset of "rwm"/],
    [{ hostPath: "/dev/fuse", containerPath: "/dev/x", permissions: "rr" }, /not a subset of "rwm"/],
  ])("refuse %j", async (device, message) => {
    await expect(devicesOf([device])).rejects.toThrow(message);
  });

  it("refuse a file that is no device", async () => {
    const withFile = node();
    withFile.fake.paths.set("/etc/passwd", { ...directory, kind: "file" });
    const config = { devices: [{ hostPath: "/etc/passwd", containerPath: "/dev/x" }] };
    await expect(translate({ config, node: withFile })).rejects.toThrow(/is not a device/);
  });

  it("have no owner in a user namespace, where host ids mean nothing", async () => {
    const pod = securedPod({ namespaceOptions: userNamespace });
    const { oci } = await translate({ config: { devices: [{ hostPath: "/dev/fuse" }] }, pod, node: node() });
    expect(oci.linux.devices).toEqual([{ type: "c", path: "/dev/fuse", major: 10, minor: 229, fileMode: 0o660 }]);
  });

  it("are all of the node in a privileged container, without ptys and the console", async () => {
    const config = { ...secured({ privileged: true }), devices: [{ hostPath: "/dev/fuse", containerPath: "/dev/null" }] };
    const { oci } = await translate({ config, pod: securedPod({ privileged: true }), node: node() });
    expect(oci.linux.devices?.map((device) => device.path)).toEqual([
      "/dev/fuse",
      "/dev/snd/by-id/x",
      "/dev/snd/pcm",
      "/dev/null",
    ]);
    expect(oci.linux.devices?.at(-1)?.major).toBe(10);
    expect(oci.linux.resources?.devices).toEqual([deny, { allow: true, access: "rwm" }]);
  });

  it("by CDI are those of the kubelet's field, each once", async () => {
    const CDIDevices = ["vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/gpu=0"].map((name) => ({ name }));
    const { oci } = await translate({ config: { CDIDevices } });
    expect(oci.process.env).toContain("CDI=vendor.com/gpu=0,vendor.com/gpu=1");
  });

  it("by annotations count only where the administrator says so, and never those of the pod", async () => {
    const annotations = { "cdi.k8s.io/plugin": "vendor.com/gpu=2,vendor.com/gpu=0", "other.io/x": "vendor.com/gpu=3" };
    const config = { CDIDevices: [{ name: "vendor.com/gpu=0" }], annotations };
    const envOf = async (of: Parameters<typeof translate>[0]) =>
      (await translate(of)).oci.process.env.filter((variable) => variable.startsWith("CDI="));
    expect(await envOf({ config })).toEqual(["CDI=vendor.com/gpu=0"]);
    expect(await envOf({ config, options: { cdiAnnotations: true } })).toEqual(["CDI=vendor.com/gpu=0,vendor.com/gpu=2"]);
    expect(await envOf({ pod: { annotations }, options: { cdiAnnotations: true } })).toEqual([]);
  });
});
