import { messageOf } from "../../lib/errors.ts";
import type { Command } from "../command.ts";
import { loadContainer } from "./loaded.ts";

export const kill: Command = {
  name: "kill",
  arguments: "ID [SIGNAL]",
  summary: "send a signal to the first process of a container",
  details:
    "SIGNAL is a number, or a name with or without SIG; TERM when absent. 0 asks whether the process lives. KILL reaches every process\n" +
    "of a container that has no PID namespace of its own.",
  arity: [1, 2],
  flags: { all: { short: "a", about: "a container that does not run is no failure (of older runtimes: all processes)" } },
  flagsFirst: true,
  local: true,
  async run(context) {
    using container = await loadContainer(context);
    try {
      await container.signal(context.args[1] ?? "TERM");
    } catch (error) {
      if (!(context.flags.has("all") && messageOf(error) === "container not running")) throw error;
    }
    return 0;
  },
};
