/**
 * Every field that config.json of runtime-spec 1.3 has for Linux, and what becomes of it. What is refused is refused when it says
 * something: an empty list, an empty object and false say nothing. Fields of no version of the specification are ignored, as it asks.
 */
import { RuntimeError } from "../../lib/errors.ts";

/** "honoured", or the reason why not. */
type Fate = "honoured" | { readonly refused: string };

const otherPlatform = { refused: "it is for another platform than Linux" } as const;

/** By path; "[]" stands for each element of a list. A path speaks for everything below it. */
export const ociFields: Readonly<Record<string, Fate>> = {
  ociVersion: "honoured",
  "root.path": "honoured",
  "root.readonly": "honoured",
  "mounts[].destination": "honoured",
  "mounts[].type": "honoured",
  "mounts[].source": "honoured",
  "mounts[].options": "honoured",
  "mounts[].uidMappings": "honoured",
  "mounts[].gidMappings": "honoured",
  hostname: "honoured",
  domainname: "honoured",
  annotations: "honoured",
  "hooks.prestart": "honoured",
  "hooks.createRuntime": "honoured",
  "hooks.createContainer": "honoured",
  "hooks.startContainer": "honoured",
  "hooks.poststart": "honoured",
  "hooks.poststop": "honoured",

  "process.terminal": "honoured",
  "process.consoleSize": "honoured",
  "process.cwd": "honoured",
  "process.env": "honoured",
  "process.args": "honoured",
  "process.commandLine": otherPlatform,
  "process.user.uid": "honoured",
  "process.user.gid": "honoured",
  "process.user.umask": "honoured",
  "process.user.additionalGids": "honoured",
  "process.user.username": otherPlatform,
  "process.rlimits": "honoured",
  "process.capabilities.bounding": "honoured",
  "process.capabilities.effective": "honoured",
  "process.capabilities.inheritable": "honoured",
  "process.capabilities.permitted": "honoured",
  "process.capabilities.ambient": "honoured",
  "process.noNewPrivileges": "honoured",
  "process.oomScoreAdj": "honoured",
  "process.apparmorProfile": "honoured",
  "process.selinuxLabel": "honoured",
  "process.scheduler": "honoured",
  "process.ioPriority": "honoured",
  "process.execCPUAffinity": "honoured",

  "linux.namespaces": "honoured",
  "linux.uidMappings": "honoured",
  "linux.gidMappings": "honoured",
  "linux.timeOffsets": "honoured",
  "linux.devices": "honoured",
  "linux.netDevices": "honoured",
  "linux.cgroupsPath": "honoured",
  "linux.rootfsPropagation": "honoured",
  "linux.maskedPaths": "honoured",
  "linux.readonlyPaths": "honoured",
  "linux.mountLabel": "honoured",
  "linux.sysctl": "honoured",
  "linux.personality": "honoured",
  "linux.memoryPolicy": "honoured",
  "linux.intelRdt.closID": "honoured",
  "linux.intelRdt.l3CacheSchema": "honoured",
  "linux.intelRdt.memBwSchema": "honoured",
  "linux.intelRdt.schemata": "honoured",
  "linux.intelRdt.enableMonitoring": "honoured",
  "linux.intelRdt.enableCMT": { refused: "enableMonitoring has taken its place" },
  "linux.intelRdt.enableMBM": { refused: "enableMonitoring has taken its place" },
  "linux.seccomp.defaultAction": "honoured",
  "linux.seccomp.defaultErrnoRet": "honoured",
  "linux.seccomp.architectures": "honoured",
  "linux.seccomp.flags": "honoured",
  "linux.seccomp.syscalls": "honoured",
  "linux.seccomp.listenerPath": "honoured",
  "linux.seccomp.listenerMetadata": "honoured",

  "linux.resources.devices": "honoured",
  "linux.resources.memory.limit": "honoured",
  "linux.resources.memory.reservation": "honoured",
  "linux.resources.memory.swap": "honoured",
  "linux.resources.memory.kernel": { refused: "kernels no longer limit kernel memory by itself" },
  "linux.resources.memory.kernelTCP": "honoured",
  "linux.resources.memory.swappiness": "honoured",
  "linux.resources.memory.disableOOMKiller": "honoured",
  "linux.resources.memory.useHierarchy": { refused: "kernels always account in the hierarchy: leave it out" },
  "linux.resources.memory.checkBeforeUpdate": "honoured",
  "linux.resources.cpu.shares": "honoured",
  "linux.resources.cpu.quota": "honoured",
  "linux.resources.cpu.period": "honoured",
  "linux.resources.cpu.cpus": "honoured",
  "linux.resources.cpu.mems": "honoured",
  "linux.resources.cpu.burst": "honoured",
  "linux.resources.cpu.realtimeRuntime": "honoured",
  "linux.resources.cpu.realtimePeriod": "honoured",
  "linux.resources.cpu.idle": "honoured",
  "linux.resources.pids.limit": "honoured",
  "linux.resources.hugepageLimits": "honoured",
  "linux.resources.unified": "honoured",
  "linux.resources.blockIO": "honoured",
  "linux.resources.network": "honoured",
  "linux.resources.rdma": "honoured",

  vm: { refused: "there are no virtual machines here" },
  windows: otherPlatform,
  solaris: otherPlatform,
  zos: otherPlatform,
  freebsd: otherPlatform,
};

/** @throws RuntimeError unimplemented for the first field that cannot be honoured. */
export function refuseOciFields(spec: object): void {
  for (const [path, fate] of Object.entries(ociFields)) {
    if (fate === "honoured" || !saysSomething(at(spec, path.split(".")))) continue;
    throw new RuntimeError("unimplemented", `config.json: ${path} cannot be honoured: ${fate.refused}`, { field: path });
  }
}

function at(value: unknown, [name, ...rest]: readonly string[]): unknown {
  if (name === undefined) return value;
  return typeof value === "object" && value !== null ? at((value as Readonly<Record<string, unknown>>)[name], rest) : undefined;
}

function saysSomething(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === "") return false;
  return typeof value === "object" ? Object.keys(value).length > 0 : true;
}
