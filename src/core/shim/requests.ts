/** What can be asked of a shim. Descriptors are lent until the promise settles; the shim gets copies. */
import type { Plan } from "../plan.ts";
import type { Ending } from "./wait-status.ts";

export interface RunRequest {
  readonly plan: Plan;
  readonly fds?: readonly number[];
  readonly cloneKinds: number;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Names what the plan does, for messages. */
  readonly what: string;
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
}

export interface CreateRequest {
  readonly id: string;
  readonly plan: Plan;
  readonly fds?: readonly number[];
  readonly flags: number;
  readonly cloneKinds: number;
  /** Directory for CLONE_INTO_CGROUP (v2), or empty. */
  readonly cgroup: string;
  readonly killPaths: readonly string[];
  readonly oomPath: string;
  readonly logPath: string;
  readonly logLineBytes: number;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
  /** Takes what the plan exports, in plan order; without it that is closed. */
  readonly onExports?: (fds: readonly number[]) => void;
}

/** A container whose init will be restored: as in CreateRequest. */
export type PrepareRequest = Pick<
  CreateRequest,
  "id" | "flags" | "cgroup" | "killPaths" | "oomPath" | "logPath" | "logLineBytes" | "signal"
>;

export interface ExecRequest {
  readonly id: string;
  /** Unique among the container's. */
  readonly execId: string;
  readonly plan: Plan;
  /** stdin, stdout, stderr, then what the plan wants further. */
  readonly fds: readonly number[];
  readonly cloneKinds: number;
  readonly cgroup: string;
  /** 0: none. The shim kills the whole session then. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
}

export interface ExecEnding extends Ending {
  readonly timedOut: boolean;
  readonly atNs: bigint;
}

export interface RunningExec {
  readonly pid: number;
  readonly startedAtNs: bigint;
  /** What the plan exports, such as the master of a terminal: the caller's. */
  readonly fds: readonly number[];
  /** Rejects with `unavailable` when the shim is lost meanwhile. */
  readonly ended: Promise<ExecEnding>;
}

/** The shim's ends of the client's pipes. */
export interface AttachEnds {
  readonly stdin?: number | undefined;
  readonly stdout?: number | undefined;
  readonly stderr?: number | undefined;
}

export interface HostProgram {
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  /** 0, 1, 2 of the program. */
  readonly fds: readonly number[];
  /** The program's whole session is killed then. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface HostEnding extends Ending {
  readonly timedOut: boolean;
}

export interface RunningHostProgram {
  readonly pid: number;
  readonly ended: Promise<HostEnding>;
}
