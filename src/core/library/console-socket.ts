/** Hands a terminal to whoever waits for it at a socket, as OCI runtimes do with --console-socket. */
import { closeSync, openSync } from "node:fs";
import { basename, dirname } from "node:path/posix";
import { RuntimeError, wrapError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import { openFlag } from "../../native/constants.ts";

/** What the receivers show, and do not heed. */
const shownName = "/dev/pts/ptmx";

/** Takes the descriptor, also when it throws. */
export function sendConsole(socket: string, fd: number | undefined): void {
  if (fd === undefined) throw new RuntimeError("invalid_argument", "a console socket is for processes with a terminal");
  let directory = -1;
  try {
    // By its directory: paths of sockets may be longer than the 107 bytes that connect takes.
    directory = openSync(dirname(socket), openFlag.path | openFlag.directory);
    addon.sendDescriptor(directory, basename(socket), shownName, fd);
  } catch (error) {
    const { message, fields } = wrapError(`the terminal could not be sent to the console socket ${socket}`, error);
    throw new RuntimeError("failed_precondition", message, fields, error);
  } finally {
    addon.close(fd);
    if (directory >= 0) closeSync(directory);
  }
}
