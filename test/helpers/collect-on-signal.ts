/** Preloaded into a daemon under test (NODE_OPTIONS): SIGUSR2 collects all garbage and writes the memory that is left into a file. */
import { renameSync, writeFileSync } from "node:fs";

/** As V8 does when it has nothing to do for a while: memory that it keeps for the next burst is given back as well. */
declare const gc: (options: { type: "major"; execution: "sync"; flavor: "last-resort" }) => void;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const report = process.env.CAISSON_TEST_MEMORY_REPORT;
if (report !== undefined) {
  process.on("SIGUSR2", async () => {
    // Finalizers run between collections and free what the next one finds.
    for (let round = 0; round < 4; round++) {
      gc({ type: "major", execution: "sync", flavor: "last-resort" });
      await sleep(20);
    }
    // The daemon returns what was freed a second later.
    await sleep(1500);
    writeFileSync(`${report}.new`, JSON.stringify(process.memoryUsage()));
    renameSync(`${report}.new`, report);
  });
}
