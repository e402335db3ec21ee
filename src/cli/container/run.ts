import { join } from "node:path";
import { Process } from "../../core/library/public.ts";
import type { Command } from "../command.ts";
import { Foreground } from "./foreground.ts";
import { createFromBundle, initFlags, ownStdio } from "./init-flags.ts";
import { discard } from "./loaded.ts";
import { NotifySocket } from "./notify-socket.ts";
import { writePidFile } from "./pid-file.ts";
import { sendPidfd } from "./pidfd-socket.ts";

export const run: Command = {
  name: "run",
  arguments: "ID",
  summary: "create a container from a bundle, start it, and end as it ends",
  details:
    "Signals go on to the process. With --detach the command returns when the process runs; the container then stays until it is deleted.",
  arity: [1, 1],
  flags: {
    ...initFlags,
    detach: { short: "d", about: "return when the process runs" },
    keep: { about: "do not delete the container at its end" },
    "no-subreaper": { about: "accepted for callers of other runtimes", hidden: true },
  },
  local: true,
  async run(context) {
    const { flags, warn } = context;
    const detached = flags.has("detach");
    const { container, process: spec } = await createFromBundle(context, detached);
    const foreground = detached ? undefined : new Foreground(spec);
    let exitCode = 0;
    using notify = NotifySocket.open(join(context.place.root, container.id), warn);
    try {
      const process = new Process({ ...spec, ...ownStdio(spec), ...foreground?.settings });
      await container.start(process);
      writePidFile(flags.one("pid-file"), process.pid);
      sendPidfd(flags.one("pidfd-socket"), process.pid, "standard");
      foreground?.join(process);
      await container.exec();
      // In front of somebody this command stays what the service manager watches.
      const told = notify?.forward(container, detached ? process.pid : undefined);
      if (detached) await told;
      exitCode = (await foreground?.leave()) ?? 0;
    } catch (error) {
      await discard(container, warn);
      throw error;
    } finally {
      foreground?.[Symbol.dispose]();
    }
    if (!detached && !flags.has("keep")) await container.destroy();
    container[Symbol.dispose]();
    return exitCode;
  },
};
