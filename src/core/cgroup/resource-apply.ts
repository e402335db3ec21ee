/** Writes resources to a cgroup: all, or what was there before. */
import { dirname } from "node:path/posix";
import { codeOf, messageOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import type { OciResources } from "../oci.ts";
import type { ResourceChange } from "../runtime.ts";
import { readCgroupFile, readCgroupFileSync, writeCgroupFile, writeCgroupFileSync } from "./cgroup-files.ts";
import { whyWithout } from "./cgroup-obstacles.ts";
import { type CgroupPlace, directoryOf } from "./cgroup-place.ts";
import { type Hierarchies, locate } from "./hierarchies.ts";
import { withRoom } from "./memory-room.ts";
import { type ResourceWrite, resourceWrites } from "./resource-writes.ts";

interface Placed extends Omit<ResourceWrite, "orElse"> {
  readonly path: string;
  readonly orElse?: Placed;
}

/** For a new cgroup, whose values nobody needs back. */
export function applyResources(hierarchies: Hierarchies, place: CgroupPlace, resources: OciResources): void {
  for (const write of placed(hierarchies, place, resources, undefined)) {
    try {
      settle(write, (one) => writeCgroupFileSync(one.path, one.value));
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
  await checkRoom(hierarchies, place, resources);
  const remember = async (write: Placed): Promise<void> => {
    const text = await readCgroupFile(write.path);
    if (text !== undefined) former.unshift({ path: write.path, value: formerValue(write, text) });
    else if (write.orElse !== undefined) await remember(write.orElse);
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
  const at = (write: ResourceWrite): Placed => {
    const directory =
      write.controller === "cgroup" ? place.unified : directoryOf(hierarchies, place, write.controller)?.directory;
    if (directory === undefined) {
      throw new RuntimeError(
        "failed_precondition",
        `this node has no cgroup controller ${write.controller}: ${write.file} cannot be set`,
      );
    }
    const { orElse, ...rest } = write;
    return { ...rest, path: `${directory}/${write.file}`, ...(orElse === undefined ? {} : { orElse: at(orElse) }) };
  };
  return resourceWrites(resources, context).map(at);
}

/** What the file has to get so that it says what it said. */
function formerValue({ file, key, reset }: Placed, text: string): string {
  if (key !== undefined) return text.split("\n").find((line) => line.startsWith(`${key} `)) ?? reset ?? "\n";
  if (file === "memory.oom_control") return /^oom_kill_disable 1$/m.test(text) ? "1" : "0";
  // An empty list is written as an empty line: a write of nothing is none.
  if (text === "") return "\n";
  // io.weight and io.bfq.weight: the default before the devices.
  return file.endsWith("weight") ? (text.split("\n", 1)[0] ?? text) : text;
}

/** checkBeforeUpdate: nothing is tried, so that nothing is reclaimed either. v1 refuses such limits by itself. */
async function checkRoom(hierarchies: Hierarchies, place: CgroupPlace, { memory }: OciResources): Promise<void> {
  const limit = memory?.limit ?? 0;
  const at = directoryOf(hierarchies, place, "memory");
  if (memory?.checkBeforeUpdate !== true || limit <= 0 || at?.version !== 2) return;
  const usage = Number(await readCgroupFile(`${at.directory}/memory.current`));
  if (limit > usage) return;
  throw new RuntimeError("failed_precondition", `rejecting memory limit ${limit} <= usage ${usage}`);
}

const postponable = new Set(["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.max"]);

async function writeInOrder(writes: readonly Placed[], before: (write: Placed) => Promise<void>): Promise<void> {
  const postponed: Placed[] = [];
  for (const write of writes) {
    await before(write);
    try {
      await writeOne(write);
    } catch (error) {
      // A period may be too short for the quota in force, a quota for the burst: it goes in after the other.
      if (!postponable.has(write.file) || codeOf(error) !== "invalid_argument") throw error;
      postponed.push(write);
    }
  }
  for (const write of postponed) await writeOne(write);
}

async function writeOne(write: Placed): Promise<void> {
  const put = async (): Promise<void> => {
    if (await writeCgroupFile(write.path, write.value)) return;
    if (write.orElse === undefined) missing(write);
    else await writeOne(write.orElse);
  };
  try {
    if (write.file === "memory.max") await withRoom(dirname(write.path), write.value, put);
    else await put();
  } catch (error) {
    throw explained(write, error);
  }
}

function settle(write: Placed, put: (write: Placed) => boolean): void {
  if (put(write)) return;
  if (write.orElse === undefined) missing(write);
  else settle(write.orElse, put);
}

function missing({ file, value, path, optional }: Placed): void {
  if (optional === true) return;
  throw new RuntimeError(
    "failed_precondition",
    `cannot set ${file} to ${value}: ${whyWithout(path) || `${path} does not exist (is the controller enabled in the parent cgroup?)`}`,
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
