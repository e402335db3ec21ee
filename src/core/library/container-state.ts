/**
 * What a container is, always found out from the system: the shim's word, the freezer and the process itself.
 *
 *   stopped --start--> created --exec--> running <--resume-- paused
 *      ^                  |                 | --pause------>   |
 *      +------------------+-----------------+------------------+   init has gone
 */
import { RuntimeError } from "../../lib/errors.ts";

const next = {
  stopped: ["running", "created"],
  created: ["running", "paused", "stopped"],
  running: ["paused", "stopped"],
  paused: ["running", "created", "stopped"],
} as const satisfies Record<string, readonly string[]>;

export type Status = keyof typeof next;

/** @throws RuntimeError failed_precondition `invalid state transition from X to Y`. */
export function advance(from: Status, to: Status): Status {
  if (from === to || (next[from] as readonly Status[]).includes(to)) return to;
  throw new RuntimeError("failed_precondition", `invalid state transition from ${from} to ${to}`);
}
