import { messageOf } from "./errors.ts";
import { step } from "./step.ts";

export interface UndoStep {
  /** Names the thing that is taken back, for messages: "network namespace". */
  readonly what: string;
  readonly undo: (signal: AbortSignal) => Promise<unknown> | unknown;
}

/** What is left when an undo fails: the step that failed and the older ones that were not tried. */
export interface Stuck {
  readonly failed: string;
  readonly notTried: readonly string[];
  readonly error: unknown;
}

const undoDeadlineMs = 60_000;

/**
 * Rolls back newest first unless commit() ran. Each step gets its own deadline, never the caller's signal. Stops at the first
 * undo that fails, because older steps may depend on it (a network namespace must outlive its CNI DEL), and reports what is
 * left to `onStuck`. Never throws: a throw in a disposer would hide the error that caused the roll-back.
 */
export class Undo implements AsyncDisposable {
  #steps: UndoStep[] = [];
  readonly #onStuck: (stuck: Stuck) => Promise<unknown> | unknown;

  constructor(onStuck: (stuck: Stuck) => Promise<unknown> | unknown) {
    this.#onStuck = onStuck;
  }

  push(what: string, undo: UndoStep["undo"]): void {
    this.#steps.push({ what, undo });
  }

  commit(): void {
    this.#steps = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let last = this.#steps.pop(); last !== undefined; last = this.#steps.pop()) {
      const { what, undo } = last;
      try {
        await step("undo", () => undo(AbortSignal.timeout(undoDeadlineMs)));
      } catch (error) {
        await this.#stuck({ failed: what, notTried: this.#steps.map((s) => s.what), error });
        return;
      }
    }
  }

  async #stuck(stuck: Stuck): Promise<void> {
    try {
      await this.#onStuck(stuck);
    } catch (error) {
      process.emitWarning(`undo of ${stuck.failed} failed and could not be recorded: ${messageOf(error)}`);
    }
  }
}
