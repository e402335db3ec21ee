/** A container's cgroup in every hierarchy of this machine. */
import { existsSync } from "node:fs";
import { readFile, rmdir } from "node:fs/promises";
import { basename } from "node:path/posix";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import type { OciResources } from "../oci.ts";
import type { CgroupMetrics, CgroupStats, ResourceChange } from "../runtime.ts";
import { childCgroups, readCgroupFile, readCgroupFiles, removeCgroupOnce, removeCgroupTree } from "./cgroup-files.ts";
import { freezerOf, isFrozen, setFrozen } from "./cgroup-freezer.ts";
import { killEverything, processesIn } from "./cgroup-kill.ts";
import { makeEverywhere } from "./cgroup-make.ts";
import { type MetricsSources, readMetrics } from "./cgroup-metrics.ts";
import { refuseThreadedAt } from "./cgroup-obstacles.ts";
import { cleanCgroupPath } from "./cgroup-path.ts";
import {
  type CgroupPlace,
  directoriesOf,
  directoryOf,
  type HierarchyMounts,
  hierarchyMounts,
  killPathsOf,
  oomPathOf,
  placeOf,
  taskFilesOf,
} from "./cgroup-place.ts";
import { readStats, type StatsPlaces } from "./cgroup-stats.ts";
import { DeviceNames } from "./device-names.ts";
import { findHierarchies, type Hierarchies } from "./hierarchies.ts";
import { hugePageSizes } from "./hugepages.ts";
import { applyResources, changeResources } from "./resource-apply.ts";
import type { DeviceProperties } from "./systemd-properties.ts";

/** A cgroup as plans and the shim need it. */
export interface CgroupUse {
  /** v2 directory to be born in, or empty. */
  readonly into: string;
  readonly taskFiles: readonly string[];
  readonly killPaths: readonly string[];
  readonly oomPath: string;
  readonly mounts: HierarchyMounts;
  /** Directory of the v1 devices controller, or of v2: where device rules go. */
  readonly devices: { readonly version: 1 | 2; readonly directory: string } | undefined;
  /** Root of the v2 hierarchy, or empty. */
  readonly unifiedRoot: string;
}

/** The first process of a new cgroup, waiting to be let in. */
export interface Entrant {
  readonly pid: number;
  readonly containerId: string;
  readonly resources: OciResources;
  /** For a driver that has to know the device rules; the caller puts them in force. */
  readonly devices: DeviceProperties;
}

/** The cgroupfs driver, and what the systemd driver builds on. */
export class Cgroups implements Disposable {
  readonly hierarchies: Hierarchies;
  readonly deviceNames = new DeviceNames(readCgroupFiles);
  #pageSizes: Promise<readonly string[]> | undefined;

  constructor(hierarchies: Hierarchies) {
    this.hierarchies = hierarchies;
  }

  /** Reads the mount table. `failed_precondition` when no cgroup is mounted. */
  static async find(): Promise<Cgroups> {
    const mountinfo = await readFile("/proc/self/mountinfo", "utf8");
    const controllersOf = async (mountPoint: string) =>
      ((await readCgroupFile(`${mountPoint}/cgroup.controllers`)) ?? "").split(" ").filter((name) => name !== "");
    return new Cgroups(await findHierarchies(mountinfo, controllersOf));
  }

  /** What plans say of the cgroup at this path, whether it exists or not. */
  use(path: string): CgroupUse {
    const place = this.place(path);
    return {
      into: place.unified ?? "",
      taskFiles: taskFilesOf(place),
      killPaths: killPathsOf(place),
      oomPath: oomPathOf(this.hierarchies, place),
      mounts: hierarchyMounts(this.hierarchies, place),
      devices: directoryOf(this.hierarchies, place, "devices"),
      unifiedRoot: this.hierarchies.unified?.root ?? this.hierarchies.unified?.mountPoint ?? "",
    };
  }

  /** Whether the cgroup at this path is only made around its first process, by `admit`, and not by `make`. */
  needsProcess(_path: string): boolean {
    return false;
  }

  async admit(path: string, _entrant: Entrant): Promise<void> {
    throw new RuntimeError("internal", `the cgroup ${path} needs no process to be made`);
  }

  /** Sentences about what the driver lacks now. */
  async limitations(): Promise<readonly string[]> {
    return [];
  }

  [Symbol.dispose](): void {}

  /** Makes the cgroup and its parents and sets the resources. When it fails, the cgroup itself is gone again. */
  async make(path: string, resources: OciResources): Promise<void> {
    const place = this.place(path);
    try {
      makeEverywhere(this.hierarchies, place.path);
      applyResources(this.hierarchies, place, resources);
    } catch (error) {
      await this.remove(path).catch(() => {});
      throw error;
    }
  }

  async change(path: string, resources: OciResources): Promise<ResourceChange> {
    return await changeResources(this.hierarchies, this.place(path), resources);
  }

  async remove(path: string, signal?: AbortSignal): Promise<void> {
    await Promise.all(directoriesOf(this.place(path)).map((directory) => removeCgroupTree(directory, signal)));
  }

  /** Whether it exists in any hierarchy. */
  exists(path: string): boolean {
    return directoriesOf(this.place(path)).some((directory) => existsSync(directory));
  }

  /** Names of those right below it, in any hierarchy. */
  async namesIn(path: string): Promise<readonly string[]> {
    const below = await Promise.all(directoriesOf(this.place(path)).map(childCgroups));
    return [...new Set(below.flat().map((directory) => basename(directory)))];
  }

  /** Whether it exists in every hierarchy. */
  isWhole(path: string): boolean {
    return directoriesOf(this.place(path)).every((directory) => existsSync(directory));
  }

  /** @throws RuntimeError failed_precondition where it is, or would be, a threaded cgroup of v2. */
  refuseThreaded(path: string): void {
    const { unified } = this.place(path);
    if (unified !== undefined) refuseThreadedAt(unified);
  }

  /** Removes the cgroup where nothing lives in it; where something does, it stays. */
  async removeIfEmpty(path: string): Promise<void> {
    await Promise.all(directoriesOf(this.place(path)).map((directory) => rmdir(directory).catch(() => {})));
  }

  /** Removes the cgroup whatever is in it. Usually nothing is, and then nobody looks. */
  async clear(path: string, signal: AbortSignal): Promise<void> {
    const directories = directoriesOf(this.place(path));
    const removed = await Promise.all(directories.map((directory) => removeCgroupOnce(directory)));
    if (removed.every((gone) => gone)) return;
    await this.kill(path, signal);
    await this.remove(path, signal);
  }

  /** Whether it is frozen itself, and not only as a part of a frozen ancestor. */
  async frozen(path: string): Promise<boolean> {
    return await isFrozen(this.place(path));
  }

  /** Freezes it or lets it go on; resolves when that is so. When freezing fails nothing stays frozen. */
  async setFrozen(path: string, frozen: boolean, signal: AbortSignal): Promise<void> {
    await setFrozen(this.place(path), frozen, signal);
  }

  /** Directory by which it is frozen: of the v1 freezer, or of v2. */
  freezer(path: string): string {
    const directory = freezerOf(this.place(path));
    if (directory === undefined) throw new RuntimeError("failed_precondition", "freezer not supported");
    return directory;
  }

  /** Pids in it and below it as this process sees them; empty when it is missing. */
  async processes(path: string): Promise<readonly number[]> {
    const place = this.place(path);
    const reference = directoryOf(this.hierarchies, place, "devices")?.directory ?? directoriesOf(place)[0];
    return reference === undefined ? [] : await processesIn(reference);
  }

  /** By hierarchyKey, "" for v2. */
  directories(path: string): ReadonlyMap<string, string> {
    const place = this.place(path);
    const unified: readonly [string, string][] = place.unified === undefined ? [] : [["", place.unified]];
    return new Map([
      ...place.v1.map(({ controllers, directory }): [string, string] => [controllers.join(","), directory]),
      ...unified,
    ]);
  }

  async kill(path: string, signal: AbortSignal): Promise<void> {
    await killEverything(this.place(path), signal);
  }

  async stats(path: string, nowNs: () => bigint): Promise<CgroupStats | undefined> {
    return await readStats(this.#statsPlaces(path), readCgroupFiles, nowNs);
  }

  async metrics(path: string, nowNs: () => bigint): Promise<CgroupMetrics | undefined> {
    this.#pageSizes ??= hugePageSizes();
    const sources: MetricsSources = {
      pageSizes: await this.#pageSizes,
      read: readCgroupFiles,
      countDescriptors: addon.countDescriptors,
      deviceName: (major, minor) => this.deviceNames.of(major, minor),
    };
    return await readMetrics(this.#statsPlaces(path), sources, nowNs);
  }

  #statsPlaces(path: string): StatsPlaces {
    const place = this.place(path);
    const at = (controller: string) => directoryOf(this.hierarchies, place, controller);
    return {
      cpu: at("cpu"),
      cpuacct: at("cpuacct"),
      memory: at("memory"),
      pids: at("pids"),
      io: at("blkio") ?? at("io"),
      hugetlb: at("hugetlb"),
      unified: place.unified,
    };
  }

  protected place(path: string): CgroupPlace {
    return placeOf(this.hierarchies, cleanCgroupPath(path));
  }
}
