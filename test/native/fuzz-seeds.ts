/** Writes one plan for each operation, and a long one, as seeds for decode-fuzz: node fuzz-seeds.ts DIRECTORY */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodePlan, type Op, type OpName } from "../../src/core/plan.ts";
import { opSchemas } from "../../src/core/plan-schema.ts";
import { messageSchemas } from "../../src/core/shim/messages.ts";
import { type Fields, type FieldType, WireWriter } from "../../src/lib/wire.ts";

const samples = {
  u32: 64,
  u64: 5n,
  i64: -5n,
  str: "net/a",
  bytes: Buffer.alloc(16),
  strs: ["a=b", "c"],
  u32s: [1, 2],
} as const satisfies Record<FieldType, unknown>;
const sample = (fields: Fields): Record<string, unknown> =>
  Object.fromEntries(Object.entries(fields).map(([name, type]) => [name, samples[type]]));
/** Where the common value would be refused. */
const fitting: Record<string, unknown> = { kind: 0x4000_0000, kinds: 0x4000_0000, out: 3, mode: 0o755 };

const directory = process.argv[2] ?? "build/fuzz-seeds";
mkdirSync(directory, { recursive: true });
const ops = (Object.keys(opSchemas) as OpName[]).map((op) => {
  const { fields } = opSchemas[op];
  return {
    op,
    ...sample(fields),
    ...Object.fromEntries(Object.entries(fitting).filter(([name]) => name in fields)),
  } as unknown as Op;
});
const last = ops.filter(({ op }) => op === "exec" || op === "reaper");
const inner = ops.filter((op) => !last.includes(op));
const plans = [...ops.map((op) => [op]), ...last.map((op) => [...inner, op])];
for (const [i, plan] of plans.entries())
  writeFileSync(join(directory, `plan-${i}`), Buffer.concat([Buffer.of(0), encodePlan(plan)]));
for (const [i, { fields }] of Object.values(messageSchemas).entries()) {
  const out = new WireWriter();
  out.fields(fields, sample(fields) as never);
  writeFileSync(join(directory, `message-${i}`), Buffer.concat([Buffer.of(i + 1), out.finish()]));
}
