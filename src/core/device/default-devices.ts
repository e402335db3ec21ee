/** Device nodes that every container has (runtime-spec "Default devices", libcontainer 3.4). */
import type { OciDevice } from "../oci.ts";

/** A node as it is made: everything decided. */
export interface DeviceNode {
  readonly path: string;
  /** S_IF type and permissions. */
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
  readonly uid: number;
  readonly gid: number;
}

export const fileType = { fifo: 0o010000, char: 0o020000, block: 0o060000 } as const;

const defaultNodes: readonly (readonly [path: string, major: number, minor: number])[] = [
  ["/dev/null", 1, 3],
  ["/dev/zero", 1, 5],
  ["/dev/full", 1, 7],
  ["/dev/random", 1, 8],
  ["/dev/urandom", 1, 9],
  ["/dev/tty", 5, 0],
];

/** Links that the default devices need; targets as the container sees them. */
export const deviceLinks: readonly { readonly path: string; readonly target: string }[] = [
  { path: "/dev/fd", target: "/proc/self/fd" },
  { path: "/dev/stdin", target: "/proc/self/fd/0" },
  { path: "/dev/stdout", target: "/proc/self/fd/1" },
  { path: "/dev/stderr", target: "/proc/self/fd/2" },
  { path: "/dev/ptmx", target: "pts/ptmx" },
];

/** The defaults, replaced by asked devices of the same path, then the other asked ones. /dev/ptmx is always the devpts one. */
export function deviceNodes(asked: readonly OciDevice[]): readonly DeviceNode[] {
  const nodes = new Map<string, DeviceNode>();
  for (const [path, major, minor] of defaultNodes) {
    nodes.set(path, { path, mode: fileType.char | 0o666, major, minor, uid: 0, gid: 0 });
  }
  for (const device of asked) {
    if (device.path === "/dev/ptmx" || device.path === "/dev/pts/ptmx") continue;
    nodes.set(device.path, {
      path: device.path,
      mode: typeOf(device) | ((device.fileMode ?? 0o666) & 0o7777),
      major: device.major ?? 0,
      minor: device.minor ?? 0,
      uid: device.uid ?? 0,
      gid: device.gid ?? 0,
    });
  }
  return [...nodes.values()];
}

function typeOf(device: OciDevice): number {
  if (device.type === "b") return fileType.block;
  return device.type === "p" ? fileType.fifo : fileType.char;
}
