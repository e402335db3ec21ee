/** Descriptors that a process gets besides stdio: those of socket activation (LISTEN_FDS), then those of --preserve-fds. */
import { readlinkSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { CommandError, misused } from "../command-error.ts";

const first = 3;

export interface PassedDescriptors {
  /** Ours; in the process they are 3, 4 and so on. */
  readonly fds: readonly number[];
  readonly env: readonly string[];
}

/** `preserved`: how many follow those of LISTEN_FDS. @throws CommandError when one of them is not open. */
export function descriptorsToPass(preserved: number, environment: NodeJS.ProcessEnv = process.env): PassedDescriptors {
  if (preserved < 0) throw misused("--preserve-fds cannot be negative");
  const listening = Number(environment.LISTEN_PID) === process.pid ? Number(environment.LISTEN_FDS ?? 0) : 0;
  const fds = Array.from({ length: listening + preserved }, (_, index) => first + index);
  for (const fd of fds) checkOpen(fd);
  return { fds, env: listening === 0 ? [] : [`LISTEN_FDS=${listening}`, "LISTEN_PID=1"] };
}

/** Node's own event loop takes the first free numbers: where it sits, the caller has passed nothing. */
function checkOpen(fd: number): void {
  let target: string | undefined;
  try {
    target = readlinkSync(`/proc/self/fd/${fd}`);
  } catch (error) {
    if (errnoName(error) !== "ENOENT") throw error;
  }
  if (target !== undefined && !/^anon_inode:\[(eventpoll|io_uring|eventfd)\]$/.test(target)) return;
  throw new CommandError(`descriptor ${fd} was to be passed on, and is not open`);
}
