/**
 * The whole plan of a further process of a container. It is confined before it is forked into the container's PID namespace: until then
 * no sibling can see it, and afterwards there is nothing to take over (CVE-2016-9962). Pure.
 */
import type { OciProcess } from "../oci.ts";
import type { Op, Plan } from "../plan.ts";
import { environmentOf, type ProcessSettings, planConfinement, planOomScore } from "../process/process-plan.ts";
import { planStdio, type StdioSlots } from "./init-plan.ts";
import { kindsToJoin, type Shape } from "./shape.ts";

export interface SetnsPlanInput {
  readonly containerId: string;
  readonly process: OciProcess;
  readonly shape: Shape;
  readonly keyring: boolean;
  readonly cgroupTasks: readonly string[];
  readonly settings: ProcessSettings;
  readonly stdio: StdioSlots;
  /** Slot of the pidfd of the container's first process. */
  readonly init: number;
  readonly giveAway: readonly { readonly slot: number; readonly uid: number; readonly gid: number }[];
}

export function planSetns(input: SetnsPlanInput): Plan {
  const { process, shape, settings } = input;
  const forks = shape.pid !== "shared";
  const console = planStdio(input, input.stdio);
  return [
    { op: "clean-start" },
    ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
    planOomScore(settings),
    ...input.giveAway.map(({ slot, uid, gid }): Op => ({ op: "chown-slot", slot, uid, gid })),
    { op: "join-process", slot: input.init, kinds: kindsToJoin(shape) },
    // /dev/console is the first process's.
    console.op === "console" ? { ...console, bindConsole: 0 } : console,
    ...(input.keyring ? [{ op: "keyring", name: `_ses.${input.containerId}` } as const] : []),
    ...planConfinement(process, settings),
    ...(forks ? [{ op: "fork" } as const] : []),
    { op: "exec", path: process.args[0] ?? "", args: process.args, env: environmentOf(process.env) },
  ];
}
