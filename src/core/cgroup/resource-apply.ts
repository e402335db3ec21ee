/** Writes resources to a cgroup: all, or what was there before. */
import { dirname } from "node:path/posix";
import { codeOf, messageOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import type { OciResources } from "../oci.ts";
import type { ResourceChange } from "../runtime.ts";
import { readCgroupFile, readCgroupFileSync, writeCgroupFile, writeCgroupFileSync } from "./cgroup-files.ts";
import { type CgroupPlace, directoryOf } from "./cgroup-place.ts";
import { type Hierarchies, locate } from "./hierarchies.ts";
import { withRoom } from "./memory-room.ts";
import { type ResourceWrite, resourceWrites } from "./resource-writes.ts";

interface Placed extends ResourceWrite {
  readonly path: string;
}

/** For a new cgroup, whose values nobody needs back. */
export function applyResources(hierarchies: Hierarchies, place: CgroupPlace, resources: OciResources): void {
  for (const write of placed(hierarchies, place, resources, undefined)) {
    try {
      settle(write, writeCgroupFileSync(write.path, write.value));
    } catch (error) {
      throw explained(write, error);
    }
  }
}

/** For a cgroup in use. When a value is refused, the former ones are put back, newest first. */
export async function changeResources(
  hierarchies: Hierarchies,
  place: CgroupPlace,
  resources: OciResources,
): Promise<ResourceChange> {
  const current = await currentMemoryLimit(hierarchies, place);
  const former: { path: string; value: string }[] = [];
  const remember = async ({ path }: Placed) => {
    const value = await readCgroupFile(path);
    // An empty list is written as an empty line: a write of nothing is none.
    if (value !== undefined) former.unshift({ path, value: value === "" ? "\n" : value });
  };
  const undo = async (): Promise<void> => {
    for (const { path, value } of former) await writeCgroupFile(path, value);
  };
  try {
    await writeInOrder(placed(hierarchies, place, resources, current), remember);
  } catch (error) {
    await undo().catch((undoing: unknown) => {
      throw wrapError(`${messageOf(error)}; putting back the former values failed`, undoing);
    });
    throw error;
  }
  return { undo };
}

function placed(
  hierarchies: Hierarchies,
  place: CgroupPlace,
  resources: OciResources,
  current: bigint | undefined,
): readonly Placed[] {
  const context = {
    versionOf: (controller: string) => locate(hierarchies, controller)?.version,
    currentMemoryLimit: current,
  };
  return resourceWrites(resources, context).map((write) => {
    const directory =
      write.controller === "cgroup" ? place.unified : directoryOf(hierarchies, place, write.controller)?.directory;
    if (directory === undefined) {
      throw new RuntimeError(
        "failed_precondition",
        `this node has no cgroup controller ${write.controller}: ${write.file} cannot be set`,
      );
    }
    return { ...write, path: `${directory}/${write.file}` };
  });
}

async function writeInOrder(writes: readonly Placed[], before: (write: Placed) => Promise<void>): Promise<void> {
  const postponed: Placed[] = [];
  for (const write of writes) {
    await before(write);
    try {
      await writeOne(write);
    } catch (error) {
      // A period may be too short for the quota in force: it goes in after the new quota.
      if (write.file !== "cpu.cfs_period_us" || codeOf(error) !== "invalid_argument") throw error;
      postponed.push(write);
    }
  }
  for (const write of postponed) await writeOne(write);
}

async function writeOne(write: Placed): Promise<void> {
  const put = async (): Promise<void> => settle(write, await writeCgroupFile(write.path, write.value));
  try {
    if (write.file === "memory.max") await withRoom(dirname(write.path), write.value, put);
    else await put();
  } catch (error) {
    throw explained(write, error);
  }
}

function settle({ file, value, path, optional }: Placed, written: boolean): void {
  if (written || optional === true) return;
  throw new RuntimeError(
    "failed_precondition",
    `cannot set ${file} to ${value}: ${path} does not exist (is the controller enabled in the parent cgroup?)`,
    { path },
  );
}

/** The kernel says only EBUSY or EINVAL when a limit is below what is in use. */
function explained(write: Placed, error: unknown): unknown {
  if (!write.file.startsWith("memory.limit") && !write.file.startsWith("memory.memsw")) return error;
  const directory = write.path.slice(0, write.path.lastIndexOf("/"));
  const usage = readCgroupFileSync(`${directory}/memory.usage_in_bytes`) ?? "?";
  const peak = readCgroupFileSync(`${directory}/memory.max_usage_in_bytes`) ?? "?";
  return wrapError(`unable to set the memory limit to ${write.value} (current usage ${usage}, peak ${peak})`, error);
}

async function currentMemoryLimit(hierarchies: Hierarchies, place: CgroupPlace): Promise<bigint | undefined> {
  const memory = directoryOf(hierarchies, place, "memory");
  if (memory?.version !== 1) return undefined;
  const text = await readCgroupFile(`${memory.directory}/memory.limit_in_bytes`);
  return text === undefined ? undefined : BigInt(text);
}
