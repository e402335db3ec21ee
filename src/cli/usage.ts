/** What --help says. */
import type { Command } from "./command.ts";
import type { FlagTable } from "./flags.ts";
import { allVerbs } from "./verbs.ts";

export const defaultSocket = "/run/caisson/caisson.sock";
export const defaultTimeoutS = 10;
export const defaultRoot = "/run/caisson/library";

/** Before or, where that is not the command of a container, after the verb. */
export const globalFlags = {
  socket: { short: "s", value: "PATH", about: `the daemon's socket (default: CAISSON_SOCKET, else ${defaultSocket})` },
  timeout: { value: "S", about: `how long to wait for the daemon, in seconds (default: ${defaultTimeoutS})` },
  json: { about: "machine-readable output" },
  root: { value: "DIR", about: `states of containers (default: ${defaultRoot}; below XDG_RUNTIME_DIR if not root)` },
  log: { value: "FILE", about: "where failures and warnings are appended (default: stderr)" },
  "log-format": { value: "FORMAT", about: "text or json" },
  debug: { about: "log more" },
  "systemd-cgroup": { about: "let systemd make the cgroup: cgroupsPath is SLICE:PREFIX:NAME" },
  rootless: { value: "auto|true|false", about: "accepted for callers of other runtimes", hidden: true },
  help: { short: "h", about: "this text, or a verb's" },
  version: { short: "V", about: "the version of this command" },
  v: { short: "v", about: "as --version", hidden: true },
} as const satisfies FlagTable;

export async function usage(): Promise<string> {
  const { node, container } = await allVerbs();
  const width = Math.max(...[...node, ...container].map(({ name, arguments: args }) => `${name} ${args}`.length));
  const lines = (verbs: readonly Command[]) =>
    verbs.map((c) => `  ${`${c.name} ${c.arguments}`.padEnd(width)}  ${c.summary}`).join("\n");
  return [
    "caisson: administration of a node that runs caissond, and containers without one",
    "Usage: caisson [FLAGS] VERB [FLAGS] [ARGUMENTS]",
    `Verbs about the node:\n${lines(node)}`,
    `Verbs that lead containers from OCI bundles, without a daemon:\n${lines(container)}`,
    `Flags:\n${flagLines(globalFlags)}`,
    "Exit codes: 0 done, 1 failed, 2 the answer is bad news (status, doctor), 64 wrong usage; run and exec end as their process does.\n",
  ].join("\n\n");
}

export function usageOf(command: Command): string {
  const own = flagLines(command.flags);
  const details = command.details === "" ? "" : `\n${command.details}\n`;
  return `Usage: caisson ${command.name} [FLAGS] ${command.arguments}`
    .trimEnd()
    .concat(
      `\n\n${command.summary}\n${details}\n`,
      own === "" ? "" : `Flags:\n${own}\n\n`,
      `Flags of every verb:\n${flagLines(globalFlags)}\n`,
    );
}

function flagLines(table: FlagTable): string {
  const rows = Object.entries(table).flatMap(([name, { short, value, about, hidden }]) => {
    const left = `${short === undefined ? "    " : `-${short}, `}--${name}${value === undefined ? "" : ` ${value}`}`;
    return hidden === true ? [] : [{ left, about }];
  });
  const width = Math.max(0, ...rows.map(({ left }) => left.length));
  return rows.map(({ left, about }) => `  ${left.padEnd(width)}  ${about}`).join("\n");
}
