/** What a process in a container is. What it does not say it takes from the container's config. */
import type { Readable, Writable } from "node:stream";
import type { OciCapabilities, OciCpuAffinity, OciIoPriority, OciRlimit, OciScheduler } from "../oci.ts";

export interface ConsoleSize {
  readonly rows: number;
  readonly cols: number;
}

/** By number; or by name as the container's own passwd and group files have it: "daemon", "daemon:adm", "1000". */
export type User = string | { readonly uid: number; readonly gid: number; readonly additionalGids?: readonly number[] };

/**
 * "null": the null device. "pipe": a stream of the Process. A number: a descriptor of this process, which the container gets a copy of.
 * A stream: copied to or from, for as long as this process lives.
 */
export type Input = "null" | "pipe" | number | Readable;
export type Output = "null" | "pipe" | number | Writable;

/** What can be attached to. Output that nobody has attached to is lost; the process never waits for a reader. */
export interface Attachable {
  /** Whether there is an input. It stays open until the process ends. Absent: a terminal has one, anything else the null device. */
  readonly stdin?: boolean;
  /** The input ends with the first client's. */
  readonly stdinOnce?: boolean;
}

export interface ProcessSpec {
  readonly args: readonly string[];
  /** "NAME=value"; of two the later one counts. PATH is where args[0] is looked for. */
  readonly env?: readonly string[];
  /** Root when absent. */
  readonly user?: User;
  readonly cwd?: string;
  /** "null" when absent. Not with a terminal. */
  readonly stdin?: Input;
  readonly stdout?: Output;
  readonly stderr?: Output;
  /** A pseudo-terminal of the container as stdio; its other end is `Process.console`. */
  readonly terminal?: boolean;
  readonly consoleSize?: ConsoleSize;
  /** Path of a stream socket that is sent the terminal's other end, which this process then does not keep. */
  readonly consoleSocket?: string;
  /** Descriptors of this process that the container's one gets copies of, as 3, 4 and so on. */
  readonly extraFiles?: readonly number[];
  /** The helper keeps the other ends of stdio, or of the terminal, for whoever attaches. Not with stdin, stdout and stderr; first process only. */
  readonly attachable?: Attachable;
  readonly capabilities?: OciCapabilities;
  readonly rlimits?: readonly OciRlimit[];
  readonly noNewPrivileges?: boolean;
  readonly umask?: number;
  readonly oomScoreAdj?: number;
  readonly apparmorProfile?: string;
  readonly selinuxLabel?: string;
  readonly scheduler?: OciScheduler;
  readonly ioPriority?: OciIoPriority;
  /** Not for a container's first process. */
  readonly execCpuAffinity?: OciCpuAffinity;
  /** A cgroup below the container's own, which exists in one hierarchy at least. Not for a container's first process. */
  readonly subCgroup?: string;
  /** The container's first process. Absent: if it has none. */
  readonly init?: boolean;
}
