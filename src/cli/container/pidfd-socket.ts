import { closeSync, openSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { messageOf } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";
import { CommandError } from "../command-error.ts";

/** Who asks for it is told which kind of process it is: "standard" is a container's first one, "setns" a further one. */
export function sendPidfd(socket: string | undefined, pid: number, kind: "standard" | "setns"): void {
  if (socket === undefined) return;
  const path = resolve(socket);
  const open: number[] = [];
  try {
    const directory = openSync(dirname(path), openFlag.path | openFlag.directory);
    open.push(directory);
    const pidfd = addon.pidfdOpen(pid);
    open.push(pidfd);
    addon.sendDescriptor(directory, basename(path), kind, pidfd);
  } catch (error) {
    throw new CommandError(`the pidfd could not be sent to ${path}: ${messageOf(error)}`);
  } finally {
    for (const fd of open) closeSync(fd);
  }
}
