import type { Command } from "../command.ts";
import { loadContainer } from "./loaded.ts";

export const pause: Command = {
  name: "pause",
  arguments: "ID",
  summary: "freeze all processes of a container",
  details: "",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    await container.pause();
    return 0;
  },
};

export const resume: Command = {
  name: "resume",
  arguments: "ID",
  summary: "let a paused container go on",
  details: "",
  arity: [1, 1],
  flags: {},
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    await container.resume();
    return 0;
  },
};
