/** From an OCI config.json (runtime-spec 1.3) to a config and its first process. Every Linux field is honoured or refused. */
import { isAbsolute, join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import type { OciDevice, OciDeviceRule, OciMount, OciNamespaceType, OciProcess, OciSpec } from "../oci.ts";
import { allowedDevices, type Config, type Device, type Mount, type NamespaceType } from "./config.ts";
import { given } from "./given.ts";
import { refuseOciFields } from "./oci-fields.ts";
import type { ProcessSpec } from "./process-spec.ts";
import { ociVersion } from "./translate.ts";

/** What config.json has beyond what the core's own specs need. */
type FullSpec = Partial<Omit<OciSpec, "linux" | "root" | "process">> & {
  readonly process?: Partial<OciProcess>;
  readonly root?: { readonly path?: string; readonly readonly?: boolean };
  readonly linux?: Partial<OciSpec["linux"]> & { readonly timeOffsets?: Config["timeOffsets"] };
};

export interface OciConfig {
  readonly config: Config;
  /** Without stdio, which is the caller's to add. */
  readonly process: ProcessSpec;
}

const namespaceNames: ReadonlyMap<OciNamespaceType, NamespaceType> = new Map([
  ["user", "user"],
  ["ipc", "ipc"],
  ["uts", "uts"],
  ["network", "net"],
  ["pid", "pid"],
  ["mount", "mnt"],
  ["cgroup", "cgroup"],
  ["time", "time"],
]);

/**
 * `spec`: the parsed document. `bundle`: absolute, the directory that relative paths begin at.
 * @throws RuntimeError invalid_argument for what makes no sense, unimplemented for what cannot be honoured.
 */
export function fromOciSpec(spec: object, bundle: string): OciConfig {
  refuseOciFields(spec);
  const full = spec as FullSpec;
  const { process, linux = {} } = full;
  if (!/^1\.\d+\.\d+/.test(full.ociVersion ?? ""))
    throw invalid(`ociVersion ${JSON.stringify(full.ociVersion ?? "")} is not of 1.x`);
  if (process === undefined) throw invalid("process property must not be empty");
  const path = full.root?.path;
  if (path === undefined || path === "") throw invalid("root.path must not be empty");
  return {
    process: processOf(process),
    config: {
      rootfs: isAbsolute(path) ? path : join(bundle, path),
      readonlyfs: full.root?.readonly === true,
      mounts: (full.mounts ?? []).map((mount) => mountOf(mount, bundle)),
      ...given("hostname", full.hostname || undefined),
      ...given("domainname", full.domainname || undefined),
      ...given("hooks", full.hooks),
      labels: { ...full.annotations, bundle },
      ...linuxOf(linux),
      ...given("execCpuAffinity", process.execCPUAffinity),
    },
  };
}

/** `process` of a config.json alone: what `fromOciSpec` says of it. */
export function processFromOci(process: object): ProcessSpec {
  return fromOciSpec({ ociVersion, root: { path: "/" }, process }, "/").process;
}

function linuxOf(linux: NonNullable<FullSpec["linux"]>): Omit<Config, "rootfs"> {
  const { devices: rules = [], ...resources } = linux.resources ?? {};
  return {
    namespaces: (linux.namespaces ?? []).map(({ type, path }) => {
      const name = namespaceNames.get(type);
      if (name === undefined) throw invalid(`namespace ${JSON.stringify(type)} is not known`);
      return { type: name, ...given("path", path || undefined) };
    }),
    ...given("uidMappings", linux.uidMappings),
    ...given("gidMappings", linux.gidMappings),
    ...given("timeOffsets", linux.timeOffsets),
    ...given("rootPropagation", linux.rootfsPropagation || undefined),
    ...given("seccomp", linux.seccomp),
    ...given("sysctl", linux.sysctl),
    ...given("personality", linux.personality),
    ...given("memoryPolicy", linux.memoryPolicy),
    ...given("netDevices", linux.netDevices),
    ...given("intelRdt", linux.intelRdt && Object.keys(linux.intelRdt).length > 0 ? linux.intelRdt : undefined),
    ...given("mountLabel", linux.mountLabel || undefined),
    maskPaths: linux.maskedPaths ?? [],
    readonlyPaths: linux.readonlyPaths ?? [],
    devices: devicesOf(linux.devices ?? []),
    cgroups: {
      ...given("path", linux.cgroupsPath || undefined),
      // What every container may use goes after the asked rules, as other runtimes have it.
      resources: { ...resources, devices: [...rules.map(ruleOf), ...allowedDevices.map(({ path: _, ...rule }) => rule)] },
    },
  };
}

function processOf(process: Partial<OciProcess>): ProcessSpec {
  const { user, cwd, args, consoleSize } = process;
  if (cwd === undefined || cwd === "") throw invalid("Cwd property must not be empty");
  if (args === undefined || args.length === 0) throw invalid("args must not be empty");
  return {
    args,
    cwd,
    env: process.env ?? [],
    user: { uid: user?.uid ?? 0, gid: user?.gid ?? 0, additionalGids: user?.additionalGids ?? [] },
    terminal: process.terminal === true,
    ...given("umask", user?.umask),
    ...given("consoleSize", consoleSize === undefined ? undefined : { rows: consoleSize.height, cols: consoleSize.width }),
    ...given("capabilities", process.capabilities),
    ...given("rlimits", process.rlimits),
    ...given("noNewPrivileges", process.noNewPrivileges),
    ...given("oomScoreAdj", process.oomScoreAdj),
    ...given("apparmorProfile", process.apparmorProfile || undefined),
    ...given("selinuxLabel", process.selinuxLabel || undefined),
    ...given("scheduler", process.scheduler),
    ...given("ioPriority", process.ioPriority),
  };
}

function mountOf({ destination, type, source, options = [], uidMappings, gidMappings }: OciMount, bundle: string): Mount {
  const bind = type === "bind" || options.includes("bind") || options.includes("rbind");
  const from = bind && source !== undefined && !isAbsolute(source) ? join(bundle, source) : source;
  return {
    destination,
    flags: options,
    ...given("device", type),
    ...given("source", from),
    ...given("uidMappings", uidMappings),
    ...given("gidMappings", gidMappings),
  };
}

/** The asked ones take the place of the defaults of the same path. */
function devicesOf(asked: readonly OciDevice[]): readonly Device[] {
  const nodes = asked.map(
    ({ type, path, major = 0, minor = 0, fileMode, uid, gid }): Device => ({
      type: type === "u" ? "c" : type,
      path,
      major,
      minor,
      ...given("fileMode", fileMode),
      ...given("uid", uid),
      ...given("gid", gid),
    }),
  );
  const replaced = new Set(nodes.map(({ path }) => path));
  return [...allowedDevices.filter(({ path }) => path !== undefined && !replaced.has(path)), ...nodes];
}

function ruleOf({ allow, type = "a", major = -1, minor = -1, access }: OciDeviceRule): Device {
  return { allow, type, major, minor, permissions: access ?? "rwm" };
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
