/** A container before it has any process: its directory and its state. */
import { mkdirSync } from "node:fs";
import { resolve } from "node:path/posix";
import { codeOf } from "../../lib/errors.ts";
import { randomHex } from "../../lib/random.ts";
import { checkConfig } from "./check-config.ts";
import type { Config } from "./config.ts";
import { bootId, ContainerAccess } from "./container-access.ts";
import { cgroupOf, missingParents, refuseUsedCgroup } from "./container-cgroup.ts";
import { checkId } from "./container-id.ts";
import { lockContainer } from "./directory-lock.ts";
import { alreadyExists } from "./errors.ts";
import { findMachine } from "./machine.ts";
import { withNamespacePaths } from "./other-namespaces.ts";
import { readState, type SavedState, writeState } from "./saved-state.ts";
import { sharedParents } from "./shared-parents.ts";

/** @throws RuntimeError as Container.create() says. */
export async function makeContainer(stateDir: string, id: string, asked: Config): Promise<ContainerAccess> {
  checkId(id);
  const config = withNamespacePaths(asked, resolve(stateDir, id));
  const machine = await findMachine();
  checkConfig(config, machine);
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const directory = resolve(stateDir, id);
  if (isContainer(directory)) throw alreadyExists();
  const cgroup = cgroupOf(machine, id, config);
  await refuseUsedCgroup(cgroup);
  mkdirSync(directory, { recursive: true, mode: 0o711 });
  using lock = await lockContainer(directory);
  // A directory without a state is what a process left that was killed right here.
  if (lock === undefined || isContainer(directory)) throw alreadyExists();
  const madeParents = [...new Set([...sharedParents(stateDir, cgroup), ...missingParents(cgroup)])];
  writeState(directory, {
    id,
    init_process_pid: 0,
    init_process_start: 0,
    created: new Date().toISOString(),
    config,
    rootless: machine.caller !== undefined,
    cgroup_paths: Object.fromEntries(cgroup.cgroups.directories(cgroup.path)),
    namespace_paths: {},
    external_descriptors: [],
    intel_rdt_path: "",
    intel_rdt_mon_path: "",
    caisson: { shim_id: randomHex(32), boot_id: bootId(), made_parents: madeParents },
  });
  return new ContainerAccess(machine, id, directory);
}

function isContainer(directory: string): boolean {
  return stateOrUndefined(directory) !== undefined;
}

/** undefined: there is no container. */
export function stateOrUndefined(directory: string): SavedState | undefined {
  try {
    return readState(directory);
  } catch (error) {
    if (codeOf(error) === "not_found") return undefined;
    throw error;
  }
}
