/** Worker thread: answers the questions of source-thread.ts. */
import { enableCompileCache } from "node:module";
import { constants, setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import type { ThreadData, ToThread } from "./source-messages.ts";

const { progressTimeoutMs, compileCache } = workerData as ThreadData;
// For this thread only, as Linux has it. The same as of the helpers that it feeds; the lowest would let pulls starve on a busy node.
setPriority(0, constants.priority.PRIORITY_BELOW_NORMAL);
if (compileCache !== undefined) enableCompileCache(compileCache);
// Everything else is loaded after the cache is on.
const { addon } = await import("../native/addon.ts");
const { SourceHost } = await import("./source-host.ts");
try {
  // As the helpers: who wakes up beside this thread does not wait for the 3 ms of an ordinary slice, of which it takes many.
  addon.setSlices(200, constants.priority.PRIORITY_BELOW_NORMAL);
} catch {
  // Where a filter refuses the call only others' speed is lost.
}
const host = new SourceHost(progressTimeoutMs, (message) => parentPort?.postMessage(message));
parentPort?.on("message", (message: ToThread) => host.take(message));
