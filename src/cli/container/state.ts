import type { Command } from "../command.ts";
import { json } from "../text.ts";
import { loadContainer } from "./loaded.ts";
import { shownState } from "./shown-state.ts";

export const state: Command = {
  name: "state",
  arguments: "ID",
  summary: "print the OCI state of a container",
  details: "status is stopped, created, running or paused; pid is 0 for a stopped one.",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    context.print(json(await shownState(context.place.root, container)));
    return 0;
  },
};
