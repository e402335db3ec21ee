/** The verbs, each loaded when it is wanted: a container's start does not wait for the daemon's client, nor for other verbs. */
import type { Command } from "./command.ts";

type Load = () => Promise<Command>;

/** What asks the daemon, or is about the node. */
const nodeVerbs = {
  version: async () => (await import("./version.ts")).version,
  status: async () => (await import("./status.ts")).status,
  pods: async () => (await import("./pods.ts")).pods,
  ps: async () => (await import("./ps.ts")).ps,
  inspect: async () => (await import("./inspect.ts")).inspect,
  timeline: async () => (await import("./timeline.ts")).timeline,
  plan: async () => (await import("./plan.ts")).plan,
  doctor: async () => (await import("./doctor.ts")).doctor,
} satisfies Record<string, Load>;

/** What leads containers without a daemon. */
const containerVerbs = {
  run: async () => (await import("./container/run.ts")).run,
  create: async () => (await import("./container/create.ts")).create,
  start: async () => (await import("./container/start.ts")).start,
  exec: async () => (await import("./container/exec.ts")).exec,
  kill: async () => (await import("./container/kill.ts")).kill,
  pause: async () => (await import("./container/pause.ts")).pause,
  resume: async () => (await import("./container/pause.ts")).resume,
  update: async () => (await import("./container/update.ts")).update,
  state: async () => (await import("./container/state.ts")).state,
  list: async () => (await import("./container/list.ts")).list,
  events: async () => (await import("./container/events.ts")).events,
  stats: async () => (await import("./container/events.ts")).stats,
  delete: async () => (await import("./container/delete.ts")).remove,
  checkpoint: async () => (await import("./container/checkpoint.ts")).checkpoint,
  restore: async () => (await import("./container/restore.ts")).restore,
  spec: async () => (await import("./container/spec.ts")).spec,
  features: async () => (await import("./container/features.ts")).features,
} satisfies Record<string, Load>;

const all: Readonly<Record<string, Load>> = { ...nodeVerbs, ...containerVerbs };

export async function findVerb(name: string): Promise<Command | undefined> {
  return Object.hasOwn(all, name) ? await all[name]?.() : undefined;
}

/** For help: about the node, and about containers. */
export async function allVerbs(): Promise<{ readonly node: readonly Command[]; readonly container: readonly Command[] }> {
  const [node, container] = await Promise.all([nodeVerbs, containerVerbs].map(loadAll));
  return { node: node ?? [], container: container ?? [] };
}

async function loadAll(verbs: Readonly<Record<string, Load>>): Promise<readonly Command[]> {
  return await Promise.all(Object.values(verbs).map((load) => load()));
}
