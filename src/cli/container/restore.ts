import { Process } from "../../core/library/public.ts";
import type { Command } from "../command.ts";
import { criuFlags, criuOptions } from "./criu-flags.ts";
import { Foreground } from "./foreground.ts";
import { createFromBundle, initFlags, ownStdio } from "./init-flags.ts";
import { discard } from "./loaded.ts";
import { writePidFile } from "./pid-file.ts";

const { bundle, "console-socket": consoleSocket, "pid-file": pidFile, "no-pivot": noPivot } = initFlags;

export const restore: Command = {
  name: "restore",
  arguments: "ID",
  summary: "create a container from a bundle and start it from a checkpoint",
  details: "It ends as run does: as the process ends, or with --detach when that runs.",
  arity: [1, 1],
  flags: {
    ...criuFlags,
    bundle,
    "console-socket": consoleSocket,
    "pid-file": pidFile,
    "no-pivot": noPivot,
    detach: { short: "d", about: "return when the process runs" },
    keep: { about: "do not delete the container at its end" },
    "tcp-close": { about: "restore connections as closed" },
    "lsm-profile": { value: "TYPE:NAME", about: "in place of the checkpoint's profile or label" },
    "lsm-mount-context": { value: "CONTEXT", about: "in place of the checkpoint's label of mounts" },
    "no-subreaper": { about: "accepted for callers of other runtimes", hidden: true },
  },
  local: true,
  async run(context) {
    const { flags, warn } = context;
    const detached = flags.has("detach");
    const { container, process: spec } = await createFromBundle(context, detached);
    const { extraFiles: _, ...restored } = spec;
    const foreground = detached ? undefined : new Foreground(spec);
    let exitCode = 0;
    try {
      const process = new Process({ ...restored, ...ownStdio(spec) });
      await container.restore(process, {
        ...criuOptions(flags),
        tcpClose: flags.has("tcp-close"),
        lsmProfile: flags.one("lsm-profile"),
        lsmMountContext: flags.one("lsm-mount-context"),
      });
      writePidFile(flags.one("pid-file"), process.pid);
      foreground?.join(process);
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
