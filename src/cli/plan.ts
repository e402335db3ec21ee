import { readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { OciSpec } from "../core/oci.ts";
import { explainPlan } from "../core/plan-explain.ts";
import { planText } from "../core/plan-text.ts";
import { messageOf } from "../lib/errors.ts";
import type { Command } from "./command.ts";
import { CommandError } from "./command-error.ts";
import { inspectObject } from "./inspect.ts";
import { json } from "./text.ts";

function readBundle(path: string): OciSpec | undefined {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  const file = stats.isDirectory() ? join(path, "config.json") : path;
  try {
    return JSON.parse(readFileSync(file, "utf8")) as OciSpec;
  } catch (error) {
    throw new CommandError(`${file}: ${messageOf(error)}`);
  }
}

export const plan: Command = {
  name: "plan",
  arguments: "BUNDLE|CONTAINER",
  summary: "print what turns a process into the container, operation by operation, in order",
  details:
    "BUNDLE is a directory with an OCI config.json, or such a file. CONTAINER is an id or a prefix of one, and needs the daemon.",
  arity: [1, 1],
  flags: {},
  async run({ connection, args: [target = ""], json: asJson, print }) {
    let spec = target.includes("/") || target === "." ? readBundle(target) : undefined;
    if (spec === undefined && (target.includes("/") || target === ".")) throw new CommandError(`${target} does not exist`);
    if (spec === undefined) {
      const found = (await inspectObject(connection(), target)) as { info?: { info?: { runtimeSpec?: OciSpec } } };
      spec = found.info?.info?.runtimeSpec;
      if (spec === undefined) throw new CommandError(`${target} is no container`);
    }
    const id = spec.linux?.cgroupsPath?.split("/").at(-1) ?? basename(target);
    const { plan, cloneKinds } = await explainPlan(id, spec).catch((error: unknown) => {
      throw new CommandError(messageOf(error));
    });
    print(asJson ? json(plan) : planText(plan, cloneKinds).trimEnd());
    return 0;
  },
};
