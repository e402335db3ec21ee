import type { OciProcess } from "../oci.ts";
import { capabilitySets } from "./capabilities.ts";
import type { OwnLimits } from "./own-limits.ts";
import type { ProcessSettings } from "./process-plan.ts";
import { resourceLimits, unlimited } from "./resource-limits.ts";
import type { SeccompFilter } from "./seccomp.ts";

/** A process that enters a user namespace gets every capability in it, whatever the daemon has. */
const everyCapability = (1n << 63n) - 1n;

/** What is asked for, cut down to what this machine can give (own-limits.ts tells the operator). */
export function processSettings(
  process: OciProcess,
  own: OwnLimits,
  inUserNamespace: boolean,
  seccomp: SeccompFilter | undefined,
): ProcessSettings {
  const limits = resourceLimits(process.rlimits ?? [], own.rlimits);
  const above = limits.filter(({ resource, hard }) => hard > (own.rlimits.hard.get(resource) ?? unlimited));
  return {
    capabilities: capabilitySets(process.capabilities, inUserNamespace ? everyCapability : own.capabilities),
    limits,
    raises: new Set(above.map(({ resource }) => resource)),
    // Without a word the container gets 0: the shim's own value protects the shim, not what it starts.
    oomScoreAdj: Math.max(process.oomScoreAdj ?? 0, own.leastOomScoreAdj),
    seccomp,
  };
}
