/**
 * Settings that make a process what the spec says, for inits and execs alike. The order is the defence: the filter is loaded
 * before privileges go (or, with no_new_privs, after, as late as possible), and the user changes while capabilities can still be kept.
 */
import type { OciProcess } from "../oci.ts";
import type { Op } from "../plan.ts";
import type { CapabilitySets } from "./capabilities.ts";
import type { ResourceLimit } from "./resource-limits.ts";
import type { SeccompFilter } from "./seccomp.ts";
import { handedBarrier, seccompBarrier } from "./seccomp-listener.ts";

export interface ProcessSettings {
  readonly capabilities: CapabilitySets;
  readonly limits: readonly ResourceLimit[];
  /** Resources whose hard limit is above the daemon's own: only the host's root can raise it. */
  readonly raises: ReadonlySet<number>;
  readonly oomScoreAdj: number;
  readonly seccomp: SeccompFilter | undefined;
}

/** Before anything else: writes a file below /proc that later steps take away, and must hold from the start. */
export function planOomScore(settings: ProcessSettings): Op {
  return { op: "oom-score-adj", value: BigInt(settings.oomScoreAdj) };
}

export function planLimits(limits: readonly ResourceLimit[]): readonly Op[] {
  return limits.map(({ resource, soft, hard }): Op => ({ op: "rlimit", resource, soft, hard }));
}

/** From a privileged process in the container's root to the confined one. */
export function planConfinement(process: OciProcess, settings: ProcessSettings): readonly Op[] {
  const { capabilities, seccomp } = settings;
  const { uid, gid, additionalGids, umask } = process.user;
  const handOver = (number: number): readonly Op[] => (seccomp?.notify === true ? [{ op: "barrier", number }] : []);
  const filter: readonly Op[] =
    seccomp === undefined ? [] : [...handOver(seccompBarrier), { op: "seccomp", flags: seccomp.flags, program: seccomp.program }];
  const noNewPrivileges = process.noNewPrivileges === true;
  return [
    ...(umask === undefined ? [] : [{ op: "umask", mask: umask } as const]),
    // As root: the directory may be closed to the user, as other runtimes allow.
    { op: "cwd", path: process.cwd, create: 0 },
    // After everything that opens files: a container may ask for a handful of descriptors only.
    ...planLimits(settings.limits),
    // Without no_new_privs loading needs CAP_SYS_ADMIN.
    ...(noNewPrivileges ? [] : filter),
    { op: "bounding-caps", set: capabilities.bounding },
    { op: "user", uid, gid, groups: additionalGids ?? [] },
    {
      op: "caps",
      permitted: capabilities.permitted,
      effective: capabilities.effective,
      inheritable: capabilities.inheritable,
      ambient: capabilities.ambient,
    },
    ...(noNewPrivileges ? [{ op: "no-new-privs" } as const, ...filter] : []),
    ...handOver(handedBarrier),
  ];
}

/** The environment as the process gets it: last value of a name wins, order of first appearance. */
export function environmentOf(entries: readonly string[]): readonly string[] {
  const byName = new Map<string, string>();
  for (const entry of entries) {
    const at = entry.indexOf("=");
    if (at > 0) byName.set(entry.slice(0, at), entry);
  }
  return [...byName.values()];
}
