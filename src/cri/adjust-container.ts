/** Carries out what NRI plugins want of a container, through the same checks as what the CRI asks for. */
import { checkHooks } from "../core/hooks.ts";
import { hookNames, type OciHooks, type OciSpec } from "../core/oci.ts";
import {
  type ContainerAdjustment,
  type Hooks,
  IOPrioClass,
  LinuxContainerAdjustment,
  LinuxSchedulerFlag,
  LinuxSchedulerPolicy,
  type LinuxSeccomp,
  MpolFlag,
  MpolMode,
  type POSIXRlimit,
} from "../gen/nri/v1alpha1/api.ts";
import { applyEntries, applyMap, bareKey, isRemoval } from "../nri/merge-keyed.ts";
import { adjustCgroupsPath } from "./adjust-cgroup.ts";
import { adjustDevices, adjustNetDevices } from "./adjust-devices.ts";
import { adjustMounts } from "./adjust-mounts.ts";
import { adjustNamespaces, refuseForeignSysctls, withOwnSysfs } from "./adjust-namespaces.ts";
import { adjustRdt } from "./adjust-rdt.ts";
import { asCriResources, overlayResources, resolveWanted } from "./adjust-resources.ts";
import { mergeResources, withPartners } from "./resource-merge.ts";
import { parseSeccompProfile } from "./seccomp-profile.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, quoted, safeNumber } from "./translate-check.ts";
import type { TranslationNode } from "./translate-node.ts";
import { resolveResources } from "./translate-resources.ts";
import { resolveSysctls } from "./translate-sysctls.ts";
import type { AdjustContainer, ContainerInput, ContainerTranslation } from "./translation.ts";

const variableName = (entry: string): string => entry.split("=", 1)[0] ?? "";

function adjustEnv(env: readonly string[], wanted: ContainerAdjustment["env"]): string[] {
  for (const { key, value } of wanted) {
    const name = bareKey(key);
    if (name === "" || name.includes("=") || name.includes("\0") || value.includes("\0"))
      throw invalid(`environment variable ${quoted(key)}, which an NRI plugin wants, is not one`);
  }
  return applyEntries(
    env,
    variableName,
    wanted,
    ({ key }) => key,
    ({ key, value }) => `${key}=${value}`,
  );
}

function adjustArgs(args: readonly string[], wanted: readonly string[]): readonly string[] {
  if (wanted.length === 0) return args;
  if (wanted[0] === "" || wanted.some((arg) => arg.includes("\0"))) throw invalid("arguments of an NRI plugin are not a command");
  return wanted;
}

function adjustAnnotations(before: OciSpec["annotations"], wanted: ContainerAdjustment["annotations"]): Record<string, string> {
  const bad = Object.entries(wanted).find(
    ([key, value]) => bareKey(key) === "" || hasControlCharacter(key) || value.includes("\0"),
  );
  if (bad !== undefined) throw invalid(`annotation ${quoted(bad[0])} of an NRI plugin is not one`);
  return applyMap(before ?? {}, wanted);
}

function adjustHooks(before: OciHooks | undefined, wanted: Hooks | undefined): OciHooks | undefined {
  if (wanted === undefined) return before;
  const hooks: Record<string, OciHooks[keyof OciHooks]> = { ...before };
  for (const name of hookNames) {
    if (wanted[name].length === 0) continue;
    const added = wanted[name].map(({ path, args, env, timeout }) => ({
      path: cleanAbsolutePath(`path of a ${name} hook`, path),
      ...(args.length === 0 ? {} : { args }),
      ...(env.length === 0 ? {} : { env }),
      ...(timeout === undefined ? {} : { timeout: safeNumber("hook timeout", timeout.value) }),
    }));
    hooks[name] = [...(before?.[name] ?? []), ...added];
  }
  checkHooks(hooks);
  return hooks;
}

const rlimitOf = ({ type, soft, hard }: POSIXRlimit) => ({ type, soft: Number(soft), hard: Number(hard) });

const nameOf = <T extends number>(names: Readonly<Record<string, T>>, what: string, value: T): string => {
  const name = Object.entries(names).find(([, number]) => number === value)?.[0];
  if (name === undefined) throw invalid(`${what} ${value} of an NRI plugin is not known`);
  return name;
};

type Scheduler = NonNullable<OciSpec["process"]["scheduler"]>;

function schedulerOf(wanted: LinuxContainerAdjustment["scheduler"]): Scheduler | undefined {
  if (wanted === undefined || wanted.policy === LinuxSchedulerPolicy.SCHED_NONE) return undefined;
  const time = (what: "runtime" | "deadline" | "period"): Partial<Scheduler> =>
    wanted[what] === 0n ? {} : { [what]: safeNumber(`scheduler ${what}`, wanted[what]) };
  return {
    policy: nameOf(LinuxSchedulerPolicy, "scheduler policy", wanted.policy),
    ...(wanted.nice === 0 ? {} : { nice: wanted.nice }),
    ...(wanted.priority === 0 ? {} : { priority: wanted.priority }),
    ...(wanted.flags.length === 0
      ? {}
      : { flags: wanted.flags.map((flag) => nameOf(LinuxSchedulerFlag, "scheduler flag", flag)) }),
    ...time("runtime"),
    ...time("deadline"),
    ...time("period"),
  };
}

function memoryPolicyOf(wanted: LinuxContainerAdjustment["memoryPolicy"]): OciSpec["linux"]["memoryPolicy"] {
  if (wanted === undefined) return undefined;
  return {
    mode: nameOf(MpolMode, "memory policy", wanted.mode),
    nodes: wanted.nodes,
    flags: wanted.flags.map((flag) => nameOf(MpolFlag, "memory policy flag", flag)),
  };
}

/** Words, numbers and system calls are checked as those of a profile file. */
function seccompOf(wanted: LinuxSeccomp, oci: OciSpec, node: TranslationNode): OciSpec["linux"]["seccomp"] {
  if (!node.facts.seccomp) throw invalid("the kernel has no seccomp: an NRI plugin cannot set a policy on this node");
  const profile = {
    defaultAction: wanted.defaultAction,
    defaultErrnoRet: wanted.defaultErrno?.value,
    architectures: wanted.architectures,
    flags: wanted.flags,
    listenerPath: wanted.listenerPath,
    listenerMetadata: wanted.listenerMetadata,
    syscalls: wanted.syscalls.map(({ names, action, errnoRet, args }) => ({
      names,
      action,
      errnoRet: errnoRet?.value,
      args: args.map(({ index, value, valueTwo, op }) => ({ index, value: Number(value), valueTwo: Number(valueTwo), op })),
    })),
  };
  const capabilities = oci.process.capabilities?.bounding ?? [];
  return parseSeccompProfile("of an NRI plugin", JSON.stringify(profile), capabilities, node.facts.architecture);
}

function adjustProcess(oci: OciSpec, wanted: ContainerAdjustment, linux: LinuxContainerAdjustment): OciSpec["process"] {
  const { process } = oci;
  const scheduler = schedulerOf(linux.scheduler);
  const { ioPriority, oomScoreAdj } = linux;
  const score = oomScoreAdj === undefined ? process.oomScoreAdj : safeNumber("oom_score_adj", oomScoreAdj.value);
  if (score !== undefined && (score < -1000 || score > 1000)) throw invalid(`oom_score_adj ${score} is outside of -1000 to 1000`);
  return {
    ...process,
    args: adjustArgs(process.args, wanted.args),
    env: adjustEnv(process.env, wanted.env),
    rlimits: applyEntries(
      process.rlimits ?? [],
      ({ type }) => type,
      wanted.rlimits,
      ({ type }) => type,
      rlimitOf,
    ),
    ...(score === undefined ? {} : { oomScoreAdj: score }),
    ...(scheduler === undefined ? {} : { scheduler }),
    ...(ioPriority === undefined || ioPriority.class === IOPrioClass.IOPRIO_CLASS_NONE
      ? {}
      : { ioPriority: { class: nameOf(IOPrioClass, "I/O priority class", ioPriority.class), priority: ioPriority.priority } }),
  };
}

function adjustLimits(
  input: ContainerInput,
  resources: OciSpec["linux"]["resources"],
  wanted: NonNullable<LinuxContainerAdjustment["resources"]>,
  node: TranslationNode,
  notes: string[],
): OciSpec["linux"]["resources"] {
  const before = input.config.linux?.resources;
  const asked = asCriResources(wanted);
  // Limits hang together, so they are checked together: a sum with swap means nothing without the memory.
  const whole = mergeResources(before, withPartners(asked, before));
  const resolved = resolveWanted((limits) => resolveResources(limits, node.facts), whole, wanted);
  notes.push(...resolved.notes);
  return overlayResources(resources ?? {}, resolved.resources);
}

async function adjustContainer(
  input: ContainerInput,
  translation: ContainerTranslation,
  wanted: ContainerAdjustment,
  node: TranslationNode,
): Promise<ContainerTranslation> {
  const linux = wanted.linux ?? LinuxContainerAdjustment.create();
  const notes = [...translation.notes];
  const mounted = await adjustMounts(input, translation, wanted.mounts, node);
  const before = translation.oci;
  const hooks = adjustHooks(before.hooks, wanted.hooks);
  const memoryPolicy = memoryPolicyOf(linux.memoryPolicy);
  const seccomp = linux.seccompPolicy === undefined ? undefined : seccompOf(linux.seccompPolicy, before, node);
  const limited =
    linux.resources === undefined
      ? before.linux
      : { ...before.linux, resources: adjustLimits(input, before.linux.resources, linux.resources, node, notes) ?? {} };
  const { intelRdt: rdtBefore, netDevices: devicesBefore, ...rest } = limited;
  const intelRdt = adjustRdt(rdtBefore, linux.rdt, linux.resources?.rdtClass?.value);
  const netDevices = adjustNetDevices(devicesBefore, linux.netDevices);
  const namespaces = adjustNamespaces(input, translation, linux.namespaces);
  const cgroupsPath = adjustCgroupsPath(linux.cgroupsPath, input.options.cgroupDriver);
  const adjusted: OciSpec = {
    ...before,
    process: adjustProcess(before, wanted, linux),
    mounts: withOwnSysfs(mounted.mounts, input, namespaces),
    annotations: adjustAnnotations(before.annotations, wanted.annotations),
    ...(hooks === undefined ? {} : { hooks }),
    ...(namespaces.namespaces?.uts === "new" ? { hostname: input.pod.spec.hostname } : {}),
    linux: {
      ...rest,
      ...adjustDevices(limited, linux.devices, linux.resources?.devices ?? []),
      ...(intelRdt === undefined ? {} : { intelRdt }),
      ...(Object.keys(netDevices).length === 0 ? {} : { netDevices }),
      ...(cgroupsPath === undefined ? {} : { cgroupsPath }),
      ...(mounted.rootfsPropagation === undefined ? {} : { rootfsPropagation: mounted.rootfsPropagation }),
      ...(seccomp === undefined ? {} : { seccomp }),
      ...(memoryPolicy === undefined ? {} : { memoryPolicy }),
    },
  };
  const oci = await node.cdi.inject(
    adjusted,
    wanted.CDIDevices.map(({ name }) => name),
  );
  const sysctl = Object.fromEntries(Object.entries(linux.sysctl).filter(([key]) => !isRemoval(key)));
  refuseForeignSysctls(Object.keys(sysctl), namespaces);
  return {
    ...translation,
    ...namespaces,
    oci,
    ...(cgroupsPath === undefined ? {} : { cgroupsPath }),
    volumes: mounted.volumes,
    images: mounted.images,
    sysctls: resolveSysctls(sysctl, {}, input.pod.spec),
    notes,
  };
}

/** What the verbs are given: the adjustment for this node. */
export function adjustContainerOn(node: TranslationNode): AdjustContainer {
  return (input, translation, wanted) => adjustContainer(input, translation, wanted, node);
}
