import { PodSandboxState } from "../gen/cri/v1/api.ts";
import type { Command } from "./command.ts";
import { ago, json, shortId, table } from "./text.ts";

export const pods: Command = {
  name: "pods",
  arguments: "",
  summary: "list pods, newest first",
  details: "",
  arity: [0, 0],
  flags: { quiet: { short: "q", about: "only the ids" } },
  async run({ connection, flags, json: asJson, print }) {
    const c = connection();
    const { items } = await c.call(c.runtime, c.runtime.listPodSandbox, { filter: undefined });
    const sorted = items.toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
    if (asJson) print(json(sorted));
    else if (flags.has("quiet")) for (const { id } of sorted) print(id);
    else {
      const rows = sorted.map((pod) => [
        shortId(pod.id),
        pod.state === PodSandboxState.SANDBOX_READY ? "ready" : "not ready",
        ago(pod.createdAt),
        pod.metadata?.namespace ?? "",
        pod.metadata?.name ?? "",
        String(pod.metadata?.attempt ?? 0),
      ]);
      print(table(["POD", "STATE", "AGE", "NAMESPACE", "NAME", "ATTEMPT"], rows));
    }
    return 0;
  },
};
