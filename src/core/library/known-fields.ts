/** The fields of configs and processes. One that is not here would be ignored, which is worse than an error: it is refused. */
import { RuntimeError } from "../../lib/errors.ts";
import type { CgroupConfig, Config, Device, Mount, Namespace, Resources, RootOverlay } from "./config.ts";
import type { ProcessSpec } from "./process-spec.ts";

/** Complete by its type: a field that is added must be added here. */
type Fields<T> = { readonly [K in keyof Required<T>]: true };

const config: Fields<Config> = {
  rootfs: true,
  overlay: true,
  idmapRoot: true,
  readonlyfs: true,
  rootPropagation: true,
  mounts: true,
  devices: true,
  maskPaths: true,
  readonlyPaths: true,
  namespaces: true,
  uidMappings: true,
  gidMappings: true,
  timeOffsets: true,
  hostname: true,
  domainname: true,
  networks: true,
  netDevices: true,
  sysctl: true,
  cgroups: true,
  capabilities: true,
  rlimits: true,
  noNewPrivileges: true,
  seccomp: true,
  umask: true,
  oomScoreAdj: true,
  apparmorProfile: true,
  selinuxLabel: true,
  scheduler: true,
  ioPriority: true,
  execCpuAffinity: true,
  personality: true,
  memoryPolicy: true,
  mountLabel: true,
  intelRdt: true,
  noPivotRoot: true,
  noNewKeyring: true,
  hooks: true,
  labels: true,
};
const overlay: Fields<RootOverlay> = { layers: true, upper: true, work: true };
const cgroups: Fields<CgroupConfig> = { name: true, parent: true, path: true, systemd: true, resources: true };
const resources: Fields<Resources> = {
  devices: true,
  memory: true,
  cpu: true,
  pids: true,
  hugepageLimits: true,
  unified: true,
  blockIO: true,
  network: true,
  rdma: true,
};
const memory: Fields<NonNullable<Resources["memory"]>> = {
  limit: true,
  swap: true,
  reservation: true,
  kernelTCP: true,
  swappiness: true,
  disableOOMKiller: true,
  checkBeforeUpdate: true,
};
const cpu: Fields<NonNullable<Resources["cpu"]>> = {
  shares: true,
  quota: true,
  period: true,
  cpus: true,
  mems: true,
  burst: true,
  idle: true,
  realtimeRuntime: true,
  realtimePeriod: true,
};
const namespace: Fields<Namespace> = { type: true, path: true, pid: true, container: true, process: true };
const mount: Fields<Mount> = {
  source: true,
  destination: true,
  device: true,
  flags: true,
  data: true,
  uidMappings: true,
  gidMappings: true,
};
const device: Fields<Device> = {
  type: true,
  path: true,
  major: true,
  minor: true,
  permissions: true,
  allow: true,
  fileMode: true,
  uid: true,
  gid: true,
};
const process: Fields<ProcessSpec> = {
  args: true,
  env: true,
  user: true,
  cwd: true,
  stdin: true,
  stdout: true,
  stderr: true,
  terminal: true,
  consoleSize: true,
  consoleSocket: true,
  extraFiles: true,
  attachable: true,
  capabilities: true,
  rlimits: true,
  noNewPrivileges: true,
  umask: true,
  oomScoreAdj: true,
  apparmorProfile: true,
  selinuxLabel: true,
  scheduler: true,
  ioPriority: true,
  execCpuAffinity: true,
  subCgroup: true,
  init: true,
};

/** @throws RuntimeError unimplemented that names the field. */
export function refuseUnknownFields(given: Config): void {
  check("config", given, config);
  check("config.overlay", given.overlay, overlay);
  check("config.cgroups", given.cgroups, cgroups);
  check("config.cgroups.resources", given.cgroups?.resources, resources);
  check("config.cgroups.resources.memory", given.cgroups?.resources?.memory, memory);
  check("config.cgroups.resources.cpu", given.cgroups?.resources?.cpu, cpu);
  for (const one of given.namespaces ?? []) check("config.namespaces", one, namespace);
  for (const one of given.mounts ?? []) check("config.mounts", one, mount);
  for (const one of [...(given.devices ?? []), ...(given.cgroups?.resources?.devices ?? [])])
    check("config.devices", one, device);
}

export function refuseUnknownProcessFields(given: ProcessSpec): void {
  check("process", given, process);
}

function check(what: string, given: object | undefined, known: object): void {
  for (const [name, value] of Object.entries(given ?? {})) {
    if (value === undefined || value === null || Object.hasOwn(known, name)) continue;
    throw new RuntimeError("unimplemented", `${what}.${name} is not supported`, { field: `${what}.${name}` });
  }
}
