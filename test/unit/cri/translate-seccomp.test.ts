import { describe, expect, it } from "vitest";
import { parseSeccompProfile } from "../../../src/cri/seccomp-profile.ts";
import { fakeNode, secured, securedPod, translate } from "./translate-fixture.ts";

const [RuntimeDefault, Unconfined, Localhost] = [0, 1, 2] as const;
const profile = '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}';

async function seccompOf(context: object, node = fakeNode(), pod = {}) {
  node.fake.files.set("/profiles/p.json", profile);
  return (await translate({ config: secured(context), node, pod })).oci.linux.seccomp;
}

describe("the seccomp profile", () => {
  it("is none without a word", async () => {
    expect(await seccompOf({})).toBeUndefined();
    expect((await translate()).oci.linux.seccomp).toBeUndefined();
  });

  it("is the built-in one with RuntimeDefault, made for the container's capabilities", async () => {
    const seccomp = await seccompOf({ seccomp: { profileType: RuntimeDefault } });
    expect(seccomp?.syscalls?.[0]?.names).toEqual(["default-profile", "CAP_CHOWN", "CAP_SETUID", "CAP_NET_RAW"]);
  });

  it("is none with Unconfined", async () => {
    expect(await seccompOf({ seccomp: { profileType: Unconfined } })).toBeUndefined();
  });

  it("is read from the node with Localhost", async () => {
    const seccomp = await seccompOf({ seccomp: { profileType: Localhost, localhostRef: "/profiles/p.json" } });
    expect(seccomp).toMatchObject({
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names: ["mount"], action: "SCMP_ACT_ERRNO" }],
    });
  });

  it.each([
    ["runtime/default", "SCMP_ACT_ERRNO"],
    ["docker/default", "SCMP_ACT_ERRNO"],
    ["localhost//profiles/p.json", "SCMP_ACT_ALLOW"],
    ["unconfined", undefined],
  ])("may be the deprecated string %s", async (seccompProfilePath, action) => {
    expect((await seccompOf({ seccompProfilePath }))?.defaultAction).toBe(action);
  });

  it("is the typed field's when both are given", async () => {
    expect(await seccompOf({ seccomp: { profileType: Unconfined }, seccompProfilePath: "runtime/default" })).toBeUndefined();
  });

  it("is none in a privileged container", async () => {
    const pod = securedPod({ privileged: true });
    expect(await seccompOf({ privileged: true, seccomp: { profileType: RuntimeDefault } }, fakeNode(), pod)).toBeUndefined();
  });

  it.each([
    [{ seccomp: { profileType: Localhost, localhostRef: "" } }, /needs a localhost_ref/],
    [{ seccomp: { profileType: Localhost, localhostRef: "p.json" } }, /not an absolute path/],
    [{ seccomp: { profileType: Localhost, localhostRef: "/profiles/../etc/p.json" } }, /contains "\.\."/],
    [
      { seccomp: { profileType: Localhost, localhostRef: "/missing.json" } },
      /cannot read seccomp profile \/missing.json: it does not exist/,
    ],
    [{ seccomp: { profileType: RuntimeDefault, localhostRef: "/profiles/p.json" } }, /not of type Localhost/],
    [{ seccomp: { profileType: Unconfined, localhostRef: "/profiles/p.json" } }, /not of type Localhost/],
    [{ seccomp: { profileType: 9 } }, /unknown seccomp profile type 9/],
    [{ seccompProfilePath: "strange" }, /unknown seccomp_profile_path "strange"/],
  ])("is refused in %j", async (context, message) => {
    await expect(seccompOf(context)).rejects.toThrow(message);
  });

  it("can only be none where the kernel has no seccomp", async () => {
    const node = fakeNode({ seccomp: false });
    await expect(seccompOf({ seccomp: { profileType: RuntimeDefault } }, node)).rejects.toThrow(/kernel has no seccomp/);
    expect(await seccompOf({ seccomp: { profileType: Unconfined } }, node)).toBeUndefined();
  });
});

describe("profile files", () => {
  const parse = (object: object, capabilities: string[] = [], machine = "x64") =>
    parseSeccompProfile("/p", JSON.stringify({ defaultAction: "SCMP_ACT_ERRNO", ...object }), capabilities, machine);
  const allow = (names: string[], more: object = {}) => ({ names, action: "SCMP_ACT_ALLOW", ...more });

  it("keep the number of an errno, flags and conditions on arguments", () => {
    const args = [{ index: 0, value: 2114060288, op: "SCMP_CMP_MASKED_EQ" }];
    const parsed = parse({
      defaultErrnoRet: 38,
      flags: ["SECCOMP_FILTER_FLAG_LOG"],
      syscalls: [allow(["clone"], { args, errnoRet: 1 })],
    });
    expect(parsed).toEqual({
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 38,
      flags: ["SECCOMP_FILTER_FLAG_LOG"],
      syscalls: [
        {
          names: ["clone"],
          action: "SCMP_ACT_ALLOW",
          errnoRet: 1,
          args: [{ index: 0, value: 2114060288, op: "SCMP_CMP_MASKED_EQ", valueTwo: 0 }],
        },
      ],
    });
  });

  it("may be Docker's: by capability, machine and kernel version", () => {
    const syscalls = [
      allow(["a"], { includes: { caps: ["CAP_SYS_ADMIN"] } }),
      allow(["b"], { excludes: { caps: ["CAP_SYS_ADMIN"] } }),
      allow(["c"], { includes: { arches: ["arm64"] } }),
      allow(["d"], { excludes: { arches: ["amd64"] } }),
      allow(["e"], { includes: { minKernel: "4.8" } }),
      allow(["f"], { includes: { minKernel: "99.0" } }),
      allow(["g"], { includes: {}, excludes: {} }),
    ];
    const names = (capabilities: string[], machine: string) =>
      parse({ syscalls }, capabilities, machine)
        .syscalls?.flatMap((rule) => rule.names)
        .join("");
    expect(names([], "x64")).toBe("beg");
    expect(names(["CAP_SYS_ADMIN"], "arm64")).toBe("acdeg");
  });

  it("keep their listener where a rule is left that needs it", () => {
    const rule = (more: object) => ({ names: ["mkdir"], action: "SCMP_ACT_NOTIFY", ...more });
    const listener = { listenerPath: "/run/agent", listenerMetadata: "words" };
    expect(parse({ ...listener, syscalls: [rule({})] })).toMatchObject(listener);
    const without = parse({ ...listener, syscalls: [rule({ includes: { caps: ["CAP_SYS_ADMIN"] } })] });
    expect(Object.keys(without)).toEqual(["defaultAction", "syscalls"]);
  });

  it("take the architectures of this machine from Docker's map", () => {
    const archMap = [
      { architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
      { architecture: "SCMP_ARCH_AARCH64", subArchitectures: ["SCMP_ARCH_ARM"] },
    ];
    expect(parse({ archMap }).architectures).toEqual(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    expect(parse({ archMap }, [], "arm64").architectures).toEqual(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
  });

  it.each([
    { defaultAction: "SCMP_ACT_FLY" },
    { defaultAction: "SCMP_ACT_NOTIFY" },
    { syscalls: [{ names: ["a"], action: "ALLOW" }] },
    { syscalls: [{ action: "SCMP_ACT_ALLOW" }] },
    { syscalls: [allow(["a"], { args: [{ index: 6, value: 0, op: "SCMP_CMP_EQ" }] })] },
    { syscalls: [allow(["a"], { args: [{ index: 0, value: 2 ** 63, op: "SCMP_CMP_EQ" }] })] },
    { syscalls: [allow(["a"], { args: [{ index: 0, value: -1, op: "SCMP_CMP_EQ" }] })] },
    { syscalls: [allow(["a"], { args: [{ index: 0, value: 1, op: "EQ" }] })] },
    { syscalls: "all" },
    { syscalls: [{ names: ["a"], action: "SCMP_ACT_NOTIFY" }] },
    { syscalls: [{ names: ["a"], action: "SCMP_ACT_NOTIFY" }], listenerPath: "run/agent" },
    { listenerPath: "/run/agent" },
  ])("are refused: %j", (object) => {
    expect(() => parse(object)).toThrow(/seccomp profile \/p is not valid/);
  });

  it("are refused when they are no JSON", () => {
    expect(() => parseSeccompProfile("/p", "{", [], "x64")).toThrow(/seccomp profile \/p is not valid/);
  });
});
