/**
 * Device rules as one decision list, lowered to what each cgroup version takes (libcontainer 3.4, 7.1). The list starts from
 * "deny all"; a later rule wins over an earlier one.
 */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciDeviceRule } from "../oci.ts";

/** A rule with nothing left open. null is every number. */
export interface DeviceRule {
  readonly allow: boolean;
  /** a: both kinds. */
  readonly type: "a" | "b" | "c";
  readonly major: number | null;
  readonly minor: number | null;
  /** Subset of "rwm", in this order. */
  readonly access: string;
}

/** Nodes that any container may have made (but not used), and those that it always may use. */
const always: readonly DeviceRule[] = [
  rule("c", null, null, "m"),
  rule("b", null, null, "m"),
  rule("c", 1, 3, "rwm"),
  rule("c", 1, 5, "rwm"),
  rule("c", 1, 7, "rwm"),
  rule("c", 1, 8, "rwm"),
  rule("c", 1, 9, "rwm"),
  rule("c", 5, 0, "rwm"),
  rule("c", 5, 1, "rwm"),
  rule("c", 5, 2, "rwm"),
  rule("c", 136, null, "rwm"),
  // tun: other runtimes allow it, and VPN pods count on that.
  rule("c", 10, 200, "rwm"),
];

function rule(type: "b" | "c", major: number | null, minor: number | null, access: string): DeviceRule {
  return { allow: true, type, major, minor, access };
}

/** The rules in force for a container, in order. */
export function deviceRules(asked: readonly OciDeviceRule[]): readonly DeviceRule[] {
  return [...asked.map(completeRule), ...always];
}

/** The rule with nothing left open. */
export function completeRule(asked: OciDeviceRule): DeviceRule {
  const access = asked.access ?? "rwm";
  if (!/^[rwm]*$/.test(access)) {
    throw new RuntimeError("invalid_argument", `device access ${JSON.stringify(access)} may only contain r, w and m`);
  }
  const ordered = [..."rwm"].filter((letter) => access.includes(letter)).join("");
  const number = (value: number | undefined) => (value === undefined || value < 0 ? null : value);
  return {
    allow: asked.allow,
    type: asked.type ?? "a",
    major: number(asked.major),
    minor: number(asked.minor),
    access: ordered === "" ? "rwm" : ordered,
  };
}

/** Whether the rule speaks of everything: it then replaces all that came before. */
function isTotal({ type, major, minor, access }: DeviceRule): boolean {
  return type === "a" && major === null && minor === null && access === "rwm";
}

/** The default, and the rules that change it: what came before the last total rule, or repeats the default, has no effect. */
export function effectiveRules(rules: readonly DeviceRule[]): {
  readonly allowAll: boolean;
  readonly exceptions: readonly DeviceRule[];
} {
  const last = rules.findLastIndex(isTotal);
  const allowAll = last >= 0 && rules[last]?.allow === true;
  const after = rules.slice(last + 1);
  const first = after.findIndex((item) => item.allow !== allowAll);
  return { allowAll, exceptions: first < 0 ? [] : after.slice(first) };
}

/** One write to `devices.allow` or `devices.deny` of cgroup v1. */
export interface DeviceWrite {
  readonly file: "devices.allow" | "devices.deny";
  readonly value: string;
}

/** Writes for a fresh v1 cgroup, whose list is its parent's. `a` always means all numbers there. */
export function deviceWritesV1(rules: readonly DeviceRule[]): readonly DeviceWrite[] {
  const { allowAll, exceptions } = effectiveRules(rules);
  const number = (value: number | null) => (value === null ? "*" : String(value));
  return [
    { file: allowAll ? "devices.allow" : "devices.deny", value: "a" },
    ...exceptions.flatMap((item) => {
      const file = item.allow ? "devices.allow" : "devices.deny";
      const kinds = item.type === "a" ? (["b", "c"] as const) : [item.type];
      return kinds.map(
        (kind) => ({ file, value: `${kind} ${number(item.major)}:${number(item.minor)} ${item.access}` }) as const,
      );
    }),
  ];
}
