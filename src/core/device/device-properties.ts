import type { OciDeviceRule } from "../oci.ts";
import { type DeviceRule, deviceRules, effectiveRules } from "./device-rules.ts";

/**
 * The device rules as systemd's DevicePolicy and DeviceAllow (libcontainer 7.2), which can only list what is allowed. Never more is told
 * than the rules allow; where that is less, the rules proper, put in force afterwards, give the rest.
 */
export function deviceProperties(asked: readonly OciDeviceRule[]): {
  readonly policy: "auto" | "strict";
  readonly allow: readonly (readonly [path: string, access: string])[];
} {
  const { allowAll, exceptions } = effectiveRules(deviceRules(asked));
  if (allowAll && exceptions.length === 0) return { policy: "auto", allow: [] };
  const whole = exceptions.filter((rule, at) => rule.allow && !exceptions.slice(at).some((later) => cuts(later, rule)));
  return { policy: "strict", allow: whole.flatMap(entriesOf) };
}

/** Whether a later rule may take away from an earlier one. */
function cuts(later: DeviceRule, rule: DeviceRule): boolean {
  const meets = (a: number | null, b: number | null) => a === null || b === null || a === b;
  const sameKind = later.type === "a" || rule.type === "a" || later.type === rule.type;
  return !later.allow && sameKind && meets(later.major, rule.major) && meets(later.minor, rule.minor);
}

/** Nothing for a minor number of every major one: that cannot be said. */
function entriesOf({ type, major, minor, access }: DeviceRule): readonly (readonly [string, string])[] {
  const kinds = type === "a" ? ["block", "char"] : [type === "b" ? "block" : "char"];
  if (major === null) return minor === null ? kinds.map((kind) => [`${kind}-*`, access] as const) : [];
  return kinds.map((kind) => [minor === null ? `${kind}-${major}` : `/dev/${kind}/${major}:${minor}`, access] as const);
}
