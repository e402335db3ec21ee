import type { Cgroups } from "./cgroup/cgroups.ts";
import type { OwnLimits } from "./process/own-limits.ts";
import type { SeccompCompiler } from "./process/seccomp.ts";

export interface CoreLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** What all pods of a runtime share. */
export interface PodTools {
  readonly cgroups: Cgroups;
  readonly seccomp: SeccompCompiler;
  readonly own: OwnLimits;
  /** STATE, such as /run/caisson. */
  readonly stateDir: string;
  /** procfs takes its PID namespace as a mount option. */
  readonly procTakesPidns: boolean;
  /** Links of /dev; /dev/core only where the host has a kcore. */
  readonly links: readonly { readonly path: string; readonly target: string }[];
  /** Longest content of a log record; 0: the helper's own limit. */
  readonly logLineBytes: number;
  /** undefined: looked up in PATH. */
  readonly criuPath: string | undefined;
  readonly log: CoreLog;
}
