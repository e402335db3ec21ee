/** Whether a host path lies on a mount that passes mount events on (cri-semantics 5.9). */
import { MountPropagation } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { invalid, isAtOrBelow } from "./translate-check.ts";

export interface HostMount {
  readonly mountPoint: string;
  readonly shared: boolean;
  readonly slave: boolean;
}

const unescapeOctal = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));

/** The fields of proc_pid_mountinfo(5) that matter here; in the file's order, so that a later mount on the same place wins. */
export function parseMountinfo(text: string): HostMount[] {
  const mounts: HostMount[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    const end = fields.indexOf("-", 6);
    const mountPoint = fields[4];
    if (mountPoint === undefined || end < 0) continue;
    const optional = fields.slice(6, end);
    mounts.push({
      mountPoint: unescapeOctal(mountPoint),
      shared: optional.some((field) => field.startsWith("shared:")),
      slave: optional.some((field) => field.startsWith("master:")),
    });
  }
  return mounts;
}

function mountOf(path: string, mounts: readonly HostMount[]): HostMount | undefined {
  let best: HostMount | undefined;
  for (const mount of mounts) {
    if (!isAtOrBelow(path, mount.mountPoint)) continue;
    if (best === undefined || mount.mountPoint.length >= best.mountPoint.length) best = mount;
  }
  return best;
}

/** The mount option for a propagation; `failed_precondition` when the source's mount cannot do it. `path` is resolved. */
export function propagationOption(
  propagation: MountPropagation,
  path: string,
  mounts: readonly HostMount[],
): "rprivate" | "rslave" | "rshared" {
  if (propagation === MountPropagation.PROPAGATION_PRIVATE) return "rprivate";
  const bidirectional = propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL;
  if (!bidirectional && propagation !== MountPropagation.PROPAGATION_HOST_TO_CONTAINER) {
    throw invalid(`unknown mount propagation ${String(propagation)}`);
  }
  const mount = mountOf(path, mounts);
  if (mount?.shared === true) return bidirectional ? "rshared" : "rslave";
  if (mount?.slave === true && !bidirectional) return "rslave";
  throw new RuntimeError(
    "failed_precondition",
    `path ${path} is mounted on ${mount?.mountPoint ?? "/"} but it is not a ${bidirectional ? "shared" : "shared or slave"} mount: ` +
      `run "mount --make-rshared ${mount?.mountPoint ?? "/"}" on the node`,
  );
}
