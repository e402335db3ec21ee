import { describe, expect, it } from "vitest";
import { addon } from "../../../src/native/addon.ts";
import { seccompAction, seccompArch, seccompCompare } from "../../../src/native/constants.ts";
import type { SeccompRuleSet } from "../../../src/native/types.ts";
import { runSeccompFilter } from "../../helpers/seccomp-filter.ts";

const { allow, errno, killProcess } = seccompAction;
const eperm = errno | 1;
const enosys = errno | 38;
/** What the kernel calls them: SECCOMP_RET_ERRNO has the same bits as SCMP_ACT_ERRNO. */
const returned = { allow, eperm, enosys };
const x32Bit = 0x4000_0000;

type Rule = SeccompRuleSet["rules"][number];
const rule = (syscall: string, action: number = allow, args: Rule["args"] = []): Rule => ({ syscall, action, args });
const compile = (rules: readonly Rule[], change: Partial<SeccompRuleSet> = {}): Promise<Buffer> =>
  addon.seccompCompile({ defaultAction: eperm, architectures: [], rules, ...change });
const native = process.arch === "x64" ? seccompArch.x86_64 : seccompArch.aarch64;
const number = (name: string): number => addon.seccompSyscallNumber(name);

/** Calls that every architecture has. */
const manyNames =
  `read write close fstat lseek mmap mprotect munmap brk ioctl readv writev sched_yield mremap msync mincore madvise dup
  nanosleep getitimer setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen clone execve
  exit wait4 kill uname fcntl flock fsync fdatasync truncate ftruncate getcwd chdir fchdir fchmod fchown umask gettimeofday getrlimit
  getrusage sysinfo times getuid getgid setuid setgid geteuid getegid setpgid getppid setsid getgroups futex epoll_ctl openat2`
    .split(/\s+/)
    .filter((name) => name !== "");

describe("seccompCompile", () => {
  it("allows what the rules name and gives the default to the rest", async () => {
    const program = await compile([rule("read"), rule("openat2")]);
    expect(runSeccompFilter(program, { nr: number("read"), arch: native })).toBe(returned.allow);
    expect(runSeccompFilter(program, { nr: number("ptrace"), arch: native })).toBe(returned.eperm);
  });

  it("answers ENOSYS to system calls newer than the newest that the profile knows", async () => {
    const program = await compile([rule("read"), rule("openat2")]);
    const newest = number("openat2");
    expect(runSeccompFilter(program, { nr: newest, arch: native })).toBe(returned.allow);
    expect(runSeccompFilter(program, { nr: newest + 1, arch: native })).toBe(returned.enosys);
    expect(runSeccompFilter(program, { nr: 600, arch: native })).toBe(returned.enosys);
    expect(runSeccompFilter(program, { nr: newest - 1, arch: native })).toBe(returned.eperm);
  });

  it("counts a rule that only repeats the default among what is known", async () => {
    const program = await compile([rule("read"), rule("openat2", eperm)]);
    expect(runSeccompFilter(program, { nr: number("openat2"), arch: native })).toBe(returned.eperm);
    expect(runSeccompFilter(program, { nr: number("openat2") + 1, arch: native })).toBe(returned.enosys);
  });

  it("leaves ENOSYS out when told so", async () => {
    const program = await compile([rule("read")], { enosysForNewer: false });
    expect(runSeccompFilter(program, { nr: 600, arch: native })).toBe(returned.eperm);
  });

  it("leaves ENOSYS out of a profile that only forbids", async () => {
    for (const defaultAction of [allow, seccompAction.log, seccompAction.trace | 5]) {
      const program = await compile([rule("ptrace", eperm)], { defaultAction });
      expect(runSeccompFilter(program, { nr: 600, arch: native })).toBe(defaultAction);
    }
  });

  it("passes a tracer's skipped call (-1) on to the filter", async () => {
    const program = await compile([rule("read")]);
    expect(runSeccompFilter(program, { nr: -1, arch: native })).not.toBe(returned.enosys);
  });

  it("skips names that no kernel has", async () => {
    const program = await compile([rule("read"), rule("caisson_does_not_exist")]);
    expect(runSeccompFilter(program, { nr: number("read"), arch: native })).toBe(returned.allow);
    expect(number("caisson_does_not_exist")).toBe(-1);
  });

  it("and-s conditions on different arguments", async () => {
    const args = [
      { index: 0, op: seccompCompare.eq, value: 2n, valueTwo: 0n },
      { index: 1, op: seccompCompare.maskedEq, value: 0xffn, valueTwo: 3n },
    ];
    const program = await compile([rule("socket", allow, args), rule("openat2")]);
    const socket = (...values: bigint[]): number =>
      runSeccompFilter(program, { nr: number("socket"), arch: native, args: values });
    expect(socket(2n, 0x103n)).toBe(returned.allow);
    expect(socket(2n, 4n)).toBe(returned.eperm);
    expect(socket(1n, 3n)).toBe(returned.eperm);
  });

  it("or-s conditions on the same argument, with all 64 bits", async () => {
    const args = [0x1_0000_0000n, 8n, 0xffff_ffff_ffff_ffffn].map((value) => ({
      index: 0,
      op: seccompCompare.eq,
      value,
      valueTwo: 0n,
    }));
    const program = await compile([rule("personality", allow, args), rule("openat2")]);
    const personality = (value: bigint): number =>
      runSeccompFilter(program, { nr: number("personality"), arch: native, args: [value] });
    expect([0x1_0000_0000n, 8n, 0xffff_ffff_ffff_ffffn].map(personality)).toEqual([allow, allow, allow]);
    expect([0n, 9n, 0xffff_ffffn].map(personality)).toEqual([eperm, eperm, eperm]);
  });

  it("compiles a large profile to a tree: a call runs through few of its instructions", async () => {
    const program = await compile(manyNames.map((name) => rule(name)));
    expect(program.length / 8).toBeGreaterThan(manyNames.length);
    for (const name of manyNames) {
      const steps: number[] = [];
      expect(runSeccompFilter(program, { nr: number(name), arch: native }, steps)).toBe(returned.allow);
      expect(steps.length).toBeLessThan(30);
    }
  });

  it("fails with a sentence on an action that the library does not know", async () => {
    await expect(compile([rule("read", 0x1234_5678)])).rejects.toThrow(/seccomp_rule_add\(read\): .*EINVAL/);
    await expect(compile([], { defaultAction: 0x1234_5678 })).rejects.toThrow(/seccomp_init: .*EINVAL/);
    await expect(
      addon.seccompCompile({ defaultAction: allow, architectures: [], rules: [{ ...rule("x"), args: [{} as never] }] }),
    ).rejects.toThrow(/index must be a number/);
  });
});

describe.runIf(process.arch === "x64")("seccompCompile for several architectures", () => {
  const architectures = [seccompArch.x86_64, seccompArch.x86, seccompArch.x32];

  it("filters each by its own numbers, with an own limit for ENOSYS", async () => {
    const program = await compile([rule("read"), rule("openat2")], { architectures });
    const call = (arch: number, nr: number): number => runSeccompFilter(program, { nr, arch });
    expect(call(seccompArch.x86_64, 0)).toBe(returned.allow); // read
    expect(call(seccompArch.x86, 3)).toBe(returned.allow); // read
    expect(call(seccompArch.x86, 0)).toBe(returned.eperm);
    expect(call(seccompArch.x86, 436)).toBe(returned.eperm);
    expect(call(seccompArch.x86, 437)).toBe(returned.allow);
    expect(call(seccompArch.x86, 500)).toBe(returned.enosys);
    expect(call(seccompArch.x86_64, 500)).toBe(returned.enosys);
    expect(call(seccompArch.x86_64, x32Bit + 0)).toBe(returned.allow);
    expect(call(seccompArch.x86_64, x32Bit + 437)).toBe(returned.allow);
    expect(call(seccompArch.x86_64, x32Bit + 600)).toBe(returned.enosys);
    expect(call(seccompArch.x86_64, x32Bit + 101)).toBe(returned.eperm);
  });

  it("refuses x32 and other architectures as the library does when the profile lacks them", async () => {
    const program = await compile([rule("read"), rule("openat2")]);
    const others = [
      runSeccompFilter(program, { nr: x32Bit + 600, arch: seccompArch.x86_64 }),
      runSeccompFilter(program, { nr: 600, arch: seccompArch.x86 }),
    ];
    for (const result of others) expect([killProcess, seccompAction.killThread]).toContain(result);
  });
});
