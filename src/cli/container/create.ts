import { Process } from "../../core/library/public.ts";
import type { Command } from "../command.ts";
import { createFromBundle, initFlags, ownStdio } from "./init-flags.ts";
import { discard } from "./loaded.ts";
import { writePidFile } from "./pid-file.ts";
import { sendPidfd } from "./pidfd-socket.ts";

export const create: Command = {
  name: "create",
  arguments: "ID",
  summary: "set up a container from a bundle; its process waits for start",
  details: "The process has this command's stdin, stdout and stderr, or a terminal whose master goes to --console-socket.",
  arity: [1, 1],
  flags: initFlags,
  local: true,
  async run(context) {
    const { container, process: spec } = await createFromBundle(context, true);
    try {
      const process = new Process({ ...spec, ...ownStdio(spec) });
      await container.start(process);
      writePidFile(context.flags.one("pid-file"), process.pid);
      sendPidfd(context.flags.one("pidfd-socket"), process.pid, "standard");
    } catch (error) {
      await discard(container, context.warn);
      throw error;
    }
    container[Symbol.dispose]();
    return 0;
  },
};
