import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Actor extends Disposable {
  readonly child: ChildProcess;
  /** The next line; undefined at the end. */
  readonly next: () => Promise<Record<string, unknown> | undefined>;
  /** All lines until its end. */
  readonly all: () => Promise<readonly Record<string, unknown>[]>;
}

/** Another process that uses the library (test/fixtures/library-actor.ts). */
export function startActor(task: object): Actor {
  const script = join(import.meta.dirname, "../fixtures/library-actor.ts");
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", script, JSON.stringify(task)], {
    stdio: ["ignore", "pipe", "inherit"],
    detached: true,
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { done, value } = await lines.next();
    return done === true ? undefined : (JSON.parse(value) as Record<string, unknown>);
  };
  const all = async () => {
    const found: Record<string, unknown>[] = [];
    for (let line = await next(); line !== undefined; line = await next()) found.push(line);
    return found;
  };
  return { child, next, all, [Symbol.dispose]: () => void child.kill("SIGKILL") };
}
