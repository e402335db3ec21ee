/** Nodes of the host: what one is, and where one is for a bind where a container may not make nodes. */
import { lstat, readdir, stat } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName, RuntimeError, wrapError } from "../../lib/errors.ts";
import { type DeviceNode, fileType } from "./default-devices.ts";

const formatMask = 0o170000;
const deepestScan = 4;

/** The node of the same path if it is that device, else any other below /dev. */
export async function findHostNode(device: DeviceNode, devDir = "/dev"): Promise<string> {
  if ((device.mode & formatMask) === fileType.fifo) {
    throw new RuntimeError("invalid_argument", `a named pipe cannot be made at ${device.path} in a user namespace`);
  }
  if (await isDevice(device.path, device)) return device.path;
  const found = await scan(devDir, device, 0);
  if (found !== undefined) return found;
  throw new RuntimeError(
    "invalid_argument",
    `device ${device.path} (${device.major}:${device.minor}) has no node on the host to bind in a user namespace`,
  );
}

async function isDevice(path: string, device: DeviceNode): Promise<boolean> {
  try {
    const stats = await lstat(path);
    return (stats.mode & formatMask) === (device.mode & formatMask) && stats.rdev === deviceNumber(device);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EACCES"].includes(errnoName(error) ?? "")) return false;
    throw error;
  }
}

export interface DeviceIdentity {
  readonly type: "b" | "c" | "p";
  /** 0 for a named pipe. */
  readonly major: number;
  readonly minor: number;
}

/** What the host has at this path, symlinks followed; `failed_precondition` when that is no device. */
export async function identifyHostNode(path: string): Promise<DeviceIdentity> {
  const stats = await stat(path).catch((error: unknown) => {
    const missing = ["ENOENT", "ENOTDIR"].includes(errnoName(error) ?? "");
    if (missing) throw new RuntimeError("failed_precondition", `device ${path} does not exist on this node`, { path }, error);
    throw wrapError(`device ${path} cannot be looked at`, error);
  });
  const type = stats.isBlockDevice() ? "b" : stats.isCharacterDevice() ? "c" : stats.isFIFO() ? "p" : undefined;
  if (type === undefined) throw new RuntimeError("failed_precondition", `${path} is not a device`, { path });
  return { type, ...deviceNumbers(stats.rdev) };
}

/** major(3) and minor(3) of the C library. */
export function deviceNumbers(rdev: number): { readonly major: number; readonly minor: number } {
  const device = BigInt(rdev);
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n)),
    minor: Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n)),
  };
}

/** makedev(3) of the C library. */
function deviceNumber({ major, minor }: DeviceNode): number {
  const high = BigInt(major & ~0xfff) * 0x1_0000_0000n + BigInt(minor & ~0xff) * 0x1000n;
  return Number(high + BigInt(((major & 0xfff) << 8) | (minor & 0xff)));
}

async function scan(directory: string, device: DeviceNode, depth: number): Promise<string | undefined> {
  if (depth > deepestScan) return undefined;
  const entries = await readdir(directory, { withFileTypes: true });
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory() && entry.name !== "pts" && entry.name !== "fd") {
      const found = await scan(path, device, depth + 1);
      if (found !== undefined) return found;
    } else if ((entry.isCharacterDevice() || entry.isBlockDevice()) && (await isDevice(path, device))) return path;
  }
  return undefined;
}
