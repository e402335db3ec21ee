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

/** test/fixtures/library-actor.ts; in the virtual machine a bundle of it, as types take a minute to be stripped there. */
export const actorScript = process.env.CAISSON_TEST_ACTOR ?? join(import.meta.dirname, "../fixtures/library-actor.ts");

/** Another process that uses the library. */
export function startActor(task: object): Actor {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", actorScript, JSON.stringify(task)], {
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
