import { describe, expect, it } from "vitest";
import type { SelinuxPolicy } from "../../../src/core/process/selinux-policy.ts";
import { directory, fakeNode, secured, securedPod, translate } from "./translate-fixture.ts";

const [RuntimeDefault, Unconfined, Localhost] = [0, 1, 2] as const;

describe("AppArmor", () => {
  const on = () => fakeNode({ apparmorProfiles: () => new Set(["caisson-default", "mine"]) });
  const profileOf = async (context: object, node = on(), pod = {}) =>
    (await translate({ config: secured(context), node, pod })).oci.process.apparmorProfile;

  it.each([
    [{ apparmor: { profileType: RuntimeDefault } }, "caisson-default"],
    [{ apparmor: { profileType: Localhost, localhostRef: "mine" } }, "mine"],
    [{ apparmor: { profileType: Unconfined } }, undefined],
    [{ apparmorProfile: "runtime/default" }, "caisson-default"],
    [{ apparmorProfile: "localhost/mine" }, "mine"],
    [{ apparmorProfile: "unconfined" }, undefined],
    [{ apparmor: { profileType: Unconfined }, apparmorProfile: "localhost/mine" }, undefined],
    [{}, "caisson-default"],
  ])("where it is on, %j gives %s", async (context, expected) => {
    expect(await profileOf(context)).toBe(expected);
  });

  it("refuses a profile that is not loaded; who asks for none goes without", async () => {
    const bare = fakeNode({ apparmorProfiles: () => new Set<string>() });
    expect(await profileOf({}, bare)).toBeUndefined();
    await expect(profileOf({ apparmorProfile: "runtime/default" }, bare)).rejects.toThrow(/"caisson-default" is not loaded/);
    await expect(profileOf({ apparmorProfile: "localhost/other" })).rejects.toThrow(/"other" is not loaded on this node/);
  });

  it("does not confine privileged containers by default, but by a profile of their own", async () => {
    const pod = securedPod({ privileged: true });
    expect(await profileOf({ privileged: true, apparmor: { profileType: RuntimeDefault } }, on(), pod)).toBeUndefined();
    expect(await profileOf({ privileged: true }, on(), pod)).toBeUndefined();
    expect(await profileOf({ privileged: true, apparmorProfile: "localhost/mine" }, on(), pod)).toBe("mine");
  });

  it("where it is off, only nothing and Unconfined are possible", async () => {
    const off = fakeNode();
    expect(await profileOf({}, off)).toBeUndefined();
    expect(await profileOf({ apparmor: { profileType: Unconfined } }, off)).toBeUndefined();
    expect(await profileOf({ apparmorProfile: "unconfined" }, off)).toBeUndefined();
    for (const context of [{ apparmor: { profileType: RuntimeDefault } }, { apparmorProfile: "localhost/mine" }]) {
      await expect(profileOf(context, off)).rejects.toThrow(/AppArmor is not enabled on this node/);
    }
  });

  it("refuses strange names", async () => {
    await expect(profileOf({ apparmorProfile: "strange" })).rejects.toThrow(/unknown apparmor_profile "strange"/);
  });
});

describe("SELinux", () => {
  const policy = (knows: (label: string) => boolean = () => true): SelinuxPolicy => ({
    process: "system_u:system_r:container_t:s0",
    file: "system_u:object_r:container_file_t:s0",
    knows,
  });
  const run = async (selinuxOptions: object, selinux: SelinuxPolicy | undefined = undefined, more: object = {}, pod = {}) => {
    const { oci } = await translate({ config: secured({ selinuxOptions, ...more }), node: fakeNode({ selinux }), pod });
    return [oci.process.selinuxLabel, oci.linux.mountLabel];
  };

  it.each(["s0", "s0:c1,c2", "s0:c1.c1023", "s0-s0:c0.c1023", ""])(
    "takes the level %j, and does nothing where it is off",
    async (level) => {
      expect(await run({ level })).toEqual([undefined, undefined]);
    },
  );

  it.each(["high", "s0:", "s0:c1;rm", "c1,c2", "s0:c1,c2\n"])("refuses the level %j", async (level) => {
    await expect(run({ level })).rejects.toThrow(/SELinux level .* is not valid/);
  });

  it("refuses a type that is none", async () => {
    await expect(run({ type: "spc_t:s0" })).rejects.toThrow(/SELinux option/);
  });

  it("fills what is left out from the policy", async () => {
    expect(await run({ level: "s0:c1,c2" }, policy())).toEqual([
      "system_u:system_r:container_t:s0:c1,c2",
      "system_u:object_r:container_file_t:s0:c1,c2",
    ]);
    expect(await run({ user: "u", role: "r", type: "t", level: "s0" }, policy())).toEqual([
      "u:r:t:s0",
      "system_u:object_r:container_file_t:s0",
    ]);
  });

  it("gives a pod categories of its own, the same to all of its containers", async () => {
    const [process, mount] = await run({ type: "spc_t" }, policy());
    expect(process).toMatch(/^system_u:system_r:spc_t:s0:c\d+,c\d+$/);
    expect(mount?.split(":").slice(3)).toEqual(process?.split(":").slice(3));
    const pod = securedPod({ selinuxOptions: { type: "spc_t" } });
    expect(await run({}, policy(), {}, pod)).toEqual([process, mount]);
  });

  it("has no label where nothing is asked for, nor for privileged containers", async () => {
    expect(await run({}, policy())).toEqual([undefined, undefined]);
    expect(await run({ type: "spc_t" }, policy(), { privileged: true }, securedPod({ privileged: true }))).toEqual([
      undefined,
      undefined,
    ]);
  });

  it("is given to volumes that ask for it, but never to the node's own trees", async () => {
    const relabels = async (hostPath: string, options: object | undefined, off = false) => {
      const node = fakeNode({ selinux: off ? undefined : policy() });
      for (const path of ["/usr/share", "/var/lib", "/var/lib/kubelet/pods/x"]) node.fake.paths.set(path, directory);
      const mounts = [{ containerPath: "/v", hostPath, selinuxRelabel: true }];
      const security = options === undefined ? {} : secured({ selinuxOptions: options });
      return (await translate({ config: { mounts, ...security }, node })).relabels;
    };
    const label = "system_u:object_r:container_file_t:s0:c1,c2";
    const volume = "/var/lib/kubelet/pods/x";
    expect(await relabels(volume, { level: "s0:c1,c2" })).toEqual([{ path: volume, follow: false, label }]);
    for (const path of ["/usr/share", "/var/lib"])
      await expect(relabels(path, { level: "s0:c1,c2" })).rejects.toThrow(/belongs to the node and keeps its label/);
    // Without SELinux, without a label, and for who may read every label there is nothing to do.
    expect(await relabels("/usr/share", { level: "s0" }, true)).toEqual([]);
    expect(await relabels("/usr/share", undefined)).toEqual([]);
    expect(await relabels("/usr/share", { type: "spc_t" })).toEqual([]);
  });

  it("goes by what the policy knows", async () => {
    await expect(
      run(
        { type: "other_t" },
        policy((label) => !label.includes("other_t")),
      ),
    ).rejects.toThrow(/other_t.* is not known/);
    expect(
      (
        await run(
          { type: "t", level: "s0" },
          policy((label) => !label.includes("file_t")),
        )
      )[1],
    ).toBeUndefined();
  });
});
