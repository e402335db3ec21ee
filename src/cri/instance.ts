/** Which installation this is, and in which boot; both are marked on every object. */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errnoName, RuntimeError } from "../lib/errors.ts";
import type { Store } from "../store/store.ts";
import type { CriApp, CriConfig } from "./app-types.ts";

type Directories = Pick<CriConfig, "rootDir" | "stateDir">;

interface Mark {
  readonly id: string;
  readonly bootId: string;
}

/**
 * The id lies in the store and in the state directory, so that either can be lost. A state directory of another installation with live
 * pods would make both sweep each other's objects: refused.
 */
export async function identifyInstance(app: { readonly store: Store; readonly config: Directories }): Promise<Mark> {
  const bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  const settings = app.store.collection<string>("settings");
  const stored = settings.load().get("instance");
  const marked = await readMark(app.config, bootId);
  if (stored !== undefined && marked !== undefined && stored !== marked) {
    throw new RuntimeError(
      "failed_precondition",
      `${app.config.stateDir} belongs to another installation than ${app.config.rootDir}; give this daemon its own --state, or the other's --root`,
    );
  }
  const id = stored ?? marked ?? randomUUID();
  if (stored === undefined) settings.put("instance", id);
  await writeMark(app.config, { id, bootId });
  return { id, bootId };
}

const markPath = (config: Directories): string => join(config.stateDir, "instance.json");

/** Undefined when there is none, or one from before the last boot. */
async function readMark(config: Directories, bootId: string): Promise<string | undefined> {
  try {
    const mark = JSON.parse(await readFile(markPath(config), "utf8")) as Partial<Mark>;
    return mark.bootId === bootId && typeof mark.id === "string" ? mark.id : undefined;
  } catch (error) {
    if (errnoName(error) === "ENOENT" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** A full disk must not keep the daemon from coming back: the store has the id as well. */
async function writeMark(config: Directories, mark: Mark): Promise<void> {
  try {
    await mkdir(config.stateDir, { recursive: true, mode: 0o711 });
    await writeFile(`${markPath(config)}.partial`, JSON.stringify(mark), { mode: 0o600 });
    await rename(`${markPath(config)}.partial`, markPath(config));
  } catch (error) {
    if (errnoName(error) !== "ENOSPC") throw error;
  }
}

export type CgroupDriver = "cgroupfs" | "systemd";

/**
 * The driver to work with. `auto` keeps what the node has had, so that an upgrade changes nothing under living pods; a new node takes
 * systemd where that is process 1. `failed_precondition` when systemd is asked for and is not there.
 */
export function chooseCgroupDriver(store: Store, asked: CgroupDriver | "auto", systemdRuns: boolean): CgroupDriver {
  if (asked === "systemd" && !systemdRuns) {
    throw new RuntimeError(
      "failed_precondition",
      `runtime.cgroup_driver is systemd, but systemd does not run here; set it to cgroupfs, and the kubelet's cgroupDriver too`,
    );
  }
  if (asked !== "auto") return asked;
  const before = store.collection<string>("settings").load().get("cgroup-driver");
  if (before === "cgroupfs" || (before === "systemd" && systemdRuns)) return before;
  return systemdRuns ? "systemd" : "cgroupfs";
}

/** The driver decides where containers' cgroups are: it cannot change under them. */
export function checkCgroupDriver(app: CriApp): void {
  const settings = app.store.collection<string>("settings");
  const before = settings.load().get("cgroup-driver");
  const now = app.config.cgroupDriver;
  const live = app.sandboxes.all().filter((record) => record.phase !== "stopped" && record.phase !== "removing").length;
  if (before !== undefined && before !== now && live > 0) {
    throw new RuntimeError(
      "failed_precondition",
      `the cgroup driver was ${before} and is now ${now}, but ${live} pods live; drain the node first or set it back`,
    );
  }
  if (before !== now) settings.put("cgroup-driver", now);
}
