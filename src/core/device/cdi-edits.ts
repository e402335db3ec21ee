/** What CDI devices change in a container's specification. */
import { posix } from "node:path";
import { RuntimeError } from "../../lib/errors.ts";
import type {
  HookName,
  OciDevice,
  OciDeviceRule,
  OciHook,
  OciHooks,
  OciIntelRdt,
  OciMount,
  OciNetDevices,
  OciSpec,
} from "../oci.ts";
import type { CdiDeviceNode, CdiEdits, CdiMount } from "./cdi-spec.ts";
import type { DeviceIdentity } from "./host-node.ts";

/** Edits of one device, or of all of its file. */
export interface NamedEdits {
  /** Fully qualified name of the device that brings them. */
  readonly device: string;
  readonly edits: CdiEdits;
}

/** The node at a path of this machine; `failed_precondition` when there is none. */
export type IdentifyNode = (path: string) => Promise<DeviceIdentity>;

/** The specification with all edits, in their order. */
export async function applyCdiEdits(oci: OciSpec, all: readonly NamedEdits[], identify: IdentifyNode): Promise<OciSpec> {
  let edited = oci;
  for (const named of all) edited = await applyOne(edited, named, identify);
  return edited;
}

async function applyOne(oci: OciSpec, { device, edits }: NamedEdits, identify: IdentifyNode): Promise<OciSpec> {
  const { process, linux } = oci;
  let devices = linux.devices ?? [];
  const rules = [...(linux.resources?.devices ?? [])];
  for (const node of edits.deviceNodes ?? []) {
    const made = await deviceOf(device, node, process.user, identify);
    devices = [...devices.filter(({ path }) => path !== made.path), made];
    rules.push(...ruleOf(made, node.permissions ?? ""));
  }
  let { mounts } = oci;
  for (const mount of edits.mounts ?? []) {
    const made = mountOf(device, mount);
    mounts = [...mounts.filter(({ destination }) => clean(destination) !== made.destination), made];
  }
  const additionalGids = new Set(process.user.additionalGids);
  // 0 in a list stands for "none": it would be the group of root.
  for (const gid of edits.additionalGids ?? []) if (gid !== 0) additionalGids.add(gid);
  return {
    ...oci,
    ...withHooks(oci.hooks, edits.hooks ?? []),
    process: {
      ...process,
      env: mergeEnv(process.env, edits.env ?? []),
      user: { ...process.user, additionalGids: [...additionalGids] },
    },
    mounts: mounts.toSorted((a, b) => depth(a.destination) - depth(b.destination)),
    linux: {
      ...linux,
      ...netDevicesOf(device, linux.netDevices, edits.netDevices ?? []),
      ...(edits.intelRdt == null ? {} : { intelRdt: intelRdtOf(edits.intelRdt) }),
      devices,
      resources: { ...linux.resources, devices: rules },
    },
  };
}

type NetDevices = Pick<OciSpec["linux"], "netDevices">;

/** A device of the node can become one interface, and an interface be one device. */
function netDevicesOf(device: string, given: OciNetDevices = {}, added: NonNullable<CdiEdits["netDevices"]>): NetDevices {
  const merged: Record<string, { readonly name?: string }> = { ...given };
  for (const { hostInterfaceName, name } of added) {
    if (merged[hostInterfaceName] !== undefined)
      throw new RuntimeError(
        "failed_precondition",
        `CDI device ${device} takes the interface ${hostInterfaceName} a second time`,
      );
    merged[hostInterfaceName] = { name };
  }
  return Object.keys(merged).length === 0 ? {} : { netDevices: merged };
}

/** The last device that names a class decides. */
function intelRdtOf(rdt: NonNullable<CdiEdits["intelRdt"]>): OciIntelRdt {
  const { closID, l3CacheSchema, memBwSchema, schemata } = rdt;
  // Before 1.1.0 there was a word for each thing that is measured.
  const enableMonitoring = rdt.enableMonitoring ?? (rdt.enableCMT === true || rdt.enableMBM === true || undefined);
  const said = { closID, l3CacheSchema, memBwSchema, schemata, enableMonitoring };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value != null));
}

/** Behind those that are there. */
function withHooks(hooks: OciHooks | undefined, added: NonNullable<CdiEdits["hooks"]>): { readonly hooks?: OciHooks } {
  if (added.length === 0) return {};
  const merged: Partial<Record<HookName, readonly OciHook[]>> = { ...hooks };
  for (const { hookName, path, args, env, timeout } of added) {
    const hook: OciHook = {
      path,
      ...(args ? { args } : {}),
      ...(env ? { env } : {}),
      ...(timeout ? { timeout } : {}),
    };
    merged[hookName] = [...(merged[hookName] ?? []), hook];
  }
  return { hooks: merged };
}

/** Type and numbers that the file leaves out are those of the node's own. The owner that it leaves out is the container's user. */
async function deviceOf(
  device: string,
  node: CdiDeviceNode,
  user: OciSpec["process"]["user"],
  identify: IdentifyNode,
): Promise<OciDevice> {
  const asked = node.type === "u" ? "c" : node.type || undefined;
  const owner = { uid: node.uid ?? user.uid, gid: node.gid ?? user.gid };
  const rest = { path: clean(node.path), ...(node.fileMode == null ? {} : { fileMode: node.fileMode & 0o7777 }), ...owner };
  if (asked === "p") return { type: asked, ...rest };
  if (asked !== undefined && node.major) return { type: asked, major: node.major, minor: node.minor ?? 0, ...rest };
  const hostPath = node.hostPath || node.path;
  const found = await identify(hostPath);
  if (asked !== undefined && asked !== found.type) {
    throw new RuntimeError(
      "failed_precondition",
      `CDI device ${device} calls ${hostPath} a device of type ${asked}, but on this node it is one of type ${found.type}`,
      { device },
    );
  }
  return found.type === "p" ? { type: "p", ...rest } : { ...found, ...rest };
}

function ruleOf({ type, major, minor }: OciDevice, permissions: string): readonly OciDeviceRule[] {
  if (permissions === "none" || (type !== "b" && type !== "c") || major === undefined || minor === undefined) return [];
  return [{ allow: true, type, major, minor, access: permissions || "rwm" }];
}

function mountOf(device: string, { hostPath, containerPath, type, options }: CdiMount): OciMount {
  const words = options ?? [];
  const isBind = !type || type === "none" || type === "bind" || words.includes("bind") || words.includes("rbind");
  if (isBind && !hostPath.startsWith("/")) {
    throw new RuntimeError("failed_precondition", `CDI device ${device} mounts ${hostPath}, which is not an absolute path`, {
      device,
    });
  }
  const said = words.includes("bind") || words.includes("rbind");
  return {
    destination: clean(containerPath),
    type: isBind ? "bind" : type,
    source: hostPath,
    options: isBind && !said ? ["bind", ...words] : words,
  };
}

/** A later variable takes the place of an earlier one of the same name. */
function mergeEnv(env: readonly string[], edits: readonly string[]): readonly string[] {
  const merged = new Map<string, string>();
  for (const variable of [...env, ...edits]) merged.set(variable.split("=", 1)[0] ?? variable, variable);
  return [...merged.values()];
}

function clean(path: string): string {
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith("/") ? normal.slice(0, -1) : normal;
}

const depth = (path: string): number => path.split("/").filter((part) => part !== "").length;
