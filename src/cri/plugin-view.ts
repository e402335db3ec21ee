/** Pods and containers as NRI plugins are told of them. */
import { hookNames, type OciNamespace, type OciResources, type OciSpec } from "../core/oci.ts";
import type { Pod } from "../core/runtime.ts";
import type { LinuxContainerResources } from "../gen/cri/v1/api.ts";
import * as nri from "../gen/nri/v1alpha1/api.ts";
import type { ContainerPhase } from "./container-state.ts";
import { policiesMessage } from "./plugin-policies.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import type { ContainerTranslation } from "./translation.ts";

const states: Readonly<Record<ContainerPhase, nri.ContainerState>> = {
  creating: nri.ContainerState.CONTAINER_UNKNOWN,
  created: nri.ContainerState.CONTAINER_CREATED,
  starting: nri.ContainerState.CONTAINER_CREATED,
  running: nri.ContainerState.CONTAINER_RUNNING,
  exited: nri.ContainerState.CONTAINER_STOPPED,
  removing: nri.ContainerState.CONTAINER_STOPPED,
  unknown: nri.ContainerState.CONTAINER_UNKNOWN,
};

const optional = <T>(value: T | undefined): { value: T } | undefined => (value === undefined ? undefined : { value });
const big = (value: number | undefined): { value: bigint } | undefined =>
  value === undefined ? undefined : { value: BigInt(Math.trunc(value)) };
const seconds = (timeout: number | undefined): { value: bigint } | undefined =>
  timeout === undefined ? undefined : { value: BigInt(Math.ceil(timeout)) };

export function podMessage({ id, config, handler, translation, ips }: SandboxRecord): nri.PodSandbox {
  const { name = "", uid = "", namespace = "" } = config.metadata ?? {};
  const { netnsPath } = translation.spec;
  return nri.PodSandbox.fromPartial({
    id,
    name,
    uid,
    namespace,
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: handler,
    linux: {
      podOverhead: resourcesOfCri(config.linux?.overhead),
      podResources: resourcesOfCri(config.linux?.resources),
      cgroupParent: translation.cgroupParent,
      cgroupsPath: translation.cgroupParent,
      namespaces: netnsPath === null ? [] : [{ type: "network", path: netnsPath }],
    },
    ips: [...ips],
  });
}

/** `oci` is what it is, or would be, made of; undefined when its bundle is gone. */
export function containerMessage(record: ContainerRecord, oci: OciSpec | undefined): nri.Container {
  const { config, exit, user } = record;
  return nri.Container.fromPartial({
    id: record.id,
    podSandboxId: record.podId,
    name: config.metadata?.name ?? "",
    state: states[record.phase],
    labels: config.labels,
    annotations: { ...config.annotations, ...oci?.annotations },
    args: [...(oci?.process.args ?? [])],
    env: [...(oci?.process.env ?? [])],
    mounts: (oci?.mounts ?? []).map(({ destination, type = "", source = "", options = [] }) => ({
      destination,
      type,
      source,
      options: [...options],
    })),
    hooks: hooksMessage(oci),
    linux: linuxMessage(record, oci),
    pid: record.process?.pid ?? 0,
    rlimits: (oci?.process.rlimits ?? []).map(({ type, hard, soft }) => ({ type, hard: BigInt(hard), soft: BigInt(soft) })),
    createdAt: record.createdAtNs,
    startedAt: record.startedAtNs,
    finishedAt: exit?.finishedAtNs ?? 0n,
    exitCode: exit?.exitCode ?? 0,
    statusReason: exit?.reason ?? "",
    statusMessage: exit?.message ?? "",
    CDIDevices: config.CDIDevices.map(({ name }) => ({ name })),
    user: {
      uid: oci?.process.user.uid ?? user.uid,
      gid: oci?.process.user.gid ?? user.gid,
      additionalGids: [...(oci?.process.user.additionalGids ?? user.supplementalGroups)],
    },
    image: { name: record.imageName, digest: /@(.+)$/.exec(record.imageRef)?.[1] ?? "", configDigest: record.imageId },
  });
}

/** The container that is about to be made, with the namespaces that it will have. */
export function withPodNamespaces(
  { oci, pidNamespace, cgroupNamespace }: ContainerTranslation,
  paths: Pod["namespacePaths"],
): OciSpec {
  const shared = (["network", "ipc", "uts", "user"] as const).flatMap((type) => {
    const path = paths[type];
    return path === undefined ? [] : [{ type, path }];
  });
  const { kind } = pidNamespace;
  const pid: OciNamespace[] =
    kind === "private" ? [{ type: "pid" }] : kind === "pod" && paths.pid !== undefined ? [{ type: "pid", path: paths.pid }] : [];
  const cgroup: OciNamespace[] = cgroupNamespace === "private" ? [{ type: "cgroup" }] : [];
  return { ...oci, linux: { ...oci.linux, namespaces: [{ type: "mount" }, ...pid, ...shared, ...cgroup] } };
}

function hooksMessage(oci: OciSpec | undefined): nri.Hooks {
  const hooks = nri.Hooks.create();
  for (const name of hookNames) {
    hooks[name] = (oci?.hooks?.[name] ?? []).map(({ path, args = [], env = [], timeout }) => ({
      path,
      args: [...args],
      env: [...env],
      timeout: seconds(timeout),
    }));
  }
  return hooks;
}

function linuxMessage({ config, cgroupsPath }: ContainerRecord, oci: OciSpec | undefined): nri.LinuxContainer {
  const seccomp = config.linux?.securityContext?.seccomp;
  return nri.LinuxContainer.fromPartial({
    namespaces: (oci?.linux.namespaces ?? []).map(({ type, path = "" }) => ({ type, path })),
    devices: (oci?.linux.devices ?? []).map((device) => ({
      path: device.path,
      type: device.type,
      major: BigInt(device.major ?? 0),
      minor: BigInt(device.minor ?? 0),
      fileMode: optional(device.fileMode),
      uid: optional(device.uid),
      gid: optional(device.gid),
    })),
    resources: resourcesMessage(oci?.linux.resources),
    oomScoreAdj: big(oci?.process.oomScoreAdj),
    cgroupsPath,
    ...(oci === undefined ? {} : policiesMessage(oci)),
    // The two interfaces number the kinds alike.
    seccompProfile: seccomp === undefined ? undefined : { profileType: seccomp.profileType, localhostRef: seccomp.localhostRef },
  });
}

export function resourcesMessage(resources: OciResources | undefined): nri.LinuxResources {
  const { memory = {}, cpu = {}, hugepageLimits = [], unified = {}, pids, devices = [] } = resources ?? {};
  return nri.LinuxResources.fromPartial({
    memory: {
      limit: big(memory.limit),
      reservation: big(memory.reservation),
      swap: big(memory.swap),
      kernelTcp: big(memory.kernelTCP),
      swappiness: big(memory.swappiness),
      disableOomKiller: optional(memory.disableOOMKiller),
    },
    cpu: {
      shares: big(cpu.shares),
      quota: big(cpu.quota),
      period: big(cpu.period),
      realtimeRuntime: big(cpu.realtimeRuntime),
      realtimePeriod: big(cpu.realtimePeriod),
      cpus: cpu.cpus ?? "",
      mems: cpu.mems ?? "",
    },
    hugepageLimits: hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit: BigInt(limit) })),
    unified: { ...unified },
    pids: pids === undefined ? undefined : { limit: BigInt(pids.limit) },
    devices: devices.map(({ allow, type = "a", major, minor, access = "" }) => ({
      allow,
      type,
      major: big(major),
      minor: big(minor),
      access,
    })),
  });
}

/** Zero and empty say nothing in the CRI. */
export function resourcesOfCri(asked: LinuxContainerResources | undefined): nri.LinuxResources | undefined {
  if (asked === undefined) return undefined;
  const set = (value: bigint): { value: bigint } | undefined => (value === 0n ? undefined : { value });
  return nri.LinuxResources.fromPartial({
    memory: { limit: set(asked.memoryLimitInBytes), swap: set(asked.memorySwapLimitInBytes) },
    cpu: {
      shares: set(asked.cpuShares),
      quota: set(asked.cpuQuota),
      period: set(asked.cpuPeriod),
      cpus: asked.cpusetCpus,
      mems: asked.cpusetMems,
    },
    hugepageLimits: asked.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit })),
    unified: asked.unified,
  });
}
