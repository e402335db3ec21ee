/** caissond: reads flags and configuration, starts the daemon, ends it on SIGTERM. Everything else is loaded after the cache is on. */
import { mkdirSync } from "node:fs";
import { enableCompileCache } from "node:module";
import { parseArgs } from "node:util";
import { type Config, defaultConfigPath, describeConfig, loadConfig, logLevels, type Overrides } from "./config.ts";
import { messageOf, RuntimeError } from "./lib/errors.ts";
import { buildVersion } from "./lib/version.ts";

const help = `caissond: container runtime for Kubernetes nodes

Usage: caissond [FLAGS]

Flags (each takes the place of the configuration file's key):
  --root DIR          database, layers, writable layers; survives a reboot (default: /var/lib/caisson)
  --state DIR         sockets, records of running pods; does not (default: /run/caisson)
  --listen SOCKET     the CRI socket (default: /run/caisson/caisson.sock)
  --config FILE       configuration (default: ${defaultConfigPath}, if it is there)
  --log-level LEVEL   ${logLevels.join(", ")} (default: info)
  --print-config      print every configuration key with its meaning and default, and end
  --version           print the version, and end
  --help              print this text, and end

SIGTERM ends the daemon; containers go on and are found again by the next one.
Exit codes: 0 ended on request, 1 failed, 64 wrong usage or configuration.
`;

const options = {
  root: { type: "string" },
  state: { type: "string" },
  listen: { type: "string" },
  config: { type: "string" },
  "log-level": { type: "string" },
  "print-config": { type: "boolean" },
  version: { type: "boolean" },
  help: { type: "boolean" },
} as const;

const wrongUsage = 64;
const fail = (text: string, exitCode: number): never => {
  process.stderr.write(`caissond: ${text}\n`);
  process.exit(exitCode);
};

type Flags = ReturnType<typeof parseArgs<{ options: typeof options }>>["values"];

function parseFlags(): Flags {
  try {
    return parseArgs({ options, allowPositionals: false, strict: true }).values;
  } catch (error) {
    return fail(`${messageOf(error).split(". ")[0]}; see caissond --help`, wrongUsage);
  }
}

function configOf(flags: Flags): Config {
  const given = { root: flags.root, state: flags.state, listen: flags.listen, log_level: flags["log-level"] };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Overrides;
  try {
    return loadConfig(flags.config, set);
  } catch (error) {
    return fail(messageOf(error), wrongUsage);
  }
}

const flags = parseFlags();
if (flags.help === true) process.stdout.write(help);
else if (flags.version === true) process.stdout.write(`caissond ${buildVersion()}\n`);
else if (flags["print-config"] === true) process.stdout.write(describeConfig());
else await run(configOf(flags));

async function run(config: Config): Promise<void> {
  process.umask(0o022);
  try {
    // Compiled code is kept below root: the default place is a directory where others may write. Node writes it at the end of the
    // process; earlier it would hold up calls for some tenths of a second.
    mkdirSync(config.root, { recursive: true, mode: 0o711 });
    enableCompileCache(`${config.root}/compile-cache`);
  } catch {
    // Only speed is lost; a root that cannot be made is reported by the daemon's own start.
  }
  const { createLog } = await import("./lib/log.ts");
  const log = createLog(config.logLevel);
  const die = (what: string) => (error: unknown) => {
    log.fatal({ err: error }, what);
    process.exit(1);
  };
  process.on("uncaughtException", die("uncaught exception"));
  process.on("unhandledRejection", die("unhandled rejection"));
  try {
    const { startDaemon } = await import("./app.ts");
    const daemon = startDaemon(config, log);
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
      process.once(signal, () => {
        log.info({ signal }, "stopping; containers go on");
        daemon.stop().then(() => process.exit(0), die("stop failed"));
      });
    }
    await daemon.ready;
  } catch (error) {
    log.fatal({ err: error }, error instanceof RuntimeError ? error.message : "start failed");
    process.exit(1);
  }
}
