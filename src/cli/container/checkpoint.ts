import type { CheckpointOptions } from "../../core/library/public.ts";
import type { Command } from "../command.ts";
import { CommandError, misused } from "../command-error.ts";
import { showCheckpoint } from "./checkpoint-inspect.ts";
import { criuFlags, criuOptions } from "./criu-flags.ts";
import { loadContainer } from "./loaded.ts";

export const checkpoint: Command = {
  name: "checkpoint",
  arguments: "ID | inspect FILE",
  summary: "save a running container with CRIU, and take it away; or show what was saved",
  details:
    "With --leave-running or --pre-dump the container goes on. inspect takes an archive or a directory of images: processes, files, sockets, sizes, and how long the container was frozen.",
  arity: [1, 2],
  flags: {
    ...criuFlags,
    "leave-running": { about: "let the container go on" },
    "pre-dump": { about: "save memory alone; a later checkpoint saves what has changed since" },
    "parent-path": { value: "DIR", about: "images of the pre-dump before, relative to the image path" },
    "page-server": { value: "ADDRESS:PORT", about: "who gets the memory; with --lazy-pages: where it is served" },
    "tcp-skip-in-flight": { about: "leave out connections that are just being made" },
    "link-remap": { about: "give deleted files that still have names new ones" },
    "status-fd": { value: "FD", about: "gets a zero byte when lazy pages can be fetched" },
  },
  local: true,
  async run(context) {
    const { flags, args } = context;
    if (args.length === 2) {
      if (args[0] !== "inspect") throw misused("checkpoint wants one ID, or inspect FILE");
      return await showCheckpoint(context, args[1] ?? "");
    }
    using container = await loadContainer(context);
    const [leaveRunning, preDump] = [flags.has("leave-running"), flags.has("pre-dump")];
    await container.checkpoint({
      ...criuOptions(flags),
      leaveRunning: leaveRunning || preDump,
      preDump,
      tcpSkipInFlight: flags.has("tcp-skip-in-flight"),
      linkRemap: flags.has("link-remap"),
      parentPath: flags.one("parent-path"),
      pageServer: pageServerOf(flags.one("page-server")),
      statusFd: flags.integer("status-fd"),
    });
    if (!leaveRunning && !preDump) await container.destroy();
    return 0;
  },
};

function pageServerOf(text: string | undefined): CheckpointOptions["pageServer"] {
  if (text === undefined) return undefined;
  const [, address = "", port = ""] = /^(.*):(\d+)$/.exec(text) ?? [];
  if (address === "") throw new CommandError("Use --page-server ADDRESS:PORT to specify page server");
  return { address, port: Number(port) };
}
