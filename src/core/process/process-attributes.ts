/** Scheduling, personality and memory policy of a process, with the rules of libcontainer 3.1. Pure. */
import { RuntimeError } from "../../lib/errors.ts";
import type {
  OciCpuAffinity,
  OciIoPriority,
  OciMemoryPolicy,
  OciPersonality,
  OciProcess,
  OciScheduler,
  OciSpec,
} from "../oci.ts";
import type { Op } from "../plan.ts";
import { parseCpuList } from "./cpu-list.ts";

const policies: ReadonlyMap<string, number> = new Map([
  ["SCHED_OTHER", 0],
  ["SCHED_FIFO", 1],
  ["SCHED_RR", 2],
  ["SCHED_BATCH", 3],
  ["SCHED_ISO", 4],
  ["SCHED_IDLE", 5],
  ["SCHED_DEADLINE", 6],
]);
const schedulerFlags: ReadonlyMap<string, bigint> = new Map([
  ["SCHED_FLAG_RESET_ON_FORK", 1n],
  ["SCHED_FLAG_RECLAIM", 2n],
  ["SCHED_FLAG_DL_OVERRUN", 4n],
  ["SCHED_FLAG_KEEP_POLICY", 8n],
  ["SCHED_FLAG_KEEP_PARAMS", 16n],
  ["SCHED_FLAG_UTIL_CLAMP_MIN", 32n],
  ["SCHED_FLAG_UTIL_CLAMP_MAX", 64n],
]);
const ioClasses: ReadonlyMap<string, number> = new Map([
  ["IOPRIO_CLASS_RT", 1],
  ["IOPRIO_CLASS_BE", 2],
  ["IOPRIO_CLASS_IDLE", 3],
]);
const personalities: ReadonlyMap<string, number> = new Map([
  ["LINUX", 0],
  ["LINUX32", 8],
]);
const memoryModes: ReadonlyMap<string, number> = new Map([
  ["MPOL_DEFAULT", 0],
  ["MPOL_PREFERRED", 1],
  ["MPOL_BIND", 2],
  ["MPOL_INTERLEAVE", 3],
  ["MPOL_LOCAL", 4],
  ["MPOL_PREFERRED_MANY", 5],
  ["MPOL_WEIGHTED_INTERLEAVE", 6],
]);
/** Words of memoryPolicy. */
export function memoryPolicyWords() {
  return { modes: [...memoryModes.keys()], flags: [...memoryFlags.keys()] };
}

const memoryFlags: ReadonlyMap<string, number> = new Map([
  ["MPOL_F_NUMA_BALANCING", 1 << 13],
  ["MPOL_F_RELATIVE_NODES", 1 << 14],
  ["MPOL_F_STATIC_NODES", 1 << 15],
]);

/**
 * While the host's powers last: real-time policies and classes need them. `forks`: the plan goes on in another process later, which
 * the kernel refuses to SCHED_DEADLINE, and which would lose a policy that is reset on fork.
 */
export function planAttributes({ process, linux }: Pick<OciSpec, "process" | "linux">, forks: boolean): readonly Op[] {
  const { scheduler, ioPriority } = process;
  return [
    ...(scheduler === undefined ? [] : [planScheduler(scheduler, forks)]),
    ...(ioPriority === undefined ? [] : [planIoPriority(ioPriority)]),
    ...(linux.personality === undefined ? [] : [planPersonality(linux.personality)]),
    ...(linux.memoryPolicy === undefined ? [] : [planMemoryPolicy(linux.memoryPolicy)]),
  ];
}

/** Whether a process that has it may still fork, and the child has it too. */
export function survivesFork({ policy, flags = [] }: OciScheduler): boolean {
  return policy !== "SCHED_DEADLINE" && !flags.includes("SCHED_FLAG_RESET_ON_FORK");
}

/** Before and after the cgroup is entered. */
export function planAffinity({ initial, final }: OciCpuAffinity = {}): {
  readonly before: readonly Op[];
  readonly after: readonly Op[];
} {
  const op = (name: string, list: string | undefined): readonly Op[] =>
    list === undefined || list === "" ? [] : [{ op: "cpu-affinity", mask: parseCpuList(list, `execCPUAffinity.${name}`) }];
  return { before: op("initial", initial), after: op("final", final) };
}

/** For the next execve; what they say is written before privileges go. */
export function planLabels({ apparmorProfile = "", selinuxLabel = "" }: OciProcess): readonly Op[] {
  return [
    ...(apparmorProfile === "" ? [] : [{ op: "apparmor", profile: apparmorProfile } as const]),
    ...(selinuxLabel === ""
      ? []
      : ([
          { op: "selinux", label: selinuxLabel, keys: 1 },
          { op: "selinux", label: selinuxLabel, keys: 0 },
        ] as const)),
  ];
}

function planScheduler(asked: OciScheduler, forks: boolean): Op {
  const { policy: name, nice = 0, priority = 0, runtime = 0, deadline = 0, period = 0 } = asked;
  const policy = known("scheduler.policy", policies, name);
  const flags = (asked.flags ?? []).reduce((bits, flag) => bits | known("scheduler.flags", schedulerFlags, flag), 0n);
  const realTime = name === "SCHED_FIFO" || name === "SCHED_RR";
  if (nice < -20 || nice > 19) throw invalid(`scheduler.nice ${nice} is not in the range -20 to 19`);
  if (nice !== 0 && name !== "SCHED_OTHER" && name !== "SCHED_BATCH")
    throw invalid(`scheduler.nice is for SCHED_OTHER and SCHED_BATCH, not for ${name}`);
  if (priority !== 0 && !realTime) throw invalid(`scheduler.priority is for SCHED_FIFO and SCHED_RR, not for ${name}`);
  if ((runtime !== 0 || deadline !== 0 || period !== 0) && name !== "SCHED_DEADLINE")
    throw invalid(`scheduler.runtime, deadline and period are for SCHED_DEADLINE, not for ${name}`);
  if (forks && !survivesFork(asked)) {
    const why = "it would not survive the fork into the container's namespaces";
    throw new RuntimeError("unimplemented", `scheduler ${name} with these flags cannot be given to this process: ${why}`);
  }
  return {
    op: "scheduler",
    policy,
    flags,
    nice: BigInt(nice),
    priority,
    runtime: BigInt(runtime),
    deadline: BigInt(deadline),
    period: BigInt(period),
  };
}

function planIoPriority({ class: name, priority = 0 }: OciIoPriority): Op {
  if (!Number.isInteger(priority) || priority < 0 || priority > 7)
    throw invalid(`ioPriority.priority ${priority} is not in the range 0 to 7`);
  return { op: "io-priority", class: known("ioPriority.class", ioClasses, name), priority };
}

function planPersonality({ domain, flags = [] }: OciPersonality): Op {
  if (flags.length > 0) throw invalid(`personality.flags ${flags.join(", ")}: the specification knows none`);
  return { op: "personality", domain: known("personality.domain", personalities, domain) };
}

function planMemoryPolicy({ mode: name, nodes = "", flags = [] }: OciMemoryPolicy): Op {
  const mode = flags.reduce(
    (bits, flag) => bits | known("memoryPolicy.flags", memoryFlags, flag),
    known("memoryPolicy.mode", memoryModes, name),
  );
  const none = name === "MPOL_DEFAULT" || name === "MPOL_LOCAL";
  if (none && nodes !== "") throw invalid(`memoryPolicy.nodes must be empty with ${name}`);
  if (!none && name !== "MPOL_PREFERRED" && nodes === "") throw invalid(`memoryPolicy.nodes must name a node with ${name}`);
  return { op: "memory-policy", mode, nodes: nodes === "" ? Buffer.alloc(0) : parseCpuList(nodes, "memoryPolicy.nodes") };
}

function known<T>(what: string, table: ReadonlyMap<string, T>, name: string): T {
  const found = table.get(name);
  if (found === undefined)
    throw invalid(`${what} ${JSON.stringify(name)} is not known; known are ${[...table.keys()].join(", ")}`);
  return found;
}

function invalid(message: string): RuntimeError {
  return new RuntimeError("invalid_argument", message);
}
