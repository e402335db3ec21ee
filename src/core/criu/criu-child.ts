/** CRIU as a child of a shim: what it restores becomes the shim's child as well, and whoever dies, nothing of it stays. */

import type { Response } from "../../gen/criu/rpc.ts";
import { codeOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import { addon, isErrno } from "../../native/addon.ts";
import type { Op, Plan } from "../plan.ts";
import type { Shim } from "../shim/shim.ts";
import type { CriuProgram } from "./criu-program.ts";
import { type CriuCall, CriuSession } from "./criu-session.ts";

/** Beyond those that plans of containers have. */
const startedBarrier = 100;
const sigkill = 9;
/** First descriptor of CRIU behind its socket. */
export const firstInherited = 4;

export interface CriuChild {
  readonly shim: Shim;
  readonly program: CriuProgram;
  /** What is done before CRIU is executed; its slots are `fds` from 0 on, and one more, which is not its. */
  readonly plan: Plan;
  readonly cloneKinds: number;
  readonly fds: readonly number[];
  /** Slots that CRIU gets as descriptors from `firstInherited` on. */
  readonly inherit: readonly number[];
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  readonly what: string;
  /** Before CRIU is executed. */
  readonly onPid?: (pid: number) => void;
  /** At barriers of `plan` itself. */
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
}

/** Resolves with CRIU's response when CRIU has ended. */
export async function callCriu(child: CriuChild, call: CriuCall): Promise<Response> {
  const { shim, program, plan, what } = child;
  child.signal.throwIfAborted();
  using session = new CriuSession();
  const fds = [...child.fds, session.otherEnd];
  let pidfd: number | undefined;
  const kill = (): void => {
    if (pidfd !== undefined) killIgnoringEnded(pidfd);
    session.abandon(new RuntimeError("deadline_exceeded", `${what}: given up`));
  };
  const ended = shim.run({
    plan: [...plan, { op: "barrier", number: startedBarrier }, execCriu(program, fds.length - 1, child.inherit)],
    fds,
    cloneKinds: child.cloneKinds,
    deadlineMs: child.deadlineMs,
    what,
    onBarrier: async (number, pid) => {
      if (number !== startedBarrier) return await child.onBarrier?.(number, pid);
      session.given();
      pidfd = addon.pidfdOpen(pid);
      child.onPid?.(pid);
      if (child.signal.aborted) kill();
    },
  });
  child.signal.addEventListener("abort", kill);
  // The shim's word on why there is no CRIU (any more) is better than that there is none.
  let reason: unknown;
  const over = ended.catch((error: unknown) => {
    reason = error;
    session.abandon(wrapError(what, error));
  });
  try {
    return await session.call(call);
  } catch (error) {
    session[Symbol.dispose]();
    await over;
    if (child.signal.aborted || reason === undefined) throw error;
    // To the shim it is a child that did not come to the end of its plan.
    const killed = pidfd !== undefined && codeOf(reason) === "failed_precondition";
    throw killed ? new RuntimeError("internal", `${what}: CRIU was killed in the middle`, {}, reason) : reason;
  } finally {
    child.signal.removeEventListener("abort", kill);
    session[Symbol.dispose]();
    await over;
    if (pidfd !== undefined) addon.close(pidfd);
  }
}

function execCriu({ path }: CriuProgram, socketSlot: number, inherit: readonly number[]): Op {
  return {
    op: "exec-host",
    path,
    args: ["criu", "swrk", "3"],
    env: [`PATH=${process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin"}`, "LANG=C"],
    slots: [socketSlot, ...inherit],
  };
}

function killIgnoringEnded(pidfd: number): void {
  try {
    addon.pidfdSignal(pidfd, sigkill);
  } catch (error) {
    if (!isErrno(error, "ESRCH")) throw error;
  }
}
