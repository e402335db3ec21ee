/** Namespaces that are named by whose they are: a process, or another container. */
import { dirname, join } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { readStartTicks } from "../shim/process-handle.ts";
import type { Config, Namespace } from "./config.ts";
import { checkId } from "./container-id.ts";
import { readState } from "./saved-state.ts";

/** With paths in their place. `directory`: of the container that is to be made. @throws RuntimeError invalid_argument, failed_precondition. */
export function withNamespacePaths(config: Config, directory: string): Config {
  if (config.namespaces?.every(({ pid, container }) => pid === undefined && container === undefined) ?? true) return config;
  return { ...config, namespaces: (config.namespaces ?? []).map((namespace) => withPath(namespace, dirname(directory))) };
}

function withPath({ type, pid, container, ...rest }: Namespace, stateDir: string): Namespace {
  if (pid === undefined && container === undefined) return { type, ...rest };
  if ((pid !== undefined && container !== undefined) || rest.path !== undefined)
    throw new RuntimeError("invalid_argument", `the ${type} namespace is named in more than one way: path, pid or container`);
  const of = container === undefined ? processOf(pid ?? 0) : firstProcessOf(container, stateDir);
  return { type, path: `/proc/${of.pid}/ns/${type}`, process: of };
}

function processOf(pid: number): { readonly pid: number; readonly startTicks: number } {
  const ticks = Number.isInteger(pid) && pid > 0 ? readStartTicks(pid) : undefined;
  if (ticks === undefined)
    throw new RuntimeError("invalid_argument", `there is no process ${pid} whose namespace could be joined`);
  return { pid, startTicks: Number(ticks) };
}

function firstProcessOf(id: string, stateDir: string): { readonly pid: number; readonly startTicks: number } {
  checkId(id);
  const { init_process_pid: pid, init_process_start: startTicks } = readState(join(stateDir, id));
  if (pid === 0 || Number(readStartTicks(pid) ?? -1n) !== startTicks)
    throw new RuntimeError("failed_precondition", `container ${id}, whose namespace is to be joined, does not run`);
  return { pid, startTicks };
}
