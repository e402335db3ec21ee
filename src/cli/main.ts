/** The `caisson` command: administration of one node. */
import { parseArgs } from "node:util";
import { buildVersion } from "../lib/version.ts";
import type { Command } from "./command.ts";
import { CommandError, Connection } from "./connection.ts";
import { doctor } from "./doctor.ts";
import { inspect } from "./inspect.ts";
import { plan } from "./plan.ts";
import { pods } from "./pods.ts";
import { ps } from "./ps.ts";
import { status } from "./status.ts";
import { timeline } from "./timeline.ts";
import { version } from "./version.ts";

const commands: readonly Command[] = [version, status, pods, ps, inspect, timeline, plan, doctor];
const defaultSocket = "/run/caisson/caisson.sock";
const defaultTimeoutS = 10;

const globalFlags = {
  socket: { type: "string", short: "s" },
  timeout: { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
  version: { type: "boolean", short: "V" },
} as const;

const globalHelp = `  -s, --socket PATH   the daemon's socket (default: CAISSON_SOCKET, else ${defaultSocket})
      --timeout S     how long to wait for an answer, in seconds (default: ${defaultTimeoutS})
      --json          machine-readable output
  -h, --help          this text, or a verb's
  -V, --version       the version of this command`;

function usage(): string {
  const width = Math.max(...commands.map(({ name, arguments: args }) => `${name} ${args}`.length));
  const lines = commands.map((c) => `  ${`${c.name} ${c.arguments}`.padEnd(width)}  ${c.summary}`);
  return `caisson: administration of a node that runs caissond\n\nUsage: caisson [FLAGS] VERB [ARGUMENTS]\n\nVerbs:\n${lines.join("\n")}\n\nFlags:\n${globalHelp}\n\nExit codes: 0 done, 1 failed, 2 the answer is bad news (status, doctor), 64 wrong usage.\n`;
}

function usageOf(command: Command): string {
  const flags = Object.entries(command.flags).map(([name, { short, about }]) => {
    const left = `${short === undefined ? "    " : `-${short}, `}--${name}`;
    return `  ${left.padEnd(18)}  ${about}`;
  });
  const details = command.details === "" ? "" : `\n${command.details}\n`;
  return `Usage: caisson ${`${command.name} ${command.arguments}`.trimEnd()} [FLAGS]\n\n${command.summary}\n${details}\nFlags:\n${[...flags, globalHelp].join("\n")}\n`;
}

const wrongUsage = 64;
const misused = (message: string): CommandError => new CommandError(`${message}; see caisson --help`, wrongUsage);

function parse(argv: readonly string[], command: Command | undefined) {
  const own = Object.entries(command?.flags ?? {}).map(([name, { short }]) => [
    name,
    { type: "boolean" as const, ...(short === undefined ? {} : { short }) },
  ]);
  const options = { ...globalFlags, ...Object.fromEntries(own) } as typeof globalFlags;
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw misused(error instanceof Error ? (error.message.split(".")[0] ?? "") : String(error));
  }
}

/** The verb is the first argument that is neither a flag nor a flag's value. */
function findCommand(argv: readonly string[]): Command | undefined {
  const { positionals } = parseArgs({ args: [...argv], options: globalFlags, allowPositionals: true, strict: false });
  const word = positionals[0] === "help" ? positionals[1] : positionals[0];
  if (word === undefined) return undefined;
  const found = commands.find(({ name }) => name === word);
  if (found === undefined) throw misused(`there is no verb ${word}`);
  return found;
}

async function run(argv: readonly string[]): Promise<number> {
  const print = (text: string): void => void process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  const command = findCommand(argv);
  const { values, positionals } = parse(argv, command);
  if (values.version === true) {
    print(`caisson ${buildVersion()}`);
    return 0;
  }
  if (command === undefined) {
    print(usage());
    return values.help === true || positionals[0] === "help" ? 0 : wrongUsage;
  }
  if (values.help === true || positionals[0] === "help") {
    print(usageOf(command));
    return 0;
  }
  const args = positionals.slice(1);
  const [least, most] = command.arity;
  if (args.length < least || args.length > most)
    throw misused(`caisson ${command.name} ${command.arguments}: got ${args.length} arguments`);
  const timeoutS = values.timeout === undefined ? defaultTimeoutS : Number(values.timeout);
  if (!(timeoutS > 0)) throw misused("--timeout must be a number above 0");
  const socket = values.socket ?? process.env.CAISSON_SOCKET ?? defaultSocket;
  let connection: Connection | undefined;
  try {
    return await command.run({
      args,
      flags: new Set(Object.entries(values).flatMap(([name, value]) => ((value as unknown) === true ? [name] : []))),
      json: values.json === true,
      connection: () => {
        connection ??= new Connection(socket.replace(/^unix:(\/\/)?/, ""), timeoutS * 1000);
        return connection;
      },
      socket,
      print,
    });
  } finally {
    connection?.close();
  }
}

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof CommandError)) throw error;
  process.stderr.write(`caisson: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
