import { describe, expect, it } from "vitest";
import type { OciSeccomp } from "../../../../src/core/oci.ts";
import { SeccompCompiler, seccompFlags, seccompRules } from "../../../../src/core/process/seccomp.ts";
import { defaultSeccompProfile } from "../../../../src/core/process/seccomp-default.ts";
import type { SeccompRuleSet } from "../../../../src/native/types.ts";

const allow = (names: string[], args?: NonNullable<OciSeccomp["syscalls"]>[number]["args"]) =>
  ({ names, action: "SCMP_ACT_ALLOW", ...(args === undefined ? {} : { args }) }) as const;

describe("a seccomp profile", () => {
  it("becomes libseccomp's numbers", () => {
    const rules = seccompRules({
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 38,
      architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_MIPS"],
      syscalls: [allow(["read"]), { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 1 }],
    });
    expect(rules).toEqual({
      defaultAction: 0x0005_0026,
      architectures: [0xc000_003e],
      enosysForNewer: true,
      rules: [
        { action: 0x7fff_0000, syscall: "read", args: [] },
        { action: 0x0005_0001, syscall: "clone3", args: [] },
      ],
    });
  });

  it("keeps conditions on different arguments together and splits those on the same one", () => {
    const together = [
      { index: 0, value: 1, op: "SCMP_CMP_EQ" },
      { index: 1, value: 2, op: "SCMP_CMP_MASKED_EQ", valueTwo: 3 },
    ] as const;
    const apart = [
      { index: 0, value: 1, op: "SCMP_CMP_EQ" },
      { index: 0, value: 2, op: "SCMP_CMP_EQ" },
    ] as const;
    const { rules } = seccompRules({ defaultAction: "SCMP_ACT_KILL", syscalls: [allow(["a"], together), allow(["b"], apart)] });
    expect(rules.map(({ syscall, args }) => [syscall, args.length])).toEqual([
      ["a", 2],
      ["b", 1],
      ["b", 1],
    ]);
    expect(rules[0]?.args[1]).toEqual({ index: 1, op: 7, value: 2n, valueTwo: 3n });
  });

  it("drops rules that say what happens anyway, which libseccomp refuses", () => {
    expect(seccompRules({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [allow(["read"])] }).rules).toEqual([]);
  });

  it("keeps an author's number for unknown system calls", () => {
    expect(seccompRules({ defaultAction: "SCMP_ACT_ERRNO", defaultErrnoRet: 1 }).enosysForNewer).toBe(false);
    expect(seccompRules({ defaultAction: "SCMP_ACT_LOG" }).enosysForNewer).toBe(false);
    expect(seccompRules({ defaultAction: "SCMP_ACT_KILL_PROCESS" }).enosysForNewer).toBe(true);
  });

  it("knows flags, and speculation stays allowed without a word", () => {
    expect(seccompFlags({ defaultAction: "SCMP_ACT_ALLOW" })).toBe(4);
    expect(seccompFlags({ defaultAction: "SCMP_ACT_ALLOW", flags: [] })).toBe(0);
    expect(
      seccompFlags({ defaultAction: "SCMP_ACT_ALLOW", flags: ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"] }),
    ).toBe(2);
    expect(() => seccompFlags({ defaultAction: "SCMP_ACT_ALLOW", flags: ["X"] })).toThrow(/X/);
  });

  it("is refused with the reason where a listener could not help", () => {
    expect(() =>
      seccompRules({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["write"], action: "SCMP_ACT_NOTIFY" }] }),
    ).toThrow(/SCMP_ACT_NOTIFY/);
  });
});

describe("the default profile", () => {
  const names = (capabilities: string[]) =>
    new Set(
      (defaultSeccompProfile(capabilities, "x64").syscalls ?? [])
        .filter(({ action, args }) => action === "SCMP_ACT_ALLOW" && args === undefined)
        .flatMap((entry) => entry.names),
    );

  it("denies what containers escape by", () => {
    const plain = names([]);
    for (const call of [
      "mount",
      "umount2",
      "move_mount",
      "open_tree",
      "fsopen",
      "setns",
      "unshare",
      "bpf",
      "perf_event_open",
      "keyctl",
      "add_key",
      "request_key",
      "userfaultfd",
      "io_uring_setup",
      "io_uring_enter",
      "io_uring_register",
      "kexec_load",
      "init_module",
      "open_by_handle_at",
      "reboot",
      "swapon",
      "clone",
      "clone3",
      "socket",
      "personality",
      "process_vm_readv",
    ]) {
      expect(plain.has(call), call).toBe(false);
    }
    for (const call of ["read", "openat2", "futex", "execve", "setresuid", "capset", "ptrace"])
      expect(plain.has(call), call).toBe(true);
  });

  it("unlocks by capability", () => {
    expect(names(["CAP_SYS_ADMIN"]).has("mount")).toBe(true);
    expect(names(["CAP_SYS_PTRACE"]).has("process_vm_readv")).toBe(true);
    expect(names(["cap_sys_chroot"]).has("chroot")).toBe(true);
    expect(names(["CAP_SYS_ADMIN"]).has("reboot")).toBe(false);
  });

  it("hides clone3, whose flags a filter cannot see, and namespaces of clone", () => {
    const { syscalls = [] } = defaultSeccompProfile([], "x64");
    expect(syscalls).toContainEqual({ names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38 });
    expect(syscalls).toContainEqual(allow(["clone"], [{ index: 0, value: 0x7e02_0000, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }]));
  });

  it("lets every socket family through but AF_ALG and AF_VSOCK", () => {
    const ranges = (defaultSeccompProfile([], "x64").syscalls ?? []).filter((entry) => entry.names.includes("socket"));
    const allowed = (family: number) =>
      ranges.some(({ args }) => {
        const { value = -1, op } = args?.[0] ?? {};
        return op === "SCMP_CMP_LT" ? family < value : op === "SCMP_CMP_GT" ? family > value : family === value;
      });
    const denied = Array.from({ length: 50 }, (_, family) => family).filter((family) => !allowed(family));
    expect(denied).toEqual([38, 40]);
  });
});

describe("the compiler", () => {
  it("compiles each profile once, and again after a failure", async () => {
    const seen: SeccompRuleSet[] = [];
    let fail = true;
    const compiler = new SeccompCompiler({
      seccompCompile: async (rules) => {
        seen.push(rules);
        if (fail) throw new Error("no memory");
        return Buffer.from("program!");
      },
    });
    const profile: OciSeccomp = { defaultAction: "SCMP_ACT_ERRNO" };
    await expect(compiler.compile(profile)).rejects.toThrow("no memory");
    fail = false;
    const [a, b] = await Promise.all([compiler.compile(profile), compiler.compile({ ...profile })]);
    expect(a?.program).toBe(b?.program);
    await compiler.compile({ ...profile, defaultErrnoRet: 38 });
    expect(seen).toHaveLength(3);
  });
});
