import { statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { explainInit } from "../core/library/explain-init.ts";
import { Container } from "../core/library/public.ts";
import type { OciSpec } from "../core/oci.ts";
import type { Plan } from "../core/plan.ts";
import { explainPlan } from "../core/plan-explain.ts";
import { planText } from "../core/plan-text.ts";
import { codeOf, messageOf } from "../lib/errors.ts";
import type { Command, CommandContext, ContainerPlace } from "./command.ts";
import { CommandError } from "./command-error.ts";
import { readBundle } from "./container/bundle.ts";
import { inspectObject } from "./inspect.ts";
import { json } from "./text.ts";

interface Explained {
  readonly plan: Plan;
  readonly cloneKinds: number;
}

export const plan: Command = {
  name: "plan",
  arguments: "BUNDLE|CONTAINER",
  summary: "print what turns a process into the container, operation by operation, in order",
  details:
    "BUNDLE is a directory with an OCI config.json, or such a file. CONTAINER is the id of a container below --root, or the id of one of\n" +
    "the daemon's, or a prefix of that.",
  arity: [1, 1],
  flags: {},
  async run(context) {
    const { args: [target = ""] = [], json: asJson, print } = context;
    const { plan, cloneKinds } = await explain(context, target);
    print(asJson ? json(plan) : planText(plan, cloneKinds).trimEnd());
    return 0;
  },
};

async function explain(context: CommandContext, target: string): Promise<Explained> {
  const { place } = context;
  if (target.includes("/") || target === ".") return await explainBundle(context, target);
  const container = await findContainer(place, target);
  if (container === undefined) return await explainPod(context, target);
  const { process } = readBundle(container.config().labels?.bundle ?? "");
  return await explainInit(place.root, container.id, container.config(), process);
}

async function explainBundle(context: CommandContext, target: string): Promise<Explained> {
  const stats = statSync(target, { throwIfNoEntry: false });
  if (stats === undefined) throw new CommandError(`${target} does not exist`);
  if (!stats.isDirectory() && basename(target) !== "config.json") throw new CommandError(`${target} is no config.json`);
  const { config, process, bundle } = readBundle(stats.isDirectory() ? target : dirname(target), context);
  return await explainInit(context.place.root, (config.cgroups?.path ?? bundle).split(/[/:]/).at(-1) ?? "", config, process);
}

async function findContainer({ root }: ContainerPlace, id: string): Promise<Container | undefined> {
  try {
    return await Container.load(root, id);
  } catch (error) {
    if (codeOf(error) === "not_found" || codeOf(error) === "invalid_argument") return undefined;
    throw error;
  }
}

async function explainPod({ connection }: CommandContext, target: string): Promise<Explained> {
  const found = (await inspectObject(connection(), target)) as { info?: { info?: { runtimeSpec?: OciSpec } } };
  const spec = found.info?.info?.runtimeSpec;
  if (spec === undefined) throw new CommandError(`${target} is no container`);
  return await explainPlan(spec.linux?.cgroupsPath?.split("/").at(-1) ?? target, spec).catch((error: unknown) => {
    throw new CommandError(messageOf(error));
  });
}
