/**
 * The systemd driver: a container's cgroup is a transient scope below a slice. systemd makes it around the waiting first process, in the
 * hierarchies that it manages; the others, and everything that is no property of a unit, are done as without it.
 *
 *   child              daemon                         systemd
 *   | barrier 0 ---->  |                                |
 *   |                  | StartTransientUnit(PIDs) ----> |  makes the cgroup, moves the child
 *   |                  | <------------------ JobRemoved |
 *   |                  | other hierarchies, exact values, device rules
 *   | <--------- go on |
 */
import { readFile } from "node:fs/promises";
import { messageOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import type { OciResources } from "../oci.ts";
import type { ResourceChange } from "../runtime.ts";
import { childCgroups, readCgroupFile } from "./cgroup-files.ts";
import { makeEverywhere } from "./cgroup-make.ts";
import { cleanCgroupPath } from "./cgroup-path.ts";
import { directoriesOf } from "./cgroup-place.ts";
import { Cgroups, type Entrant } from "./cgroups.ts";
import { type Hierarchies, locate } from "./hierarchies.ts";
import { applyResources, changeResources } from "./resource-apply.ts";
import { isUnreachable, type Systemd } from "./systemd.ts";
import { type Unit, unitAt } from "./systemd-names.ts";
import { type PropertyContext, resourceProperties, scopeProperties } from "./systemd-properties.ts";

export class SystemdCgroups extends Cgroups {
  readonly #systemd: Systemd;

  constructor(hierarchies: Hierarchies, systemd: Systemd) {
    super(hierarchies);
    this.#systemd = systemd;
  }

  override needsProcess(path: string): boolean {
    return scopeAt(path) !== undefined;
  }

  /** When it fails, the scope goes with the process, which the caller ends. */
  override async admit(path: string, entrant: Entrant): Promise<void> {
    const unit = scopeAt(path);
    if (unit === undefined) throw new RuntimeError("invalid_argument", `cgroup ${path} is not a scope of systemd in a slice`);
    const { pid, containerId, resources } = entrant;
    const context = await this.#context();
    // On v2 our own program guards the devices, and systemd leaves it alone. On v1 it would open all when it looks at the unit again.
    const devices = locate(this.hierarchies, "devices")?.version === 1 ? entrant.devices : undefined;
    const properties = scopeProperties({ containerId, slice: unit.slice, pid, resources, devices }, context);
    try {
      await this.#systemd.startTransient(unit.name, properties);
      await this.#checkPlace(path, pid);
      const place = this.place(path);
      makeEverywhere(this.hierarchies, place.path);
      applyResources(this.hierarchies, place, resources);
    } catch (error) {
      // Not waited for: the process is not ours to end, and its end completes it. A job that is still queued is taken back.
      this.#systemd.stop(unit.name).catch(() => {});
      throw error;
    }
  }

  /**
   * All or nothing. The cgroup's files come first, as they tell best what is wrong, and last, as systemd rounds. Both have to be put
   * back: systemd would write what it knows again whenever it looks at the unit.
   */
  override async change(path: string, resources: OciResources): Promise<ResourceChange> {
    const unit = scopeAt(path);
    if (unit === undefined) return await super.change(path, resources);
    const place = this.place(path);
    const properties = resourceProperties(resources, await this.#context());
    const former = await this.#systemd.scopeProperties(unit.name, properties);
    const files = await changeResources(this.hierarchies, place, resources);
    try {
      await this.#systemd.setProperties(unit.name, properties);
    } catch (error) {
      await files.undo();
      throw error;
    }
    const undo = async (): Promise<void> => {
      try {
        await this.#systemd.setProperties(unit.name, former);
      } finally {
        await files.undo();
      }
    };
    try {
      await changeResources(this.hierarchies, place, resources);
    } catch (error) {
      await undo().catch((undoing: unknown) => {
        throw wrapError(`${messageOf(error)}; putting back the former values failed`, undoing);
      });
      throw error;
    }
    return { undo };
  }

  override async remove(path: string, signal?: AbortSignal): Promise<void> {
    await this.#stop(path);
    await super.remove(path, signal);
  }

  override async removeIfEmpty(path: string): Promise<void> {
    if (await this.#isEmpty(path)) await this.#stop(path);
    await super.removeIfEmpty(path);
  }

  /** Killed first: systemd would send SIGTERM and wait. */
  override async clear(path: string, signal: AbortSignal): Promise<void> {
    if (this.#unitAt(path) === undefined) return await super.clear(path, signal);
    if (!this.exists(path)) return;
    await this.kill(path, signal);
    await this.remove(path, signal);
  }

  override async limitations(): Promise<readonly string[]> {
    try {
      await this.#systemd.version();
      return [];
    } catch (error) {
      return [`no container can be created: ${messageOf(error)}`];
    }
  }

  override [Symbol.dispose](): void {
    this.#systemd[Symbol.dispose]();
  }

  async #context(): Promise<PropertyContext> {
    const versionOf = (controller: string) => locate(this.hierarchies, controller)?.version;
    return { versionOf, systemdVersion: await this.#systemd.version() };
  }

  /**
   * The cgroup of a scope goes with its last process by itself, and the unit with it. Where systemd cannot be reached, the rest goes
   * without it: it notices.
   */
  async #stop(path: string): Promise<void> {
    const unit = this.#unitAt(path);
    if (unit === undefined || !this.exists(path)) return;
    await this.#systemd.stop(unit.name).catch((error: unknown) => {
      if (!isUnreachable(error)) throw error;
    });
  }

  /** A process elsewhere than the limits would have none (CVE-2025-47291). */
  async #checkPlace(path: string, pid: number): Promise<void> {
    const lines = (await readFile(`/proc/${pid}/cgroup`, "utf8")).split("\n");
    const wanted = this.hierarchies.unified === undefined ? /^\d+:name=systemd:(.*)$/ : /^0::(.*)$/;
    const at = lines.map((line) => wanted.exec(line)?.[1]).find((found) => found !== undefined);
    if (at === cleanCgroupPath(path)) return;
    throw new RuntimeError("internal", `systemd put process ${pid} into the cgroup ${at ?? "(none)"}, not into ${path}`);
  }

  async #isEmpty(path: string): Promise<boolean> {
    for (const directory of directoriesOf(this.place(path))) {
      if ((await childCgroups(directory)).length > 0) return false;
      if (((await readCgroupFile(`${directory}/cgroup.procs`)) ?? "") !== "") return false;
    }
    return true;
  }

  #unitAt(path: string): Unit | undefined {
    return unitAt(cleanCgroupPath(path));
  }
}

function scopeAt(path: string): Unit | undefined {
  const unit = unitAt(cleanCgroupPath(path));
  return unit?.kind === "scope" ? unit : undefined;
}
