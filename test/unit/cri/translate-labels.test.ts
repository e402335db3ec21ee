import { describe, expect, it } from "vitest";
import { fakeNode, secured, securedPod, translate } from "./translate-fixture.ts";

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
  const run = (selinuxOptions: object, selinux = false) =>
    translate({ config: secured({ selinuxOptions }), node: fakeNode({ selinux }) });

  it.each(["s0", "s0:c1,c2", "s0:c1.c1023", "s0-s0:c0.c1023", ""])(
    "takes the level %j, and does nothing where it is off",
    async (level) => {
      expect((await run({ level })).oci.process.selinuxLabel).toBeUndefined();
    },
  );

  it.each(["high", "s0:", "s0:c1;rm", "c1,c2", "s0:c1,c2\n"])("refuses the level %j", async (level) => {
    await expect(run({ level })).rejects.toThrow(/SELinux level .* is not valid/);
  });

  it("refuses a type that is none", async () => {
    await expect(run({ type: "spc_t:s0" })).rejects.toThrow(/SELinux option/);
  });

  it("is refused where it is on, as labels cannot be applied yet", async () => {
    await expect(run({ type: "spc_t" }, true)).rejects.toMatchObject({ code: "unimplemented" });
    await expect(run({}, true)).resolves.toBeDefined();
  });
});
