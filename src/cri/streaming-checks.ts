/** Checks that the streaming RPCs share. They are made twice: when the URL is given out, and when its client comes. */
import { RuntimeError } from "../lib/errors.ts";
import type { CriApp } from "./app-types.ts";
import { visibleContainer, visibleSandbox } from "./queries.ts";
import type { ContainerRecord, SandboxRecord } from "./records.ts";
import { invalid } from "./translate-check.ts";

interface Streams {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export function checkStreams({ tty, stdin, stdout, stderr }: Streams): void {
  if (tty && stderr) throw invalid("tty and stderr cannot both be asked for: a terminal has one output");
  if (!stdin && !stdout && !stderr) throw invalid("one of stdin, stdout and stderr must be asked for");
}

export function runningContainer(app: CriApp, idOrPrefix: string): ContainerRecord {
  if (idOrPrefix === "") throw invalid("the request names no container");
  const record = visibleContainer(app, idOrPrefix);
  if (record.phase === "running") return record;
  throw new RuntimeError("failed_precondition", `container ${record.id} is ${record.phase}, not running`, { id: record.id });
}

export function readySandbox(app: CriApp, idOrPrefix: string): SandboxRecord {
  if (idOrPrefix === "") throw invalid("the request names no pod sandbox");
  const record = visibleSandbox(app, idOrPrefix);
  if (record.phase === "ready") return record;
  throw new RuntimeError("failed_precondition", `pod sandbox ${record.id} is not ready`, { id: record.id });
}
