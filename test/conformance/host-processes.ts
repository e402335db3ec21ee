/** The host's view of processes of a container, recognised by a number that only they have in their command line. */
import { randomInt } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";

export const uniqueSeconds = (): number => randomInt(1_000_000, 2_000_000);

/** How many processes on the host are `sleep SECONDS`. */
export function sleeping(seconds: number): number {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name) && isSleep(name, seconds)).length;
}

function isSleep(pid: string, seconds: number): boolean {
  try {
    const [program = "", argument] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    return program.endsWith("sleep") && argument === String(seconds);
  } catch {
    return false;
  }
}
