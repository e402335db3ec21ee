/** Limits over former ones, as an update of an OCI runtime has it. */
import type { Resources } from "./config.ts";

/** What `asked` names replaces what was; groups such as memory are taken field by field. Device rules are no limits, and stay. */
export function mergeResources(former: Resources, asked: Resources): Resources {
  const merged: Record<string, unknown> = { ...former };
  for (const [name, value] of Object.entries(asked) as [string, unknown][]) {
    if (name === "devices" || value === undefined || value === null) continue;
    const before = merged[name];
    merged[name] = isGroup(before) && isGroup(value) ? { ...before, ...present(value) } : value;
  }
  return merged as Resources;
}

function isGroup(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function present(group: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(group).filter(([, value]) => value !== undefined && value !== null));
}
