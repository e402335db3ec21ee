import type { OciCapabilities } from "../core/oci.ts";
import { capabilityNames } from "../core/process/capabilities.ts";
import type { Capability } from "../gen/cri/v1/api.ts";
import { invalid, quoted } from "./translate-check.ts";

export interface ResolvedCapabilities {
  readonly sets: OciCapabilities;
  /** Asked for, but the daemon may not hand them out. */
  readonly lacking: readonly string[];
}

const isAll = (name: string): boolean => name.toUpperCase() === "ALL";

function canonical(name: string): string {
  const upper = name.toUpperCase();
  const full = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (!(capabilityNames as readonly string[]).includes(full)) throw invalid(`unknown capability ${quoted(name)}`);
  return full;
}

/**
 * Base set (everything, nothing or the defaults), then single adds, then single drops. Inheritable and ambient stay empty whatever is
 * asked (CVE-2022-24769, CVE-2022-27652). `defaults` are names as the CRI has them; `held` is what the daemon itself may hand out.
 */
export function resolveCapabilities(
  asked: Capability | undefined,
  privileged: boolean,
  defaults: readonly string[],
  held: ReadonlySet<string>,
): ResolvedCapabilities {
  const add = asked?.addCapabilities ?? [];
  const drop = asked?.dropCapabilities ?? [];
  const adds = add.filter((name) => !isAll(name)).map(canonical);
  const drops = drop.filter((name) => !isAll(name)).map(canonical);
  for (const name of asked?.addAmbientCapabilities ?? []) if (!isAll(name)) canonical(name);

  const wanted = new Set<string>();
  if (privileged) {
    for (const name of capabilityNames) wanted.add(name);
  } else {
    const base = drop.some(isAll) ? [] : add.some(isAll) ? capabilityNames : defaults.map(canonical);
    for (const name of [...base, ...adds]) wanted.add(name);
    for (const name of drops) wanted.delete(name);
  }
  const inOrder = capabilityNames.filter((name) => wanted.has(name));
  const given = inOrder.filter((name) => held.has(name));
  return {
    sets: { bounding: given, effective: given, permitted: given, inheritable: [], ambient: [] },
    lacking: inOrder.filter((name) => !held.has(name)),
  };
}
