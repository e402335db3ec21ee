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
 * Base set (everything, nothing or the defaults), then single adds, then single drops. Inheritable and ambient are empty
 * (CVE-2022-24769, CVE-2022-27652) but for what is asked for as ambient, which the kernel wants to be inheritable. `defaults` are names as the CRI has them; `held` is what the daemon itself may hand out.
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
  const ambient = resolveAmbient(asked?.addAmbientCapabilities ?? [], wanted).filter((name) => held.has(name));
  return {
    sets: { bounding: given, effective: given, permitted: given, inheritable: ambient, ambient },
    lacking: inOrder.filter((name) => !held.has(name)),
  };
}

/** Kept by a user that is not root, across execve of programs that know nothing of it; only what the container has. */
function resolveAmbient(asked: readonly string[], wanted: ReadonlySet<string>): readonly string[] {
  const names = new Set(asked.some(isAll) ? wanted : []);
  for (const name of asked.filter((one) => !isAll(one)).map(canonical)) {
    if (!wanted.has(name)) throw invalid(`ambient capability ${name} is not one of the container's; add it to add_capabilities`);
    names.add(name);
  }
  return capabilityNames.filter((name) => names.has(name));
}
