import { readdirSync, readlinkSync } from "node:fs";

/** What a process has open, as "number -> target", without the descriptor that lists them. */
export function openDescriptors(pid: number | "self" = "self"): readonly string[] {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).flatMap((fd) => {
    try {
      return [`${fd} -> ${readlinkSync(`${directory}/${fd}`)}`];
    } catch {
      return [];
    }
  });
}
