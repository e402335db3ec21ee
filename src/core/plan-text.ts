/** Plans for people: one line per operation, as `caisson plan` prints them. */
import type { Op, Plan } from "./plan.ts";
import { noSlot, nsKind, podPin } from "./plan-schema.ts";
import { capabilitiesOf } from "./process/capabilities.ts";

const indexWidth = 4;
const nameWidth = 20;

/** `cloneKinds`: namespaces that the process is born with. */
export function planText(plan: Plan, cloneKinds = 0): string {
  const born = cloneKinds === 0 ? [] : [`${" ".repeat(indexWidth)}  ${"born with".padEnd(nameWidth)} ${kindNames(cloneKinds)}`];
  const lines = plan.map((op, at) => `${String(at).padStart(indexWidth)}  ${op.op.padEnd(nameWidth)} ${detail(op)}`.trimEnd());
  return `${[...born, ...lines].join("\n")}\n`;
}

function detail(op: Op): string {
  const fields = Object.entries(op).filter(([name]) => name !== "op");
  return fields.map(([name, value]) => `${name}=${show(name, value)}`).join(" ");
}

const capabilityFields = new Set(["set", "permitted", "effective", "inheritable", "ambient"]);

function show(name: string, value: unknown): string {
  if (typeof value === "bigint") return capabilityFields.has(name) ? capabilityText(value) : String(value);
  if (typeof value === "number") return showNumber(name, value);
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`;
  return JSON.stringify(value);
}

function showNumber(name: string, value: number): string {
  if (name === "kind" || name === "kinds") return kindNames(value);
  if (["slot", "out", "userns", "idmap", "into", "pin", "stdin", "stdout", "stderr"].includes(name)) return slotName(value);
  if (["mode", "mask"].includes(name)) return `0${value.toString(8)}`;
  return ["flags", "attrs", "set", "clear", "propagation"].includes(name) && value > 9
    ? `0x${value.toString(16)}`
    : String(value);
}

function capabilityText(bits: bigint): string {
  const names = capabilitiesOf(bits).map((name) => name.replace("CAP_", "").toLowerCase());
  return names.length === 0 ? "none" : names.join(",");
}

function slotName(slot: number): string {
  if (slot === noSlot) return "none";
  const pin = Object.entries(podPin).find(([, number]) => number === slot);
  return pin === undefined ? String(slot) : `pod:${pin[0]}`;
}

function kindNames(kinds: number): string {
  return Object.entries(nsKind)
    .filter(([, bit]) => (kinds & bit) !== 0)
    .map(([name]) => name)
    .join(",");
}
