/** Worker thread: moves the write-ahead log into the database file, with the fsyncs that the JS thread must not wait for. */
import { DatabaseSync } from "node:sqlite";
import { parentPort, workerData } from "node:worker_threads";

const database = new DatabaseSync((workerData as { path: string }).path, { timeout: 1000 });
database.exec("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0");

parentPort?.on("message", (message: "checkpoint" | "stop") => {
  if (message === "stop") {
    database.close();
    parentPort?.close();
    return;
  }
  let problem: string | null = null;
  try {
    // PASSIVE takes no lock that a writer waits for.
    database.prepare("PRAGMA wal_checkpoint(PASSIVE)").get();
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error);
  }
  parentPort?.postMessage(problem);
});
