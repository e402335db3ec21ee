/** Finds the host's node of a device, for a bind where a container may not make nodes. */
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName, RuntimeError } from "../../lib/errors.ts";
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
