/** OCI seccomp profiles: lowered to libseccomp's numbers, compiled once per profile, kept as BPF. */
import { createHash } from "node:crypto";
import { RuntimeError } from "../../lib/errors.ts";
import type { Addon, SeccompRuleSet } from "../../native/types.ts";
import type { OciSeccomp, OciSeccompAction, OciSeccompOperator, OciSyscall } from "../oci.ts";
import { wantsListener } from "./seccomp-listener.ts";
import { shrinkSeccompProgram } from "./seccomp-shrink.ts";

const permission = 1; // EPERM
const noSuchCall = 38; // ENOSYS

/** SCMP_ACT_*; ERRNO and TRACE carry a number in the low half. */
const actions: Readonly<Record<OciSeccompAction, number>> = {
  SCMP_ACT_KILL: 0,
  SCMP_ACT_KILL_THREAD: 0,
  SCMP_ACT_KILL_PROCESS: 0x8000_0000,
  SCMP_ACT_TRAP: 0x0003_0000,
  SCMP_ACT_ERRNO: 0x0005_0000,
  SCMP_ACT_NOTIFY: 0x7fc0_0000,
  SCMP_ACT_TRACE: 0x7ff0_0000,
  SCMP_ACT_LOG: 0x7ffc_0000,
  SCMP_ACT_ALLOW: 0x7fff_0000,
};
const operators: Readonly<Record<OciSeccompOperator, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};
/** AUDIT_ARCH_* as libseccomp uses them. */
const architectures: ReadonlyMap<string, number> = new Map([
  ["SCMP_ARCH_X86", 0x4000_0003],
  ["SCMP_ARCH_X86_64", 0xc000_003e],
  ["SCMP_ARCH_X32", 0x4000_003e],
  ["SCMP_ARCH_ARM", 0x4000_0028],
  ["SCMP_ARCH_AARCH64", 0xc000_00b7],
]);
const filterFlags: ReadonlyMap<string, number> = new Map([
  // A process that is about to execve has one thread: nothing to synchronise.
  ["SECCOMP_FILTER_FLAG_TSYNC", 0],
  ["SECCOMP_FILTER_FLAG_LOG", 2],
  ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4],
  ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 32],
]);
/** What profiles may say. `listens`: whether there is somebody who takes notifications. */
export function seccompWords(listens: boolean) {
  return {
    actions: Object.keys(actions).filter((name) => listens || name !== "SCMP_ACT_NOTIFY"),
    operators: Object.keys(operators),
    archs: [...architectures.keys()],
    knownFlags: [...filterFlags.keys()],
    supportedFlags: [...filterFlags.keys()],
  };
}

const specAllow = 4;
const newListener = 8;
const permissive: ReadonlySet<OciSeccompAction> = new Set(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"]);

export interface SeccompFilter {
  /** SECCOMP_FILTER_FLAG_*. */
  readonly flags: number;
  /** struct sock_filter[]. */
  readonly program: Buffer;
  /** Somebody has to be handed the notification descriptor. */
  readonly notify?: boolean;
}

/** Rules for libseccomp, one per condition on the same argument, since it ANDs only conditions on different ones. */
export function seccompRules(profile: OciSeccomp): SeccompRuleSet {
  const defaultAction = actionNumber(profile.defaultAction, profile.defaultErrnoRet);
  if (profile.defaultAction === "SCMP_ACT_NOTIFY") throw notifyRefused("as default action: nothing could be set up");
  return {
    defaultAction,
    // An architecture that this machine cannot run has no meaning for its filter.
    architectures: (profile.architectures ?? []).flatMap((name) => architectures.get(name) ?? []),
    // System calls newer than the profile: programs fall back on ENOSYS, not on EPERM. An author who chose a number keeps it.
    enosysForNewer:
      !permissive.has(profile.defaultAction) && (profile.defaultErrnoRet === undefined || profile.defaultErrnoRet === noSuchCall),
    rules: (profile.syscalls ?? []).flatMap((entry) => rulesOf(entry)).filter((rule) => rule.action !== defaultAction),
  };
}

function rulesOf(entry: OciSyscall): readonly SeccompRuleSet["rules"][number][] {
  if (entry.action === "SCMP_ACT_NOTIFY" && entry.names.includes("write"))
    throw notifyRefused("for write: the process could not say that it has loaded it");
  const action = actionNumber(entry.action, entry.errnoRet);
  const args = (entry.args ?? []).map(({ index, value, valueTwo, op }) => {
    const operator = operators[op];
    if (operator === undefined) throw new RuntimeError("invalid_argument", `seccomp operator ${JSON.stringify(op)} is not known`);
    return { index, op: operator, value: BigInt(value), valueTwo: BigInt(valueTwo ?? 0) };
  });
  const repeated = new Set(args.map(({ index }) => index)).size < args.length;
  const conditions = repeated ? args.map((arg) => [arg]) : [args];
  return entry.names.flatMap((syscall) => conditions.map((list) => ({ action, syscall, args: list })));
}

function actionNumber(action: OciSeccompAction, errno: number | undefined): number {
  const number = actions[action];
  if (number === undefined) throw new RuntimeError("invalid_argument", `seccomp action ${JSON.stringify(action)} is not known`);
  if (action !== "SCMP_ACT_ERRNO" && action !== "SCMP_ACT_TRACE") return number;
  return number | ((errno ?? permission) & 0xffff);
}

function notifyRefused(why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `seccomp: SCMP_ACT_NOTIFY cannot be used ${why}`);
}

/** SECCOMP_FILTER_FLAG_*; without any word speculation stays allowed, as the kernel did before 5.16. */
export function seccompFlags(profile: OciSeccomp): number {
  if (profile.flags === undefined) return specAllow;
  return profile.flags.reduce((bits, name) => {
    const flag = filterFlags.get(name);
    if (flag === undefined) throw new RuntimeError("invalid_argument", `seccomp flag ${JSON.stringify(name)} is not known`);
    return bits | flag;
  }, 0);
}

/** Some three KiB each. */
const mostPrograms = 200;

/** Compiles each different profile once; the profiles of a node are few. */
export class SeccompCompiler {
  readonly #programs = new Map<string, Promise<Buffer>>();
  /** Profiles are kept with the specs that they are part of: every exec of a container comes with the same one. */
  readonly #keys = new WeakMap<OciSeccomp, string>();
  readonly #addon: Pick<Addon, "seccompCompile">;

  constructor(addon: Pick<Addon, "seccompCompile">) {
    this.#addon = addon;
  }

  async compile(profile: OciSeccomp): Promise<SeccompFilter> {
    const notify = wantsListener(profile);
    const flags = seccompFlags(profile) | (notify ? newListener : 0);
    const key = this.#keys.get(profile) ?? createHash("sha256").update(JSON.stringify(profile)).digest("base64");
    this.#keys.set(profile, key);
    let program = this.#programs.get(key);
    if (program === undefined) {
      program = this.#addon.seccompCompile(seccompRules(profile)).then(shrinkSeccompProgram);
      if (this.#programs.size >= mostPrograms) this.#programs.delete(this.#programs.keys().next().value ?? "");
      this.#programs.set(key, program);
      // A failure is not kept: the next container asks again and gets the reason.
      program.catch(() => this.#programs.delete(key));
    }
    return { flags, program: await program, notify };
  }
}
