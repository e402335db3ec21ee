/** Where the procfs of a container comes from that joins a PID namespace (mount-plan.ts says why that matters). */
import { join } from "node:path/posix";
import { RuntimeError } from "../lib/errors.ts";
import { addon } from "../native/addon.ts";
import { fsType } from "../native/constants.ts";
import { planProcOfProcess } from "./namespace/pod-namespaces.ts";
import type { PodTools } from "./pod-tools.ts";
import type { Shim } from "./shim/shim.ts";

/** Bit of the shim's features: it does without newer system calls. */
const restricted = 1;
const deadlineMs = 10_000;

/** Whether procfs can be mounted for a PID namespace from outside: Linux 6.17. */
export function procTakesPidns(tools: PodTools, shim: Shim): boolean {
  return tools.procTakesPidns && (shim.features & restricted) === 0;
}

/** Where the procfs of a pod's shared PID namespace is kept for its containers. */
export function podProcPath(runDir: string): string {
  return join(runDir, "proc");
}

/** A copy of what the process of this pidfd has at /proc; the caller closes it. */
export async function copyProcOf(shim: Shim, pidfd: number, signal: AbortSignal): Promise<number> {
  const what = "procfs of the target container";
  const { fds } = await shim.run({ ...planProcOfProcess(), fds: [pidfd], deadlineMs, what, signal });
  const [fd] = fds;
  if (fd === undefined) throw new RuntimeError("internal", `the shim sent no ${what}`);
  if (addon.fsTypeOf(fd) === fsType.proc) return fd;
  addon.close(fd);
  throw new RuntimeError("failed_precondition", "the target container has no procfs at /proc: its processes cannot be shown");
}
