/** Carries out what NRI plugins want of a container, through the same checks as what the CRI asks for. */
import { checkHooks } from "../core/hooks.ts";
import { hookNames, type OciDevice, type OciHooks, type OciSpec } from "../core/oci.ts";
import {
  type ContainerAdjustment,
  type Hooks,
  IOPrioClass,
  LinuxContainerAdjustment,
  type LinuxDevice,
  LinuxSchedulerFlag,
  LinuxSchedulerPolicy,
  type LinuxSeccomp,
  MpolFlag,
  MpolMode,
  type POSIXRlimit,
} from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { applyEntries, applyMap, bareKey, isRemoval } from "../nri/merge-keyed.ts";
import { adjustMounts } from "./adjust-mounts.ts";
import { asCriResources, overlayResources, resolveWanted } from "./adjust-resources.ts";
import { mergeResources, withPartners } from "./resource-merge.ts";
import { parseSeccompProfile } from "./seccomp-profile.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, quoted, safeNumber } from "./translate-check.ts";
import type { TranslationNode } from "./translate-node.ts";
import { resolveResources } from "./translate-resources.ts";
import { resolveSysctls } from "./translate-sysctls.ts";
import type { AdjustContainer, ContainerInput, ContainerTranslation } from "./translation.ts";

/** @throws RuntimeError unimplemented for what belongs to the pod, or has no meaning here. */
function refuseUnsupported(wanted: LinuxContainerAdjustment): void {
  const others = wanted.namespaces.filter(({ type, path }) => bareKey(type) !== "cgroup" || path !== "");
  const refused: readonly (readonly [what: string, found: boolean, why: string])[] = [
    ["cgroups_path", wanted.cgroupsPath !== "", "a pod's containers are in the pod's cgroup"],
    ["namespaces", others.length > 0, "but for the cgroup namespace, which may be the node's or its own, they are the pod's"],
    [
      "net_devices",
      Object.keys(wanted.netDevices).length > 0,
      "the network is the pod's: interfaces come from CNI plugins and CDI devices",
    ],
    ["rdt", wanted.rdt !== undefined && !onlyRemoves(wanted.rdt), "classes of Intel RDT come with CDI devices"],
  ];
  const found = refused.find(([, is]) => is);
  if (found !== undefined)
    throw new RuntimeError("unimplemented", `${found[0]}, which an NRI plugin wants, cannot be had: ${found[2]}`);
}

const onlyRemoves = ({ closId, schemata, enableMonitoring }: NonNullable<LinuxContainerAdjustment["rdt"]>): boolean =>
  closId === undefined && schemata === undefined && enableMonitoring === undefined;

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

function deviceOf(device: LinuxDevice): OciDevice {
  const path = cleanAbsolutePath("device path", device.path);
  const { type } = device;
  if (path === "/") throw invalid("device path must not be /");
  if (type !== "c" && type !== "b" && type !== "u" && type !== "p")
    throw invalid(`device type ${quoted(type)} of ${path} is not known`);
  const mode = device.fileMode?.value;
  return {
    path,
    type,
    ...(type === "p" ? {} : { major: safeNumber("device major", device.major), minor: safeNumber("device minor", device.minor) }),
    ...(mode === undefined ? {} : { fileMode: mode & 0o777 }),
    ...(device.uid === undefined ? {} : { uid: device.uid.value }),
    ...(device.gid === undefined ? {} : { gid: device.gid.value }),
  };
}

/** A device that is given may be used, one that is taken away may not. */
function adjustDevices(linux: OciSpec["linux"], wanted: readonly LinuxDevice[]): Pick<OciSpec["linux"], "devices" | "resources"> {
  const before = linux.devices ?? [];
  const devices = applyEntries(
    before,
    ({ path }) => path,
    wanted,
    ({ path }) => path,
    deviceOf,
  );
  const key = ({ type, major, minor }: Pick<OciDevice, "major" | "minor"> & { type?: string }): string =>
    `${type}:${major}:${minor}`;
  const kept = new Set(devices.map(key));
  const gone = new Set(before.map(key).filter((device) => !kept.has(device)));
  const added = wanted.filter(({ path, type }) => !isRemoval(path) && type !== "p").map(deviceOf);
  const rules = [
    ...(linux.resources?.devices ?? []).filter((rule) => !(rule.allow && gone.has(key(rule)))),
    ...added.map(({ type, major = 0, minor = 0 }) => {
      return { allow: true, type: type === "b" ? ("b" as const) : ("c" as const), major, minor, access: "rwm" };
    }),
  ];
  return { devices, resources: { ...linux.resources, devices: rules } };
}

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
  if (wanted.listenerPath !== "" || wanted.listenerMetadata !== "")
    throw new RuntimeError("unimplemented", "a seccomp listener cannot be set by an NRI plugin");
  if (!node.facts.seccomp) throw invalid("the kernel has no seccomp: an NRI plugin cannot set a policy on this node");
  const profile = {
    defaultAction: wanted.defaultAction,
    defaultErrnoRet: wanted.defaultErrno?.value,
    architectures: wanted.architectures,
    flags: wanted.flags,
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
  refuseUnsupported(linux);
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
  const adjusted: OciSpec = {
    ...before,
    process: adjustProcess(before, wanted, linux),
    mounts: mounted.mounts,
    annotations: adjustAnnotations(before.annotations, wanted.annotations),
    ...(hooks === undefined ? {} : { hooks }),
    linux: {
      ...limited,
      ...adjustDevices(limited, linux.devices),
      ...(mounted.rootfsPropagation === undefined ? {} : { rootfsPropagation: mounted.rootfsPropagation }),
      ...(seccomp === undefined ? {} : { seccomp }),
      ...(memoryPolicy === undefined ? {} : { memoryPolicy }),
    },
  };
  const oci = await node.cdi.inject(
    adjusted,
    wanted.CDIDevices.map(({ name }) => name),
  );
  const cgroup = linux.namespaces.at(-1);
  return {
    ...translation,
    oci,
    cgroupNamespace:
      cgroup === undefined
        ? translation.cgroupNamespace
        : isRemoval(cgroup.type) || input.cgroupVersion !== "v2"
          ? "host"
          : "private",
    volumes: mounted.volumes,
    images: mounted.images,
    sysctls: resolveSysctls(
      Object.fromEntries(Object.entries(linux.sysctl).filter(([key]) => !isRemoval(key))),
      {},
      input.pod.spec,
    ),
    notes,
  };
}

/** What the verbs are given: the adjustment for this node. */
export function adjustContainerOn(node: TranslationNode): AdjustContainer {
  return (input, translation, wanted) => adjustContainer(input, translation, wanted, node);
}
