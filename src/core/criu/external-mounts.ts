/**
 * Which of a container's mounts come from outside of it. CRIU makes the others anew, with their content; these are given to it again
 * by the paths at which the container sees them. Pure.
 */
import { RuntimeError } from "../../lib/errors.ts";

export interface MountEntry {
  readonly id: number;
  /** major:minor */
  readonly device: string;
  /** As the container sees it. */
  readonly mountPoint: string;
  readonly readonly: boolean;
  readonly options: readonly string[];
  readonly type: string;
}

/** Of /proc/PID/mountinfo. */
export function parseMountTable(text: string): readonly MountEntry[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [mount = "", filesystem = ""] = line.split(" - ");
      const [id = "", , device = "", , mountPoint = "", options = ""] = mount.split(" ");
      const words = options.split(",");
      return {
        id: Number(id),
        device,
        mountPoint: plainPath(mountPoint),
        readonly: words.includes("ro"),
        options: words,
        type: filesystem.split(" ")[0] ?? "",
      };
    });
}

/** proc(5): space, tab, newline and backslash are octal. */
function plainPath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** File systems that belong to the container's namespaces, or whose content CRIU saves. */
const own = new Set(["proc", "sysfs", "tmpfs", "devpts", "mqueue"]);

/**
 * Mount points of what is from outside: what the host has mounted too, and what CRIU cannot make. Masked paths are given again rather
 * than saved.
 * @throws RuntimeError failed_precondition when a mount point cannot be named to CRIU.
 */
export function externalMounts(
  container: readonly MountEntry[],
  host: readonly MountEntry[],
  maskedPaths: readonly string[],
): readonly string[] {
  const hostDevices = new Set(host.map(({ device }) => device));
  const masked = new Set(maskedPaths);
  return container
    .filter(({ mountPoint }) => mountPoint !== "/")
    .filter(({ device, type, mountPoint }) => !own.has(type) || hostDevices.has(device) || masked.has(mountPoint))
    .map(({ mountPoint }) => nameable(mountPoint));
}

function nameable(mountPoint: string): string {
  if (!/[\]:]/.test(mountPoint)) return mountPoint;
  throw new RuntimeError("failed_precondition", `the mount at ${mountPoint} has a name with ":" or "]", which CRIU cannot take`);
}
