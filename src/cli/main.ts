/** The `caisson` command: administration of one node, and containers from OCI bundles without a daemon. */
import { resolve } from "node:path";
import { messageOf, RuntimeError } from "../lib/errors.ts";
import { buildVersion } from "../lib/version.ts";
import type { Command, ContainerPlace } from "./command.ts";
import { CommandError, misused, wrongUsage } from "./command-error.ts";
import { useCompileCache } from "./compile-cache.ts";
import type { Connection } from "./connection.ts";
import { Flags, parseFlags } from "./flags.ts";
import { openRunLog, type RunLog } from "./run-log.ts";
import { defaultRoot, defaultSocket, defaultTimeoutS, globalFlags, usage, usageOf } from "./usage.ts";
import { findVerb } from "./verbs.ts";

const print = (text: string): void => void process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);

/** Global flags are taken before and after the verb; after it the last one counts. */
class Globals {
  readonly #both: readonly Flags[];

  constructor(before: Flags, after: Flags) {
    this.#both = [after, before];
  }

  has(name: keyof typeof globalFlags): boolean {
    return this.#both.some((flags) => flags.has(name));
  }

  one(name: keyof typeof globalFlags): string | undefined {
    return this.#both.map((flags) => flags.one(name)).find((value) => value !== undefined);
  }
}

interface Asked {
  readonly command: Command | undefined;
  readonly help: boolean;
  readonly globals: Globals;
  readonly flags: Flags;
  readonly args: readonly string[];
}

async function understand(argv: readonly string[]): Promise<Asked> {
  const { flags: before, rest } = parseFlags(argv, globalFlags, "first");
  const none = new Flags(new Map());
  const asksHelp = rest[0] === "help";
  const word = asksHelp ? rest[1] : rest[0];
  const command = word === undefined ? undefined : await findVerb(word);
  if (word !== undefined && command === undefined) throw misused(`there is no verb ${word}`);
  if (command === undefined || asksHelp) {
    return { command, help: asksHelp || before.has("help"), globals: new Globals(before, none), flags: none, args: [] };
  }
  const table = { ...globalFlags, ...command.flags };
  const { flags, rest: args } = parseFlags(rest.slice(1), table, command.flagsFirst === true ? "first" : "end");
  const globals = new Globals(before, flags);
  return { command, help: globals.has("help"), globals, flags, args };
}

function placeOf(globals: Globals): ContainerPlace {
  const asked = globals.one("root");
  if (asked !== undefined) {
    const root = resolve(asked);
    if (root === "/") throw misused("--root cannot be /");
    return { root, asked: true };
  }
  const uid = process.geteuid?.();
  if (uid === 0) return { root: defaultRoot, asked: false };
  return { root: `${process.env.XDG_RUNTIME_DIR ?? `/run/user/${uid}`}/caisson`, asked: false };
}

async function run(asked: Asked, log: RunLog): Promise<number> {
  const { command, globals, flags, args } = asked;
  if (globals.has("version") || globals.has("v")) {
    print(`caisson version ${buildVersion()}\nspec: 1.3.0`);
    return 0;
  }
  if (command === undefined) {
    print(await usage());
    return asked.help ? 0 : wrongUsage;
  }
  if (asked.help) {
    print(usageOf(command));
    return 0;
  }
  const [least, most] = command.arity;
  if (args.length < least || args.length > most) {
    throw misused(`caisson ${command.name} ${command.arguments}: got ${args.length} arguments`);
  }
  const timeoutS = Number(globals.one("timeout") ?? defaultTimeoutS);
  if (!(timeoutS > 0)) throw misused("--timeout must be a number above 0");
  const socket = globals.one("socket") ?? process.env.CAISSON_SOCKET ?? defaultSocket;
  const client = command.local === true ? undefined : await import("./connection.ts");
  let connection: Connection | undefined;
  try {
    return await command.run({
      args,
      flags,
      json: globals.has("json"),
      connection: () => {
        if (client === undefined) throw new Error(`${command.name} is a verb without a daemon`);
        connection ??= new client.Connection(socket.replace(/^unix:(\/\/)?/, ""), timeoutS * 1000);
        return connection;
      },
      socket,
      place: placeOf(globals),
      systemdCgroup: globals.has("systemd-cgroup"),
      print,
      warn: (text) => log.write("warning", text),
    });
  } finally {
    connection?.close();
  }
}

/** What is worded is shown; anything else is a fault of ours, and shown as one unless a caller waits for a reason in its log. */
function failed(error: unknown, asked: Asked | undefined, log: RunLog | undefined): void {
  const worded = error instanceof CommandError || error instanceof RuntimeError;
  if (!worded && log === undefined) throw error;
  const text = worded
    ? messageOf(error)
    : `unexpected: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  if (log === undefined) process.stderr.write(`caisson: ${text}\n`);
  else log.write("error", text);
  const own = error instanceof CommandError && error.exitCode !== 1 ? error.exitCode : undefined;
  process.exitCode = own ?? asked?.command?.failure ?? 1;
}

async function main(argv: readonly string[]): Promise<void> {
  let asked: Asked | undefined;
  let log: RunLog | undefined;
  // Connections to helpers alone do not keep a program alive, and this one waits for what they tell.
  const alive = setInterval(() => {}, 60_000);
  try {
    asked = await understand(argv);
    log = openRunLog(asked.globals.one("log"), asked.globals.one("log-format") ?? "text", asked.globals.has("debug"));
    process.exitCode = await run(asked, log);
  } catch (error) {
    failed(error, asked, log);
  } finally {
    clearInterval(alive);
  }
  // Not by itself, when nothing is left to wait for: the heap would be taken apart piece by piece.
  process.exit();
}

// Verbs are loaded when they are asked for, from here on.
useCompileCache();
void main(process.argv.slice(2));
