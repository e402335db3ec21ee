/** Where a container's cgroup is, and what had to be made above it. */
import { existsSync } from "node:fs";
import { dirname, join, normalize } from "node:path/posix";
import { codeOf, RuntimeError } from "../../lib/errors.ts";
import type { Cgroups } from "../cgroup/cgroups.ts";
import { Cgroups as CgroupsOf } from "../cgroup/cgroups.ts";
import { type Hierarchies, hierarchiesBelow, hierarchyKey } from "../cgroup/hierarchies.ts";
import { SystemdCgroups } from "../cgroup/systemd-cgroups.ts";
import { setDeviceRules } from "../device/device-cgroup.ts";
import { deviceProperties } from "../device/device-properties.ts";
import { completeRule } from "../device/device-rules.ts";
import { scopeAt } from "./cgroup-scope.ts";
import type { CgroupConfig, Config } from "./config.ts";
import { delegatedAt, refuseUndelegated, withRemedy } from "./delegated-cgroups.ts";
import type { Machine } from "./machine.ts";
import { translateResources } from "./translate.ts";

/** A cgroup in every hierarchy: `path` below where the paths of `cgroups` begin. */
export interface ContainerCgroup {
  readonly cgroups: Cgroups;
  readonly path: string;
  /** Of an ordinary user: `cgroups` has the hierarchies that were handed over to it. */
  readonly delegated: boolean;
}

/** Without a word the cgroup is named for the container, below the caller's own. */
export function cgroupOf(machine: Machine, id: string, config: Config): ContainerCgroup {
  const inner = innerPath(config.cgroups, id);
  if (config.cgroups?.systemd === true)
    return { cgroups: new SystemdCgroups(machine.cgroups.hierarchies, machine.systemd), path: inner, delegated: false };
  const absolute = inner.startsWith("/");
  // Cleaned as if rooted where it begins: it cannot climb.
  const path = normalize(`/${inner}`);
  const cgroups = absolute ? machine.cgroups : machine.ownCgroups;
  if (machine.caller === undefined) return { cgroups, path, delegated: false };
  const handedOver = delegatedAt(cgroups.hierarchies, path, machine.ownPaths);
  refuseUndelegated(config, handedOver);
  return { cgroups: new CgroupsOf(handedOver), path, delegated: true };
}

function innerPath(config: CgroupConfig = {}, id: string): string {
  if (config.systemd === true) return scopeAt(config, id);
  const { path, parent = "", name } = config;
  if (path !== undefined && path !== "") return path;
  return join(parent, name ?? id);
}

/** As recorded: by another process the caller's own cgroup is another one. */
export function recordedCgroup(
  machine: Machine,
  id: string,
  config: Config,
  recorded: Readonly<Record<string, string>>,
): ContainerCgroup {
  const path = normalize(`/${innerPath(config.cgroups, id)}`);
  const all = machine.cgroups.hierarchies;
  const hierarchies: Hierarchies = {
    version: all.version,
    v1: all.v1.filter((hierarchy) => hierarchyKey(hierarchy) in recorded),
    unified: "" in recorded ? all.unified : undefined,
  };
  const own = (key: string, mountPoint: string): [string, string] => {
    const directory = recorded[key];
    if (directory === undefined || !directory.startsWith(`${mountPoint}/`) || !directory.endsWith(path)) return [key, ""];
    return [key, directory.slice(mountPoint.length, directory.length - path.length)];
  };
  const below = new Map([
    ...hierarchies.v1.map((hierarchy) => own(hierarchyKey(hierarchy), hierarchy.mountPoint)),
    ...(hierarchies.unified === undefined ? [] : [own("", hierarchies.unified.mountPoint)]),
  ]);
  const found = hierarchiesBelow(hierarchies, below);
  const cgroups = config.cgroups?.systemd === true ? new SystemdCgroups(found, machine.systemd) : new CgroupsOf(found);
  return { cgroups, path, delegated: machine.caller !== undefined };
}

/** @throws RuntimeError failed_precondition when something lives in it, or it is frozen or threaded. */
export async function refuseUsedCgroup({ cgroups, path }: ContainerCgroup): Promise<void> {
  cgroups.refuseThreaded(path);
  const count = (await cgroups.processes(path)).length;
  if (count > 0) throw new RuntimeError("failed_precondition", `container's cgroup is not empty: ${count} process(es) found`);
  if (await cgroups.frozen(path)) throw new RuntimeError("failed_precondition", "container's cgroup unexpectedly frozen");
}

/** Cgroups above this one that do not exist in every hierarchy, topmost first: making it makes them. */
export function missingParents({ cgroups, path }: ContainerCgroup): readonly string[] {
  const missing: string[] = [];
  for (let parent = dirname(path); parent !== "/"; parent = dirname(parent)) {
    if (![...cgroups.directories(parent).values()].every((directory) => existsSync(directory))) missing.unshift(parent);
  }
  return missing;
}

/** One that systemd makes comes later, around its first process: `admitProcess`. */
export async function makeCgroup(at: ContainerCgroup, config: Config): Promise<void> {
  if (at.cgroups.needsProcess(at.path)) return;
  await explained(at, at.cgroups.make(at.path, translateResources(config.cgroups?.resources ?? {})));
  applyRules(at, config);
}

/** The process waits: it goes on in its cgroup, with all limits and rules in force. */
export async function admitProcess(at: ContainerCgroup, containerId: string, config: Config, pid: number): Promise<void> {
  const resources = translateResources(config.cgroups?.resources ?? {});
  const devices = deviceProperties(resources.devices ?? []);
  await at.cgroups.admit(at.path, { pid, containerId, resources, devices });
  applyRules(at, config);
}

/** Device rules last: they are the only resource that takes something away for a moment, and never gives too much. */
export async function changeCgroup(at: ContainerCgroup, config: Config): Promise<void> {
  await explained(at, at.cgroups.change(at.path, translateResources(config.cgroups?.resources ?? {})));
  applyRules(at, config);
}

/** @throws RuntimeError failed_precondition where there is no freezer. */
export async function freezeCgroup(at: ContainerCgroup, frozen: boolean, signal: AbortSignal): Promise<void> {
  await explained(at, at.cgroups.setFrozen(at.path, frozen, signal));
}

async function explained({ delegated }: ContainerCgroup, work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    throw delegated && codeOf(error) === "failed_precondition" ? withRemedy(error) : error;
  }
}

/** An ordinary user's container has no device nodes but those that its user can open anyway: no rule could take or give anything. */
function applyRules({ cgroups, path, delegated }: ContainerCgroup, config: Config): void {
  if (delegated) return;
  const place = cgroups.use(path).devices;
  const { devices } = translateResources(config.cgroups?.resources ?? {});
  if (place !== undefined) setDeviceRules(place, (devices ?? []).map(completeRule));
}

/** Kills what is in it, and removes it with those parents that were made for it and are empty now. */
export async function removeCgroup(
  { cgroups, path }: ContainerCgroup,
  madeParents: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await cgroups.clear(path, signal);
  for (const parent of madeParents.toReversed()) await cgroups.removeIfEmpty(parent);
}
