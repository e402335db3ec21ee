import { readFile } from "node:fs/promises";
import { join } from "node:path/posix";
import { errnoName, RuntimeError, wrapError } from "../lib/errors.ts";
import type { ProcessIdentity } from "./runtime.ts";

/** What the shim wrote about itself; undefined: it never started, or before the last boot. */
export async function readShimIdentity(runDir: string): Promise<ProcessIdentity | undefined> {
  const path = join(runDir, "shim.json");
  try {
    const [text, bootId] = await Promise.all([readFile(path, "utf8"), readFile("/proc/sys/kernel/random/boot_id", "utf8")]);
    const told = JSON.parse(text) as { pid?: unknown; startTicks?: unknown; bootId?: unknown };
    if (told.bootId !== bootId.trim() || typeof told.pid !== "number" || typeof told.startTicks !== "number") return undefined;
    return { pid: told.pid, startTicks: BigInt(told.startTicks) };
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    if (error instanceof SyntaxError) throw new RuntimeError("data_loss", `${path} is damaged`, { path }, error);
    throw wrapError(`${path} cannot be read`, error);
  }
}
