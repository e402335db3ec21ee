/** The log that callers of OCI runtimes ask for with --log: they read from it why a command failed. */
import { appendFileSync } from "node:fs";
import { CommandError } from "./command-error.ts";

export interface RunLog {
  /** Never "error" for what is none: callers take the last such line for the reason of the failure. */
  readonly write: (level: "debug" | "warning" | "error", message: string) => void;
}

/** `file` undefined: only people read it, on stderr. @throws CommandError for an unknown format, or a file that cannot be written. */
export function openRunLog(file: string | undefined, format: string, debug: boolean): RunLog {
  if (format !== "text" && format !== "json") throw new CommandError(`invalid log-format: ${format}`);
  if (file !== undefined) append(file, "");
  return {
    write: (level, message) => {
      if (level === "debug" && !debug) return;
      const time = new Date().toISOString();
      if (file === undefined) {
        process.stderr.write(`caisson: ${level === "error" ? "" : `${level}: `}${message}\n`);
        return;
      }
      const line = format === "json" ? JSON.stringify({ level, msg: message, time }) : textLine(level, message, time);
      append(file, `${line}\n`);
      if (level === "error") process.stderr.write(`caisson: ${message}\n`);
    },
  };
}

function textLine(level: string, message: string, time: string): string {
  return `time=${JSON.stringify(time)} level=${level} msg=${JSON.stringify(message)}`;
}

function append(file: string, text: string): void {
  try {
    appendFileSync(file, text, { mode: 0o644 });
  } catch (error) {
    throw new CommandError(`the log ${file} cannot be written: ${error instanceof Error ? error.message : String(error)}`);
  }
}
