import { posix } from "node:path";
import type { ContainerConfig, PodSandboxConfig } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, isAtOrBelow, quoted } from "./translate-check.ts";
import type { Host } from "./translate-node.ts";

/**
 * Absolute host path of the container's log; null when either part is empty: output is discarded. A log_path must stay below the
 * sandbox's log_directory (CVE-2025-0750).
 */
export function containerLogPath(podConfig: PodSandboxConfig, config: ContainerConfig): string | null {
  if (podConfig.logDirectory === "" || config.logPath === "") return null;
  const directory = cleanAbsolutePath("log_directory", podConfig.logDirectory);
  if (hasControlCharacter(config.logPath)) throw invalid(`log_path ${quoted(config.logPath)} contains control characters`);
  const path = posix.join(directory, config.logPath);
  if (config.logPath.split("/").includes("..") || path === directory || !isAtOrBelow(path, directory) || path.endsWith("/")) {
    throw invalid(`log_path ${quoted(config.logPath)} does not name a file below the log directory ${directory}`);
  }
  return cleanAbsolutePath("log path", path);
}

/** The directory of a log; only the node's root says by a link where it lies, or anybody's file could grow (CVE-2017-1002102). */
export async function makeLogDirectory(logPath: string, host: Pick<Host, "lstat" | "makeDirectory">): Promise<void> {
  const directory = posix.dirname(logPath);
  for (let end = directory.indexOf("/", 1); ; end = directory.indexOf("/", end + 1)) {
    const path = end === -1 ? directory : directory.slice(0, end);
    const node = await host.lstat(path);
    if (node?.kind === "symlink" && node.uid !== 0) {
      throw new RuntimeError("failed_precondition", `log directory ${directory}: ${path} is a link that user ${node.uid} made`, {
        path,
      });
    }
    if (node === undefined || end === -1) break;
  }
  await host.makeDirectory(directory);
}
