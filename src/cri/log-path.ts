import { posix } from "node:path";
import type { ContainerConfig, PodSandboxConfig } from "../gen/cri/v1/api.ts";
import { cleanAbsolutePath, hasControlCharacter, invalid, isAtOrBelow, quoted } from "./translate-check.ts";

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
