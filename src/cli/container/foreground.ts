/** A process that has this command in front of it: its signals, its terminal, its exit code. */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { Process, ProcessSpec } from "../../core/library/public.ts";

/** SIGCHLD and SIGURG are about this command itself; the other three cannot be caught, or belong to Node. */
const ownSignals: ReadonlySet<string> = new Set(["SIGCHLD", "SIGCLD", "SIGURG", "SIGWINCH", "SIGKILL", "SIGSTOP", "SIGPROF"]);
/** Faults of this process: to go on after one would be to fault again. */
const faults: ReadonlySet<string> = new Set(["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGIOT", "SIGTRAP", "SIGSYS"]);
/** How long output of a terminal is still read after the process's end. */
const drainMs = 1000;

export class Foreground implements Disposable {
  readonly #terminal: boolean;
  readonly #undo: (() => void)[] = [];
  #process: Process | undefined;

  constructor({ terminal }: Pick<ProcessSpec, "terminal">) {
    this.#terminal = terminal === true;
  }

  /** A terminal begins as large as ours. */
  get settings(): Pick<ProcessSpec, "consoleSize"> {
    const { rows, columns } = process.stdout;
    return this.#terminal && process.stdout.isTTY ? { consoleSize: { rows, cols: columns } } : {};
  }

  /** From now on, what happens to this command happens to the process. */
  join(target: Process): void {
    this.#process = target;
    for (const name of Object.keys(constants.signals)) {
      if (!ownSignals.has(name) && !faults.has(name)) this.#on(name, () => void target.signal(name).catch(() => {}));
    }
    if (this.#terminal) this.#joinTerminal(target);
  }

  /** Resolves with the exit code of the process when it has ended. */
  async leave(): Promise<number> {
    const target = this.#process;
    if (target === undefined) return 0;
    const { exitCode } = await target.wait();
    const { console } = target;
    if (console !== undefined && !console.readableEnded) {
      await Promise.race([new Promise((resolve) => console.once("end", resolve)), sleep(drainMs, undefined, { ref: false })]);
    }
    return exitCode;
  }

  [Symbol.dispose](): void {
    for (const undo of this.#undo.splice(0).toReversed()) undo();
  }

  #on(signal: string, act: () => void): void {
    process.on(signal, act);
    this.#undo.push(() => void process.removeListener(signal, act));
  }

  #joinTerminal(target: Process): void {
    const { console } = target;
    if (console === undefined) return;
    const { stdin, stdout } = process;
    if (stdin.isTTY) {
      stdin.setRawMode(true);
      this.#undo.push(() => void stdin.setRawMode(false));
    }
    const resize = () => target.resize({ rows: stdout.rows, cols: stdout.columns });
    if (stdout.isTTY) {
      stdout.on("resize", resize);
      this.#undo.push(() => void stdout.removeListener("resize", resize));
    }
    stdin.pipe(console);
    console.pipe(stdout, { end: false });
    console.on("error", () => {});
    this.#undo.push(() => {
      stdin.unpipe(console);
      stdin.destroy();
      console.destroy();
    });
  }
}
