import { RuntimeError } from "../lib/errors.ts";

/**
 * ```
 *   creating --> created --> starting --> running --> exited --> removing --> (gone)
 *       |           |  ^________/  \          | ^        ^
 *       |           |               \         v |        |
 *       |           |                \     unknown ------|
 *       \___________\_________________\__________________/
 * ```
 * creating: the intent is recorded, nobody sees it yet; it becomes exited when its roll-back is stuck. created: init is parked.
 * starting goes back to created when a restarted daemon finds that its request never reached the shim. unknown: the shim could not be
 * asked. Only container-exit.ts makes a container exited.
 */
const next = {
  creating: ["created", "exited"],
  created: ["starting", "exited", "unknown", "removing"],
  starting: ["running", "created", "exited", "unknown"],
  running: ["exited", "unknown"],
  unknown: ["created", "running", "exited"],
  exited: ["removing"],
  removing: [],
} as const satisfies Record<string, readonly string[]>;

export type ContainerPhase = keyof typeof next;

export function advanceContainer(from: ContainerPhase, to: ContainerPhase): ContainerPhase {
  if ((next[from] as readonly ContainerPhase[]).includes(to)) return to;
  throw new RuntimeError("failed_precondition", `container is ${from}; it cannot become ${to}`, { from, to });
}

/** Whether a process of the container may exist. */
export function mayHaveProcesses(phase: ContainerPhase): boolean {
  return phase !== "exited" && phase !== "removing";
}
