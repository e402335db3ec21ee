/** Rules that a config must keep before anything is made (libcontainer 3.1). What asks the machine comes in as `facts`. */
import { isAbsolute } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { checkHooks } from "../hooks.ts";
import { sysctlPath } from "../namespace/sysctl-path.ts";
import { checkNetDevices } from "../network-devices.ts";
import type { OciIdMapping } from "../oci.ts";
import { checkListener } from "../process/seccomp-listener.ts";
import { checkIntelRdt } from "../resctrl.ts";
import { parseMountOptions } from "../rootfs/mount-options.ts";
import { scopeAt } from "./cgroup-scope.ts";
import type { CgroupConfig, Config, Device, Mount, NamespaceType } from "./config.ts";
import { invalidConfig as invalid } from "./errors.ts";
import { refuseUnknownFields } from "./known-fields.ts";
import { checkSysctl } from "./sysctl-rules.ts";
import { checkRoot } from "./validate-root.ts";

export interface MachineFacts {
  /** Where the path leads without any symlink, if it is a directory. */
  readonly realDirectory: (path: string) => string | undefined;
  /** Whether the file is this process's own namespace of that type. */
  readonly isOwnNamespace: (type: NamespaceType, path: string) => boolean;
  /** Whether this kernel knows that type of namespace. */
  readonly hasNamespace: (type: NamespaceType) => boolean;
  /** Where resctrl is mounted. */
  readonly resctrl: () => string | undefined;
  readonly cgroupVersion: "v1" | "v2" | "hybrid";
  /** Whether process 1 is systemd. */
  readonly hasSystemd: () => boolean;
}

export const namespaceTypes: readonly NamespaceType[] = ["user", "ipc", "uts", "net", "pid", "mnt", "cgroup", "time"];

/** @throws RuntimeError invalid_argument, or unimplemented for what cannot be done yet. */
export function validateConfig(config: Config, facts: MachineFacts): void {
  refuseUnknownFields(config);
  checkRoot(config, facts);
  checkNamespaces(config, facts);
  checkUserNamespace(config);
  checkNeeds(config);
  checkSysctls(config, facts);
  for (const mount of config.mounts ?? []) checkMount(mount, config);
  for (const device of config.devices ?? []) checkDevice(device, "device");
  for (const rule of config.cgroups?.resources?.devices ?? []) checkDevice(rule, "device rule");
  checkCgroups(config, facts);
  checkHooks(config.hooks);
  checkPivot(config);
  checkIntelRdt(config.intelRdt, facts.resctrl);
  checkNetDevices(config.netDevices, namespaceOf(config, "net") !== undefined);
  checkListener(config.seccomp);
  if (config.rootPropagation !== undefined && !/^r?(private|slave|shared|unbindable)$/.test(config.rootPropagation)) {
    throw invalid(`rootPropagation ${JSON.stringify(config.rootPropagation)} is not known`);
  }
}

/** undefined: shared with the caller. */
export function namespaceOf(config: Config, type: NamespaceType): { readonly path?: string } | undefined {
  return config.namespaces?.find((namespace) => namespace.type === type);
}

function checkNamespaces(config: Config, facts: MachineFacts): void {
  const seen = new Set<NamespaceType>();
  for (const { type, path } of config.namespaces ?? []) {
    if (!namespaceTypes.includes(type)) throw invalid(`namespace type ${JSON.stringify(type)} is not known`);
    if (seen.has(type)) throw invalid(`duplicated ns ${type}`);
    if (!facts.hasNamespace(type)) throw invalid(`${type} namespaces aren't enabled in the kernel`);
    if (path !== undefined && !isAbsolute(path))
      throw invalid(`path ${JSON.stringify(path)} of the ${type} namespace is not absolute`);
    seen.add(type);
  }
  const mnt = namespaceOf(config, "mnt");
  if (mnt === undefined) {
    const why = "without one of its own its mounts would be the host's; add a namespace of type mnt";
    throw new RuntimeError("unimplemented", `a container needs a mount namespace: ${why}`);
  }
  if (mnt.path !== undefined) checkJoinedMounts(config);
}

/** A joined mount namespace is taken as it is: changing it would change it for everybody in it. */
function checkJoinedMounts(config: Config): void {
  const { mounts, devices, maskPaths, readonlyPaths } = config;
  const asked = { mounts, devices, maskPaths, readonlyPaths };
  const found = Object.entries(asked).find(([, list]) => list !== undefined && list.length > 0)?.[0];
  if (found !== undefined) throw invalid(`a joined mount namespace is taken as it is: ${found} must be empty`);
  const { rootfs, overlay, idmapRoot, readonlyfs, rootPropagation } = config;
  const own = rootfs !== "/" || overlay !== undefined || idmapRoot === true;
  if (own || readonlyfs === true || rootPropagation !== undefined) {
    const only = 'rootfs must be "/", without overlay, idmapRoot, readonlyfs and rootPropagation';
    throw invalid(`a joined mount namespace brings its own root: ${only}`);
  }
}

function checkUserNamespace(config: Config): void {
  const user = namespaceOf(config, "user");
  const { uidMappings = [], gidMappings = [] } = config;
  const mapped = uidMappings.length > 0 || gidMappings.length > 0;
  if (user === undefined) {
    if (mapped) throw invalid("user namespace mappings specified, but user namespace isn't enabled in the config");
    return;
  }
  if (user.path === undefined && (uidMappings.length === 0 || gidMappings.length === 0)) {
    throw invalid("user namespaces enabled, but no namespace path nor user mapping specified");
  }
  checkMappings("uidMappings", uidMappings);
  checkMappings("gidMappings", gidMappings);
}

function checkMappings(what: string, mappings: readonly OciIdMapping[]): void {
  const most = 0xffff_ffff;
  for (const { containerID, hostID, size } of mappings) {
    const numbers = [containerID, hostID, size];
    if (numbers.some((id) => !Number.isInteger(id) || id < 0 || id > most) || size === 0) {
      throw invalid(`${what} holds ${containerID} ${hostID} ${size}, which is no range of ids`);
    }
  }
}

function checkNeeds(config: Config): void {
  const has = (type: NamespaceType) => namespaceOf(config, type) !== undefined;
  if ((config.networks?.length ?? 0) > 0 && !has("net"))
    throw invalid("unable to apply network settings without a private NET namespace");
  for (const { type } of config.networks ?? []) {
    if (type !== "loopback")
      throw new RuntimeError("unimplemented", `network of type ${JSON.stringify(type)} is not supported: only loopback`);
  }
  if (config.hostname !== undefined && !has("uts")) throw invalid("unable to set hostname without a private UTS namespace");
  if (config.domainname !== undefined && !has("uts")) throw invalid("unable to set domainname without a private UTS namespace");
  if (config.timeOffsets !== undefined) {
    const time = namespaceOf(config, "time");
    if (time === undefined) throw invalid("time namespace offsets specified, but time namespace isn't enabled in the config");
    if (time.path !== undefined)
      throw invalid("time namespace enabled, but both namespace path and time offsets specified -- you may only provide one");
  }
}

/** Nothing of the host's tree may be left in a peer group that reaches it. */
function checkPivot({ noPivotRoot, rootPropagation }: Config): void {
  if (noPivotRoot === true && /^r?private$/.test(rootPropagation ?? ""))
    throw invalid(`rootPropagation ${rootPropagation} needs pivot_root: noPivotRoot must not be set`);
}

function checkSysctls(config: Config, facts: MachineFacts): void {
  const net = namespaceOf(config, "net");
  const scope = {
    has: (type: NamespaceType) => namespaceOf(config, type) !== undefined,
    netIsHosts: net?.path !== undefined && facts.isOwnNamespace("net", net.path),
  };
  for (const key of Object.keys(config.sysctl ?? {})) checkSysctl(sysctlPath(key), scope);
}

function checkMount(mount: Mount, config: Config): void {
  const name = JSON.stringify(mount.destination);
  if (mount.destination === "") throw invalid("a mount has no destination");
  const options = parseMountOptions(mountWords(mount));
  const bind = options.bind || mount.device === "bind";
  if (bind && options.data.length > 0)
    throw invalid(`bind mount ${name} cannot have options of a file system: ${options.data.join(",")}`);
  const mapped = [mount.uidMappings, mount.gidMappings].filter((list) => (list?.length ?? 0) > 0).length;
  if (mapped === 1) throw invalid(`id-mapped mount ${name} needs both uid and gid mappings`);
  if ((mapped > 0 || options.idmap !== undefined) && !bind) throw invalid(`mount ${name}: only binds can be id-mapped`);
  if (options.idmap !== undefined && mapped === 0 && namespaceOf(config, "user") === undefined) {
    throw invalid(`id-mapped mount ${name} has no mappings, and the container no user namespace`);
  }
}

/** Options of a mount as the rootfs builders read them. */
export function mountWords({ flags = [], data }: Mount): readonly string[] {
  return [...flags, ...(data === undefined || data === "" ? [] : data.split(","))];
}

function checkDevice(device: Device, what: string): void {
  const said = `${what} ${device.path ?? `${device.type} ${device.major}:${device.minor}`}`;
  if (!["a", "b", "c", "p"].includes(device.type)) throw invalid(`${said}: type ${JSON.stringify(device.type)} is not known`);
  if (device.permissions !== undefined && !/^[rwm]*$/.test(device.permissions)) {
    throw invalid(`${said}: permissions ${JSON.stringify(device.permissions)} may only contain r, w and m`);
  }
  if (device.path === undefined) return;
  if (!isAbsolute(device.path)) throw invalid(`${said}: its path is not absolute`);
  if (device.type === "a" || device.major < 0 || device.minor < 0) throw invalid(`${said}: a node needs a type and numbers`);
}

function checkCgroups({ cgroups, labels }: Config, facts: MachineFacts): void {
  if (cgroups === undefined) return;
  if (cgroups.path !== undefined && (cgroups.name !== undefined || cgroups.parent !== undefined)) {
    throw invalid("cgroup: either Path or Name and Parent should be used");
  }
  if (cgroups.systemd === true) checkScope(cgroups, labels, facts);
  const unified = cgroups.resources?.unified;
  if (unified !== undefined && Object.keys(unified).length > 0 && facts.cgroupVersion === "v1") {
    throw invalid("cannot use unified on cgroup v1");
  }
}

function checkScope(cgroups: CgroupConfig, labels: Config["labels"], { hasSystemd }: MachineFacts): void {
  // The id of a container is a name like another.
  scopeAt(cgroups, "id");
  const property = Object.keys(labels ?? {}).find((name) => name.startsWith("org.systemd.property."));
  if (property !== undefined)
    throw new RuntimeError("unimplemented", `annotation ${property} is not supported: the scope has no further properties`);
  if (hasSystemd()) return;
  const remedy = "leave out cgroups.systemd (--systemd-cgroup)";
  throw new RuntimeError("failed_precondition", `systemd cannot make the cgroup: it does not run here; ${remedy}`);
}
