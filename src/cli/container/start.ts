import type { Command } from "../command.ts";
import { loadContainer } from "./loaded.ts";

export const start: Command = {
  name: "start",
  arguments: "ID",
  summary: "let the process of a created container run",
  details: "",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    await container.exec();
    return 0;
  },
};
