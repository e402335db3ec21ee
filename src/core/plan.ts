/**
 * A plan: the ordered operations that turn a forked child into a container, an exec process or a helper of the pod. Plain
 * data; built by pure functions, carried out by the shim's children, printed by `caisson plan`.
 */
import { RuntimeError } from "../lib/errors.ts";
import { type FieldTypes, WireWriter } from "../lib/wire.ts";
import { opSchemas } from "./plan-schema.ts";

type Schemas = typeof opSchemas;
export type OpName = keyof Schemas;
type FieldsOf<N extends OpName> = Schemas[N]["fields"];
export type Op = {
  [N in OpName]: { readonly op: N } & {
    readonly [K in keyof FieldsOf<N>]: FieldsOf<N>[K] extends keyof FieldTypes ? FieldTypes[FieldsOf<N>[K]] : never;
  };
}[OpName];
export type Plan = readonly Op[];

/** "CPLN", read as a little-endian u32. */
export const planMagic = 0x4e4c_5043;
export const planVersion = 1;
/** The helper refuses more; a container's plan has about 120. */
export const maxOps = 4096;
/** The helper refuses larger plans: room for the kernel's 2 MiB of arguments and environment and a seccomp program. */
export const maxPlanBytes = 4 << 20;

/** Lays out a plan as the helper reads it: magic u32, version u16, count u16, total u32, then each op as code u16, 0 u16, length u32, fields. */
export function encodePlan(plan: Plan): Buffer {
  if (plan.length > maxOps)
    throw new RuntimeError("invalid_argument", `plan has ${plan.length} operations; at most ${maxOps} are possible`);
  const out = new WireWriter(4096);
  out.u32(planMagic);
  out.u16(planVersion);
  out.u16(plan.length);
  const totalAt = out.length;
  out.u32(0);
  for (const item of plan) {
    const { code, fields } = opSchemas[item.op];
    out.u16(code);
    out.u16(0);
    const lengthAt = out.length;
    out.u32(0);
    out.fields(fields, item as never);
    out.patchU32(lengthAt, out.length - lengthAt - 4);
  }
  if (out.length > maxPlanBytes) {
    throw new RuntimeError(
      "invalid_argument",
      `plan has ${out.length} bytes, more than ${maxPlanBytes}: arguments, environment or mounts are too long`,
    );
  }
  out.patchU32(totalAt, out.length);
  return out.finish();
}

/** Codes of the operations that a plan needs: compared with what a shim says that it knows. */
export function codesOf(plan: Plan): ReadonlySet<number> {
  return new Set(plan.map((item) => opSchemas[item.op].code));
}
