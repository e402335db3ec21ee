/** What all plugins together want of a container that is about to be made, and of others. */
import {
  type Container,
  ContainerAdjustment,
  type ContainerEviction,
  type ContainerUpdate,
  type CreateContainerResponse,
  Field,
  Hooks,
  LinuxContainer,
  LinuxContainerAdjustment,
  LinuxRdt,
} from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { applyEntries, applyMap, type Claims, mergeEntries, mergeMap } from "./merge-keyed.ts";
import { applyResources, mergeResources } from "./merge-resources.ts";
import { Owners } from "./owners.ts";
import { Updates } from "./updates.ts";

const hookLists = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
const noAdjustment = ContainerAdjustment.create({ linux: LinuxContainerAdjustment.create() });

export class Adjustments {
  readonly owners = new Owners();
  /** As the runtime would have made it. */
  readonly pristine: Container;
  readonly #updates: Updates;
  readonly #evictions: ContainerEviction[] = [];
  #all: ContainerAdjustment = noAdjustment;

  constructor(container: Container) {
    this.pristine = container;
    this.#updates = new Updates(this.owners);
  }

  get adjustment(): ContainerAdjustment {
    return this.#all;
  }

  get updates(): readonly ContainerUpdate[] {
    return this.#updates.all;
  }

  get evictions(): readonly ContainerEviction[] {
    return this.#evictions;
  }

  /** As the next plugin sees it. */
  get container(): Container {
    return adjusted(this.pristine, this.#all);
  }

  /** @throws RuntimeError failed_precondition that names both plugins when two want the same thing. */
  add(plugin: string, { adjust, update, evict }: CreateContainerResponse): void {
    if (adjust !== undefined) this.#all = this.#merge(plugin, adjust);
    if (update.some(({ containerId }) => containerId === this.pristine.id)) {
      throw new RuntimeError("invalid_argument", `NRI plugin ${plugin} updates a container that it is asked to adjust`);
    }
    this.#updates.add(plugin, update);
    this.#evictions.push(...evict);
  }

  #merge(plugin: string, wanted: ContainerAdjustment): ContainerAdjustment {
    const { id } = this.pristine;
    const keyed = (field: Field): Claims => ({
      claim: (key) => this.owners.claim(id, field, key, plugin),
      clear: (key) => this.owners.clear(id, field, key),
    });
    const before = this.#all;
    return {
      annotations: mergeMap(before.annotations, wanted.annotations, keyed(Field.Annotations)),
      mounts: mergeEntries(before.mounts, wanted.mounts, ({ destination }) => destination, keyed(Field.Mounts)),
      env: mergeEntries(before.env, wanted.env, ({ key }) => key, keyed(Field.Env)),
      hooks: this.#mergeHooks(plugin, wanted.hooks),
      linux: this.#mergeLinux(plugin, wanted.linux, keyed),
      rlimits: mergeEntries(before.rlimits, wanted.rlimits, ({ type }) => type, keyed(Field.Rlimits)),
      CDIDevices: mergeEntries(before.CDIDevices, wanted.CDIDevices, ({ name }) => name, keyed(Field.CdiDevices)),
      args: this.#mergeArgs(plugin, wanted.args),
    };
  }

  /** An empty first one takes away what another plugin wants. */
  #mergeArgs(plugin: string, [first, ...rest]: readonly string[]): string[] {
    if (first === undefined) return this.#all.args;
    if (first === "") this.owners.clear(this.pristine.id, Field.Args, "");
    this.owners.claim(this.pristine.id, Field.Args, "", plugin);
    return first === "" ? rest : [first, ...rest];
  }

  #mergeHooks(plugin: string, wanted: Hooks | undefined): Hooks | undefined {
    const before = this.#all.hooks;
    if (wanted === undefined || hookLists.every((list) => wanted[list].length === 0)) return before;
    this.owners.share(this.pristine.id, Field.OciHooks, plugin);
    return joinedHooks(before, wanted);
  }

  #mergeLinux(
    plugin: string,
    wanted: LinuxContainerAdjustment | undefined,
    keyed: (field: Field) => Claims,
  ): LinuxContainerAdjustment {
    const before = this.#all.linux ?? LinuxContainerAdjustment.create();
    if (wanted === undefined) return before;
    const { id } = this.pristine;
    const single = <T>(field: Field, now: T, next: T): T => {
      if (next === undefined || next === "") return now;
      this.owners.claim(id, field, "", plugin);
      return next;
    };
    const { resources } = wanted;
    return {
      devices: mergeEntries(before.devices, wanted.devices, ({ path }) => path, keyed(Field.Devices)),
      resources:
        resources === undefined ? before.resources : mergeResources(before.resources, resources, this.owners, id, plugin),
      cgroupsPath: single(Field.CgroupsPath, before.cgroupsPath, wanted.cgroupsPath),
      oomScoreAdj: single(Field.OomScoreAdj, before.oomScoreAdj, wanted.oomScoreAdj),
      ioPriority: single(Field.IoPriority, before.ioPriority, wanted.ioPriority),
      seccompPolicy: single(Field.SeccompPolicy, before.seccompPolicy, wanted.seccompPolicy),
      namespaces: mergeEntries(before.namespaces, wanted.namespaces, ({ type }) => type, keyed(Field.Namespace)),
      sysctl: mergeMap(before.sysctl, wanted.sysctl, keyed(Field.Sysctl)),
      netDevices: mergeMap(before.netDevices, wanted.netDevices, keyed(Field.LinuxNetDevices)),
      scheduler: single(Field.LinuxSched, before.scheduler, wanted.scheduler),
      rdt: this.#mergeRdt(before.rdt, wanted.rdt, single),
      memoryPolicy: single(Field.MemoryPolicy, before.memoryPolicy, wanted.memoryPolicy),
    };
  }

  #mergeRdt(
    before: LinuxRdt | undefined,
    wanted: LinuxRdt | undefined,
    single: <T>(field: Field, now: T, next: T) => T,
  ): LinuxRdt | undefined {
    if (wanted === undefined) return before;
    const fields = [Field.RdtClosID, Field.RdtSchemata, Field.RdtEnableMonitoring];
    if (wanted.remove) for (const field of fields) this.owners.clear(this.pristine.id, field, "");
    const base = wanted.remove || before === undefined ? LinuxRdt.create() : before;
    return {
      closId: single(Field.RdtClosID, base.closId, wanted.closId),
      schemata: single(Field.RdtSchemata, base.schemata, wanted.schemata),
      enableMonitoring: single(Field.RdtEnableMonitoring, base.enableMonitoring, wanted.enableMonitoring),
      remove: wanted.remove || (before?.remove ?? false),
    };
  }
}

function joinedHooks(before: Hooks = Hooks.create(), wanted: Hooks = Hooks.create()): Hooks {
  const joined = Hooks.create();
  for (const list of hookLists) joined[list] = [...before[list], ...wanted[list]];
  return joined;
}

const variableName = (entry: string): string => entry.split("=", 1)[0] ?? "";

/** The message of a container with what is wanted of it. */
export function adjusted(container: Container, wanted: ContainerAdjustment): Container {
  const linux = container.linux ?? LinuxContainer.create();
  const changes = wanted.linux ?? LinuxContainerAdjustment.create();
  return {
    ...container,
    annotations: applyMap(container.annotations, wanted.annotations),
    args: wanted.args.length > 0 ? wanted.args : container.args,
    env: applyEntries(
      container.env,
      variableName,
      wanted.env,
      ({ key }) => key,
      ({ key, value }) => `${key}=${value}`,
    ),
    mounts: sameEntries(container.mounts, wanted.mounts, ({ destination }) => destination),
    hooks: joinedHooks(container.hooks, wanted.hooks),
    rlimits: sameEntries(container.rlimits, wanted.rlimits, ({ type }) => type),
    linux: {
      ...linux,
      namespaces: sameEntries(linux.namespaces, changes.namespaces, ({ type }) => type),
      devices: sameEntries(linux.devices, changes.devices, ({ path }) => path),
      resources: applyResources(linux.resources, changes.resources),
      oomScoreAdj: changes.oomScoreAdj ?? linux.oomScoreAdj,
      cgroupsPath: changes.cgroupsPath || linux.cgroupsPath,
      ioPriority: changes.ioPriority ?? linux.ioPriority,
      seccompPolicy: changes.seccompPolicy ?? linux.seccompPolicy,
      sysctl: applyMap(linux.sysctl, changes.sysctl),
      netDevices: applyMap(linux.netDevices, changes.netDevices),
      scheduler: changes.scheduler ?? linux.scheduler,
      rdt: changes.rdt ?? linux.rdt,
    },
  };
}

function sameEntries<T>(list: readonly T[], changes: readonly T[], keyOf: (entry: T) => string): T[] {
  return applyEntries(list, keyOf, changes, keyOf, (entry) => entry);
}
