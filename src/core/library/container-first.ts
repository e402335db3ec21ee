/** A container's first process, and what is recorded of it. */
import { readlinkSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { findResctrl } from "../resctrl.ts";
import { checkConfig } from "./check-config.ts";
import type { Config } from "./config.ts";
import { bootId, type ContainerAccess } from "./container-access.ts";
import { missingParents, refuseUsedCgroup, removeCgroup } from "./container-cgroup.ts";
import { endHelper } from "./container-removal.ts";
import { destroyDeadlineMs, startDeadlineMs } from "./deadlines.ts";
import { describeProcess } from "./describe-process.ts";
import { type InitStart, type StartedInit, startInit } from "./init-start.ts";
import type { Process, RunningProcess } from "./process.ts";
import { type SavedState, writeState } from "./saved-state.ts";

/** `start`: from a program, or from a checkpoint. `signal`: how the process is signalled. */
export async function startFirst(
  access: ContainerAccess,
  state: SavedState,
  process: Process,
  signal: RunningProcess["signal"],
  start: (input: InitStart) => Promise<StartedInit> = startInit,
): Promise<void> {
  const { machine, directory } = access;
  const { config } = state;
  // What a path leads to may have changed since create().
  checkConfig(config, machine);
  const cgroup = access.cgroup(state);
  if (await endHelper(access, state)) {
    // Linux kills at birth whoever is cloned into a cgroup that cgroup.kill was ever written to (seen in 6.18): it has to be a new one.
    await removeCgroup(cgroup, [], AbortSignal.timeout(destroyDeadlineMs));
  }
  await refuseUsedCgroup(cgroup);
  const madeParents = [...new Set([...state.caisson.made_parents, ...missingParents(cgroup)])];
  writeState(directory, { ...state, caisson: { ...state.caisson, made_parents: madeParents } });
  const started = await start({
    machine,
    directory,
    id: access.id,
    shimId: state.caisson.shim_id,
    config,
    cgroup,
    madeParents,
    spec: process.spec,
    describe: async (root) => await describeProcess(access.machine, config, process, root),
    signal: AbortSignal.timeout(startDeadlineMs),
  });
  const { pid, startTicks } = started.identity;
  access.take(started.link);
  writeState(directory, {
    ...state,
    init_process_pid: pid,
    init_process_start: Number(startTicks),
    intel_rdt_path: findResctrl(access.id, config.intelRdt)?.group ?? "",
    intel_rdt_mon_path: findResctrl(access.id, config.intelRdt)?.monitor ?? "",
    namespace_paths: namespacePaths(config, pid),
    external_descriptors: [0, 1, 2].map((fd) => linkOf(`/proc/${pid}/fd/${fd}`)),
    caisson: {
      ...state.caisson,
      boot_id: bootId(),
      shape: started.shape,
      terminal: process.spec.terminal === true,
      made_parents: madeParents,
      ...attachableOf(process),
    },
  });
  process.started({ ...started, ended: access.initEnded, signal });
}

function attachableOf({ spec }: Process): Pick<SavedState["caisson"], "attachable"> {
  return spec.attachable === undefined ? {} : { attachable: spec.attachable };
}

/** libcontainer's names of the types. */
const savedTypes = {
  user: "NEWUSER",
  ipc: "NEWIPC",
  uts: "NEWUTS",
  net: "NEWNET",
  pid: "NEWPID",
  mnt: "NEWNS",
  cgroup: "NEWCGROUP",
  time: "NEWTIME",
};

function namespacePaths(config: Config, pid: number): Record<string, string> {
  return Object.fromEntries((config.namespaces ?? []).map(({ type }) => [savedTypes[type], `/proc/${pid}/ns/${type}`]));
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    // An ordinary user cannot look into a process that waits for its release.
    if (errnoName(error) === "ENOENT" || errnoName(error) === "EACCES") return "";
    throw error;
  }
}
