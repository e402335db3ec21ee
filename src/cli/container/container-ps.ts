/** Processes of one container, as the host sees them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { addon } from "../../native/addon.ts";
import type { CommandContext } from "../command.ts";
import { CommandError, misused } from "../command-error.ts";
import { loadContainer } from "./loaded.ts";

export async function containerProcesses(context: CommandContext): Promise<number> {
  const { flags, args, print } = context;
  const format = flags.one("format") ?? (context.json ? "json" : "table");
  if (format !== "table" && format !== "json") throw misused(`--format is table or json, not ${JSON.stringify(format)}`);
  using container = await loadContainer(context);
  const pids = await container.processes();
  if (format === "json") {
    print(JSON.stringify(pids));
    return 0;
  }
  const asked = args.slice(1);
  print(linesOf(await hostPs(asked.length === 0 ? ["-ef"] : asked), new Set(pids)).join("\n"));
  return 0;
}

/** The head and the lines of those processes. @throws CommandError when there is no column for pids. */
export function linesOf(listing: string, pids: ReadonlySet<number>): readonly string[] {
  const [head = "", ...lines] = listing.trimEnd().split("\n");
  const column = head.trim().split(/\s+/).indexOf("PID");
  if (column < 0) throw new CommandError("couldn't find PID field in ps output");
  return [head, ...lines.filter((line) => pids.has(Number(line.trim().split(/\s+/)[column])))];
}

async function hostPs(args: readonly string[]): Promise<string> {
  const path = (process.env.PATH ?? "/usr/bin:/bin")
    .split(":")
    .map((directory) => join(directory, "ps"))
    .find(existsSync);
  if (path === undefined) throw new CommandError("the host has no ps: use --format json");
  const [read, write] = addon.pipe(0);
  const chunks: Buffer[] = [];
  const ended = Promise.withResolvers<void>();
  addon.readPipe(
    read,
    (chunk) => chunks.push(chunk),
    () => ended.resolve(),
  );
  try {
    const env = Object.entries(process.env).map(([name, value]) => `${name}=${value ?? ""}`);
    const { pidfd } = addon.spawn({
      path,
      imageFd: null,
      argv: ["ps", ...args],
      env,
      cwd: null,
      fds: [null, write, 2],
      parentDeathSignal: 9,
      newSession: false,
    });
    addon.close(write);
    const [{ code }] = await Promise.all([addon.waitChild(pidfd), ended.promise]);
    addon.close(pidfd);
    if (code !== 0) throw new CommandError(`ps ${args.join(" ")} failed with exit code ${code}`);
  } catch (error) {
    ended.resolve();
    throw error;
  }
  return Buffer.concat(chunks).toString();
}
