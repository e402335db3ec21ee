/** From a config and a process to the OCI spec that the plan builders read. Pure. */
import { RuntimeError } from "../../lib/errors.ts";
import { type DeviceNode, fileType } from "../device/default-devices.ts";
import type { OciDeviceRule, OciMount, OciNamespaceType, OciProcess, OciResources, OciSpec } from "../oci.ts";
import type { Config, Device, Mount, NamespaceType, Resources } from "./config.ts";
import { given } from "./given.ts";
import type { ProcessSpec } from "./process-spec.ts";
import { mountWords } from "./validate.ts";

export const ociVersion = "1.3.0";

export const ociNamespace: Readonly<Record<NamespaceType, OciNamespaceType>> = {
  user: "user",
  ipc: "ipc",
  uts: "uts",
  net: "network",
  pid: "pid",
  mnt: "mount",
  cgroup: "cgroup",
  time: "time",
};

/** Ids of the user, resolved. */
export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/** What the process says goes before what the container says. */
export function translateProcess(config: Config, process: ProcessSpec, user: ProcessUser): OciProcess {
  const umask = process.umask ?? config.umask;
  const capabilities = process.capabilities ?? config.capabilities;
  const own = <K extends keyof ProcessSpec & keyof Config>(key: K) => process[key] ?? config[key];
  return {
    terminal: process.terminal === true,
    ...(process.consoleSize === undefined
      ? {}
      : { consoleSize: { height: process.consoleSize.rows, width: process.consoleSize.cols } }),
    user: { ...user, ...(umask === undefined ? {} : { umask }) },
    args: process.args,
    env: checkedEnv(process.env ?? []),
    cwd: process.cwd ?? "/",
    ...(capabilities === undefined ? {} : { capabilities }),
    rlimits: process.rlimits ?? config.rlimits ?? [],
    noNewPrivileges: process.noNewPrivileges ?? config.noNewPrivileges ?? false,
    ...given("oomScoreAdj", own("oomScoreAdj")),
    ...given("apparmorProfile", own("apparmorProfile")),
    ...given("selinuxLabel", own("selinuxLabel")),
    ...given("scheduler", own("scheduler")),
    ...given("ioPriority", own("ioPriority")),
    ...given("execCPUAffinity", own("execCpuAffinity")),
  };
}

function checkedEnv(env: readonly string[]): readonly string[] {
  for (const entry of env) {
    const at = entry.indexOf("=");
    if (at <= 0)
      throw new RuntimeError("invalid_argument", `environment variable ${JSON.stringify(entry)} is not of the form NAME=value`);
    if (entry.includes("\0"))
      throw new RuntimeError("invalid_argument", `environment variable ${entry.slice(0, at)} holds a NUL`);
  }
  return env;
}

/** Without a process: what the root, the mounts and the cgroups are. */
export function translateConfig(config: Config, process: OciProcess): OciSpec {
  const { readonlyfs, hostname, domainname, rootPropagation } = config;
  return {
    ociVersion,
    process,
    root: { path: config.rootfs, readonly: readonlyfs === true },
    ...(hostname === undefined ? {} : { hostname }),
    ...(domainname === undefined ? {} : { domainname }),
    mounts: (config.mounts ?? []).map(translateMount),
    annotations: config.labels ?? {},
    ...given("hooks", config.hooks),
    linux: {
      namespaces: (config.namespaces ?? []).map(({ type, path }) => ({
        type: ociNamespace[type],
        ...(path === undefined ? {} : { path }),
      })),
      uidMappings: config.uidMappings ?? [],
      gidMappings: config.gidMappings ?? [],
      resources: translateResources(config.cgroups?.resources ?? {}),
      maskedPaths: config.maskPaths ?? [],
      readonlyPaths: config.readonlyPaths ?? [],
      ...(rootPropagation === undefined ? {} : { rootfsPropagation: rootPropagation }),
      ...given("seccomp", config.seccomp),
      ...given("sysctl", config.sysctl),
      ...given("personality", config.personality),
      ...given("memoryPolicy", config.memoryPolicy),
      ...given("netDevices", config.netDevices),
      ...given("intelRdt", config.intelRdt),
      ...given("mountLabel", config.mountLabel),
    },
  };
}

function translateMount(mount: Mount): OciMount {
  const { source, destination, device, uidMappings, gidMappings } = mount;
  return {
    destination,
    ...(device === undefined ? {} : { type: device }),
    ...(source === undefined ? {} : { source }),
    options: mountWords(mount),
    ...(uidMappings === undefined ? {} : { uidMappings }),
    ...(gidMappings === undefined ? {} : { gidMappings }),
  };
}

export function translateResources(resources: Resources): OciResources {
  return { ...resources, devices: (resources.devices ?? []).map(translateRule) };
}

function translateRule({ type, major, minor, permissions, allow }: Device): OciDeviceRule {
  return { allow: allow !== false, type: type === "p" ? "c" : type, major, minor, access: permissions ?? "rwm" };
}

/** /dev/ptmx is always the devpts one. */
export function translateNodes(devices: readonly Device[]): readonly DeviceNode[] {
  return devices.flatMap(({ path, type, major, minor, fileMode, uid, gid }): DeviceNode[] => {
    if (path === undefined || path === "/dev/ptmx" || path === "/dev/pts/ptmx") return [];
    const kind = type === "b" ? fileType.block : type === "p" ? fileType.fifo : fileType.char;
    return [{ path, mode: kind | ((fileMode ?? 0o666) & 0o7777), major, minor, uid: uid ?? 0, gid: gid ?? 0 }];
  });
}
