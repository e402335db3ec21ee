/** Seccomp profile files: the OCI form, and Docker's with its conditions by capability, architecture and kernel version. */
import { release } from "node:os";
import * as v from "valibot";
import type { OciSeccomp, OciSeccompAction, OciSeccompOperator, OciSyscall } from "../core/oci.ts";
import { checkListener, wantsListener } from "../core/process/seccomp-listener.ts";
import { messageOf } from "../lib/errors.ts";
import { invalid } from "./translate-check.ts";

const actions = [
  "SCMP_ACT_KILL",
  "SCMP_ACT_KILL_PROCESS",
  "SCMP_ACT_KILL_THREAD",
  "SCMP_ACT_TRAP",
  "SCMP_ACT_ERRNO",
  "SCMP_ACT_TRACE",
  "SCMP_ACT_ALLOW",
  "SCMP_ACT_LOG",
] as const satisfies readonly OciSeccompAction[];
/** By default it would also stop the process that loads it. */
const ruleActions = [...actions, "SCMP_ACT_NOTIFY"] as const;

const operators = [
  "SCMP_CMP_NE",
  "SCMP_CMP_LT",
  "SCMP_CMP_LE",
  "SCMP_CMP_EQ",
  "SCMP_CMP_GE",
  "SCMP_CMP_GT",
  "SCMP_CMP_MASKED_EQ",
] as const satisfies readonly OciSeccompOperator[];

/** Arguments above 2^53 cannot be told apart once JSON is parsed, so they are refused. */
const operand = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const errnoNumber = v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(4095)));
const condition = v.nullish(
  v.object({ caps: v.nullish(v.array(v.string())), arches: v.nullish(v.array(v.string())), minKernel: v.nullish(v.string()) }),
);

const profileSchema = v.object({
  defaultAction: v.picklist(actions),
  defaultErrnoRet: errnoNumber,
  architectures: v.nullish(v.array(v.string())),
  archMap: v.nullish(v.array(v.object({ architecture: v.string(), subArchitectures: v.nullish(v.array(v.string())) }))),
  flags: v.nullish(v.array(v.string())),
  listenerPath: v.nullish(v.string()),
  listenerMetadata: v.nullish(v.string()),
  syscalls: v.nullish(
    v.array(
      v.object({
        name: v.nullish(v.string()),
        names: v.nullish(v.array(v.string())),
        action: v.picklist(ruleActions),
        errnoRet: errnoNumber,
        args: v.nullish(
          v.array(
            v.object({
              index: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(5)),
              value: operand,
              valueTwo: v.nullish(operand),
              op: v.picklist(operators),
            }),
          ),
        ),
        includes: condition,
        excludes: condition,
      }),
    ),
  ),
});

type Condition = v.InferOutput<typeof condition>;

/** Docker's names of the machines that Node knows, and libseccomp's. */
const architectureNames: Readonly<Record<string, readonly [docker: string, native: string]>> = {
  x64: ["amd64", "SCMP_ARCH_X86_64"],
  arm64: ["arm64", "SCMP_ARCH_AARCH64"],
};

function kernelAtLeast(wanted: string): boolean {
  const [major = 0, minor = 0] = release().split(/[.-]/).map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = wanted.split(".").map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

/** includes: everything named must hold. excludes: nothing named may hold. */
function applies(includes: Condition, excludes: Condition, capabilities: readonly string[], architecture: string): boolean {
  const machine = architectureNames[architecture]?.[0] ?? architecture;
  if (includes?.caps?.some((name) => !capabilities.includes(name))) return false;
  if (includes?.arches?.length && !includes.arches.includes(machine)) return false;
  if (includes?.minKernel && !kernelAtLeast(includes.minKernel)) return false;
  if (excludes?.caps?.some((name) => capabilities.includes(name))) return false;
  if (excludes?.arches?.includes(machine)) return false;
  return !(excludes?.minKernel && kernelAtLeast(excludes.minKernel));
}

export function parseSeccompProfile(
  path: string,
  json: string,
  capabilities: readonly string[],
  architecture: string,
): OciSeccomp {
  let profile: v.InferOutput<typeof profileSchema>;
  try {
    profile = v.parse(profileSchema, JSON.parse(json));
  } catch (error) {
    throw invalid(`seccomp profile ${path} is not valid: ${messageOf(error)}`);
  }
  const native = architectureNames[architecture]?.[1];
  const mapped = profile.archMap?.find((entry) => entry.architecture === native);
  const architectures =
    profile.architectures ?? (mapped === undefined ? [] : [mapped.architecture, ...(mapped.subArchitectures ?? [])]);
  const syscalls = (profile.syscalls ?? [])
    .filter((rule) => applies(rule.includes, rule.excludes, capabilities, architecture))
    .map((rule): OciSyscall => {
      const names = [...(rule.names ?? []), ...(rule.name ? [rule.name] : [])];
      if (names.length === 0) throw invalid(`seccomp profile ${path} is not valid: a rule names no system call`);
      const args = (rule.args ?? []).map(({ index, value, valueTwo, op }) => ({ index, value, op, valueTwo: valueTwo ?? 0 }));
      return {
        names,
        action: rule.action,
        ...(rule.errnoRet == null ? {} : { errnoRet: rule.errnoRet }),
        ...(args.length > 0 ? { args } : {}),
      };
    });
  const parsed: OciSeccomp = {
    defaultAction: profile.defaultAction,
    ...(profile.defaultErrnoRet == null ? {} : { defaultErrnoRet: profile.defaultErrnoRet }),
    ...(architectures.length > 0 ? { architectures } : {}),
    ...(profile.flags?.length ? { flags: profile.flags } : {}),
    ...listenerOf(profile, wantsListener({ defaultAction: profile.defaultAction, syscalls })),
    syscalls,
  };
  try {
    checkListener(parsed);
  } catch (error) {
    throw invalid(`seccomp profile ${path} is not valid: ${messageOf(error)}`);
  }
  return parsed;
}

/** Where conditions have left no rule that needs a listener, it is not asked for; where the file has none, it is a mistake. */
function listenerOf(
  { listenerPath, listenerMetadata, syscalls }: v.InferOutput<typeof profileSchema>,
  wanted: boolean,
): Pick<OciSeccomp, "listenerPath" | "listenerMetadata"> {
  const dropped = !wanted && syscalls?.some(({ action }) => action === "SCMP_ACT_NOTIFY") === true;
  if (dropped) return {};
  return { ...(listenerPath ? { listenerPath } : {}), ...(listenerMetadata ? { listenerMetadata } : {}) };
}
