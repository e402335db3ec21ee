import { ContainerState } from "../gen/cri/v1/api.ts";
import type { Command } from "./command.ts";
import { containerProcesses } from "./container/container-ps.ts";
import { ago, json, shortId, table } from "./text.ts";

const words: Readonly<Record<number, string>> = {
  [ContainerState.CONTAINER_CREATED]: "created",
  [ContainerState.CONTAINER_RUNNING]: "running",
  [ContainerState.CONTAINER_EXITED]: "exited",
  [ContainerState.CONTAINER_UNKNOWN]: "unknown",
};

export const ps: Command = {
  name: "ps",
  arguments: "[ID [PS-ARGUMENT...]]",
  summary: "list running containers of the daemon, newest first; with ID, the processes of a container below --root",
  details: "PS-ARGUMENTs go to the host's ps, -ef when there are none. With ID no daemon is needed.",
  arity: [0, Number.POSITIVE_INFINITY],
  flags: {
    all: { short: "a", about: "containers in every state" },
    quiet: { short: "q", about: "only the ids" },
    format: { short: "f", value: "FORMAT", about: "of processes: table, or json for pids alone" },
  },
  flagsFirst: true,
  async run(context) {
    const { connection, flags, json: asJson, print, args } = context;
    if (args.length > 0) return await containerProcesses(context);
    const c = connection();
    const state = flags.has("all") ? undefined : { state: ContainerState.CONTAINER_RUNNING };
    const filter = { id: "", state, podSandboxId: "", labelSelector: {} };
    const { containers } = await c.call(c.runtime, c.runtime.listContainers, { filter });
    const sorted = containers.toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
    if (asJson) print(json(sorted));
    else if (flags.has("quiet")) for (const { id } of sorted) print(id);
    else {
      const rows = sorted.map((container) => [
        shortId(container.id),
        words[container.state] ?? String(container.state),
        ago(container.createdAt),
        container.metadata?.name ?? "",
        String(container.metadata?.attempt ?? 0),
        shortId(container.podSandboxId),
        container.image?.userSpecifiedImage || container.image?.image || "",
      ]);
      print(table(["CONTAINER", "STATE", "AGE", "NAME", "ATTEMPT", "POD", "IMAGE"], rows));
    }
    return 0;
  },
};
