/**
 * The whole plan of a further process of a container. It is confined before it is forked into the container's PID namespace: until then
 * no sibling can see it, and afterwards there is nothing to take over (CVE-2016-9962). Pure.
 */
import type { OciSpec } from "../oci.ts";
import type { Op, Plan } from "../plan.ts";
import { planAffinity, planAttributes, planLabels } from "../process/process-attributes.ts";
import { environmentOf, type ProcessSettings, planConfinement, planOomScore } from "../process/process-plan.ts";
import { rdtBarrier } from "../resctrl.ts";
import { planKeep, planStdio, type StdioSlots } from "./init-plan.ts";
import { kindsToJoin, type Shape } from "./shape.ts";

export interface SetnsPlanInput {
  readonly containerId: string;
  /** Of the container, with this process. */
  readonly oci: OciSpec;
  readonly shape: Shape;
  readonly keyring: boolean;
  readonly cgroupTasks: readonly string[];
  readonly settings: ProcessSettings;
  readonly stdio: StdioSlots;
  /** Slots that become descriptors 3, 4 and so on. */
  readonly keep: readonly number[];
  /** Slot of the pidfd of the container's first process. */
  readonly init: number;
  /** An ordinary user's. */
  readonly rootless?: boolean;
  readonly giveAway: readonly { readonly slot: number; readonly uid: number; readonly gid: number }[];
}

export function planSetns(input: SetnsPlanInput): Plan {
  const { oci, shape, settings, rootless = false } = input;
  const { process } = oci;
  const forks = shape.pid !== "shared";
  const console = planStdio(oci, input.stdio, false);
  const affinity = planAffinity(process.execCPUAffinity);
  return [
    // Behind it an ordinary user's process no longer owns its own procfs files.
    ...(rootless ? [planOomScore(settings)] : []),
    { op: "clean-start" },
    ...(oci.linux.intelRdt === undefined ? [] : [{ op: "barrier", number: rdtBarrier } as const]),
    ...affinity.before,
    ...input.cgroupTasks.map((path): Op => ({ op: "cgroup-attach", path })),
    ...affinity.after,
    ...(rootless ? [] : [planOomScore(settings)]),
    ...planAttributes(oci, forks),
    ...input.giveAway.map(({ slot, uid, gid }): Op => ({ op: "chown-slot", slot, uid, gid })),
    { op: "join-process", slot: input.init, kinds: kindsToJoin(shape) },
    // /dev/console is the first process's.
    console.op === "console" ? { ...console, bindConsole: 0 } : console,
    ...planLabels(process),
    ...(input.keyring ? [{ op: "keyring", name: `_ses.${input.containerId}` } as const] : []),
    ...planKeep(input.keep),
    ...planConfinement(process, settings),
    ...(forks ? [{ op: "fork" } as const] : []),
    { op: "exec", path: process.args[0] ?? "", args: process.args, env: environmentOf(process.env) },
  ];
}
