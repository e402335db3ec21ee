/** Logging: one JSON object per line on standard error, or a short text line when a person is looking at a terminal. */
import { isatty } from "node:tty";
import { destination, type Logger, pino } from "pino";
import { RuntimeError } from "./errors.ts";

export type Log = Pick<Logger, "trace" | "debug" | "info" | "warn" | "error" | "fatal"> & {
  /** A logger that adds these fields to each line. */
  child(fields: Readonly<Record<string, unknown>>): Log;
};

/** Names whose values never reach a log, at any depth of up to three. */
const secrets = ["password", "auth", "identityToken", "registryToken", "authorization", "token", "envs", "env"];
const paths = secrets.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]);

function describe(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const own = error instanceof RuntimeError ? { code: error.code, ...error.fields } : {};
  const cause = error.cause === undefined ? {} : { cause: describe(error.cause) };
  // A RuntimeError says what went wrong; where in our code it was made helps only with the unexpected ones.
  const stack = error instanceof RuntimeError && error.code !== "internal" ? {} : { stack: error.stack };
  return { message: error.message, ...own, ...cause, ...stack };
}

const levelNames: Readonly<Record<number, string>> = {
  10: "trace",
  20: "debug",
  30: "info",
  40: "warn",
  50: "error",
  60: "fatal",
};

/** One JSON line as text: time, level, message, fields. */
export function prettyLine(json: string): string {
  const { time, level, msg, err, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const name = typeof level === "number" ? (levelNames[level] ?? String(level)) : String(level);
  const rest = Object.entries(fields).map(([k, value]) => `${k}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  const problem = typeof err === "object" && err !== null && "message" in err ? [`error=${String(err.message)}`] : [];
  return `${String(time).slice(11, 23)} ${name.padEnd(5)} ${[String(msg ?? ""), ...problem, ...rest].join(" ")}\n`;
}

/** Makes the daemon's logger. Lines are written at once: what was logged before a crash is there. */
export function createLog(level: string): Log {
  const options = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: describe },
    redact: { paths, censor: "(hidden)" },
  };
  if (!isatty(2)) return pino(options, destination({ dest: 2, sync: true }));
  return pino(options, { write: (line: string) => process.stderr.write(prettyLine(line)) });
}
