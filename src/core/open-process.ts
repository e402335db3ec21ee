import { RuntimeError } from "../lib/errors.ts";
import { addon, isErrno } from "../native/addon.ts";
import type { ProcessIdentity } from "./runtime.ts";
import { readStartTicks } from "./shim/process-handle.ts";

/** The pidfd of exactly this process. `failed_precondition` when it has ended or its pid belongs to another one. */
export function openProcess(identity: ProcessIdentity): Disposable & { readonly fd: number } {
  const gone = () =>
    new RuntimeError("failed_precondition", `process ${identity.pid} of the container has ended`, { pid: identity.pid });
  let fd: number;
  try {
    fd = addon.pidfdOpen(identity.pid);
  } catch (error) {
    throw isErrno(error, "ESRCH", "EINVAL") ? gone() : error;
  }
  if (readStartTicks(identity.pid) !== identity.startTicks) {
    addon.close(fd);
    throw gone();
  }
  return { fd, [Symbol.dispose]: () => addon.close(fd) };
}
