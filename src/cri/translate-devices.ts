/** Host devices in a container (cri-semantics 5.10). */
import type { OciDevice, OciDeviceRule } from "../core/oci.ts";
import type { Device } from "../gen/cri/v1/api.ts";
import { cleanAbsolutePath, invalid, quoted } from "./translate-check.ts";
import type { Host, HostNode } from "./translate-node.ts";

export interface ResolvedDevices {
  readonly devices: readonly OciDevice[];
  readonly rules: readonly OciDeviceRule[];
}

const deepestDirectory = 8;
const mostDevices = 4096;

function nodeOf(path: string, node: HostNode, ownedByHost: boolean): OciDevice {
  return {
    type: node.kind === "block" ? "b" : "c",
    path,
    major: node.major,
    minor: node.minor,
    fileMode: node.mode & 0o777,
    // Host ids mean nothing in a user namespace, where nodes are bind mounts anyway.
    ...(ownedByHost ? { uid: node.uid, gid: node.gid } : {}),
  };
}

const isDevice = (node: HostNode): boolean => node.kind === "character" || node.kind === "block";

/** All device nodes below a directory, symlinks left out, as paths relative to it. */
async function devicesBelow(host: Host, directory: string, depth: number): Promise<[string, HostNode][]> {
  const found: [string, HostNode][] = [];
  for (const name of await host.list(directory)) {
    const node = await host.lstat(`${directory}/${name}`);
    if (node === undefined) continue;
    if (isDevice(node)) found.push([name, node]);
    if (node.kind === "directory" && depth < deepestDirectory) {
      for (const [below, inner] of await devicesBelow(host, `${directory}/${name}`, depth + 1))
        found.push([`${name}/${below}`, inner]);
    }
    if (found.length > mostDevices) throw invalid(`${directory} holds more than ${mostDevices} devices`);
  }
  return found;
}

export async function resolveDevices(asked: readonly Device[], userNamespace: boolean, host: Host): Promise<ResolvedDevices> {
  const devices = new Map<string, OciDevice>();
  const rules: OciDeviceRule[] = [];
  const give = (path: string, node: HostNode, access: string): void => {
    devices.set(path, nodeOf(path, node, !userNamespace));
    rules.push({ allow: true, type: node.kind === "block" ? "b" : "c", major: node.major, minor: node.minor, access });
  };
  for (const device of asked) {
    const source = cleanAbsolutePath("device host_path", device.hostPath);
    const target = device.containerPath === "" ? source : cleanAbsolutePath("device container_path", device.containerPath);
    const access = device.permissions === "" ? "rwm" : device.permissions;
    if (!/^[rwm]{1,3}$/.test(access) || new Set(access).size !== access.length) {
      throw invalid(`permissions ${quoted(access)} of device ${quoted(device.hostPath)} are not a subset of "rwm"`);
    }
    if (target === "/") throw invalid("device container_path must not be /");
    const real = await host.realpath(source);
    const node = real === undefined ? undefined : await host.lstat(real);
    if (real === undefined || node === undefined) throw invalid(`device ${quoted(device.hostPath)} does not exist on this node`);
    if (isDevice(node)) {
      give(target, node, access);
    } else if (node.kind === "directory") {
      for (const [below, inner] of await devicesBelow(host, real, 1)) give(`${target}/${below}`, inner, access);
    } else {
      throw invalid(`${quoted(device.hostPath)} is not a device`);
    }
  }
  return { devices: [...devices.values()], rules };
}

/** Instances of the container's own filesystems, and what is no device for others. */
const notForPrivileged = new Set(["pts", "shm", "fd", "mqueue", "console", "ptmx", "hugepages"]);

/** Every device of the node, for privileged containers. */
export async function hostDevices(userNamespace: boolean, host: Host): Promise<ResolvedDevices> {
  const devices: OciDevice[] = [];
  for (const name of await host.list("/dev")) {
    if (notForPrivileged.has(name) || name.startsWith(".")) continue;
    const node = await host.lstat(`/dev/${name}`);
    if (node === undefined) continue;
    if (isDevice(node)) devices.push(nodeOf(`/dev/${name}`, node, !userNamespace));
    if (node.kind !== "directory") continue;
    for (const [below, inner] of await devicesBelow(host, `/dev/${name}`, 1)) {
      devices.push(nodeOf(`/dev/${name}/${below}`, inner, !userNamespace));
    }
  }
  return { devices, rules: [{ allow: true, access: "rwm" }] };
}
