import { RuntimeError } from "../lib/errors.ts";

/**
 * ```
 *   creating --> ready --> stopping --> stopped --> removing --> (gone)
 *       \___________________^
 * ```
 * creating: the intent is recorded, nobody sees it yet. stopping: NOTREADY, and something is still owed (containers to kill, CNI DEL,
 * namespaces); every StopPodSandbox tries again. stopped: NOTREADY, only the record is left. A sandbox never becomes ready again.
 */
const next = {
  creating: ["ready", "stopping"],
  ready: ["stopping"],
  stopping: ["stopped"],
  stopped: ["removing"],
  removing: [],
} as const satisfies Record<string, readonly string[]>;

export type SandboxPhase = keyof typeof next;

export function advanceSandbox(from: SandboxPhase, to: SandboxPhase): SandboxPhase {
  if ((next[from] as readonly SandboxPhase[]).includes(to)) return to;
  throw new RuntimeError("failed_precondition", `pod sandbox is ${from}; it cannot become ${to}`, { from, to });
}

/**
 * What is owed to CNI. attaching: ADD may have been called; with attached, DEL is due.
 *
 *     none            attaching --> attached --> detached
 *                          \_________________^
 */
const nextNetwork = {
  none: [],
  attaching: ["attached", "detached"],
  attached: ["detached"],
  detached: [],
} as const satisfies Record<string, readonly string[]>;

export type NetworkPhase = keyof typeof nextNetwork;

export function advanceNetwork(from: NetworkPhase, to: NetworkPhase): NetworkPhase {
  if ((nextNetwork[from] as readonly NetworkPhase[]).includes(to)) return to;
  throw new RuntimeError("internal", `pod network is ${from}; it cannot become ${to}`, { from, to });
}

export function owesNetworkDetach(phase: NetworkPhase): boolean {
  return phase === "attaching" || phase === "attached";
}
