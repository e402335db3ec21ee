import { readFileSync } from "node:fs";

/** Whether the process runs: a zombie does not, and the machine's process 1 may be late in reaping one. */
export function isRunning(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3));
  } catch {
    return false;
  }
}
