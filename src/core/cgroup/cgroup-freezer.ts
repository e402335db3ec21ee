/** Freezing and thawing of a cgroup, on either version (libcontainer section 8). */
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../lib/errors.ts";
import { readCgroupFile, writeCgroupFile } from "./cgroup-files.ts";
import type { CgroupPlace } from "./cgroup-place.ts";
import { fieldOf } from "./stat-text.ts";

/** v1 may stay in FREEZING while something forks: it is asked again, and now and then let go for a moment. */
const attemptsV1 = 1000;
const pauseEvery = 25;
const thawEvery = 50;
const thawPauseMs = 10;
const pollMs = 10;
const longestFreezeMs = 10_000;

function freezerV1(place: CgroupPlace): string | undefined {
  return place.v1.find(({ controllers }) => controllers.includes("freezer"))?.directory;
}

/** The directory that is frozen. */
export function freezerOf(place: CgroupPlace): string | undefined {
  return freezerV1(place) ?? place.unified;
}

/** A missing cgroup or freezer is not frozen. */
export async function isFrozen(place: CgroupPlace): Promise<boolean> {
  const v1 = freezerV1(place);
  if (v1 !== undefined) {
    const [state, self] = await Promise.all([
      readCgroupFile(`${v1}/freezer.state`),
      readCgroupFile(`${v1}/freezer.self_freezing`),
    ]);
    return state === "FROZEN" && self !== "0";
  }
  if (place.unified === undefined) return false;
  return (await readCgroupFile(`${place.unified}/cgroup.freeze`)) === "1";
}

/** Resolves when the kernel says so. A freeze that cannot be completed is taken back. */
export async function setFrozen(place: CgroupPlace, frozen: boolean, signal: AbortSignal): Promise<void> {
  const v1 = freezerV1(place);
  const target = v1 ?? place.unified;
  if (target === undefined) {
    if (frozen) throw new RuntimeError("failed_precondition", "freezer not supported");
    return;
  }
  const set = async (value: boolean) => await write(target, v1 !== undefined, value);
  if (!(await set(frozen))) {
    if (!frozen) return;
    throw new RuntimeError("failed_precondition", `cgroup ${target} has no freezer`, { path: target });
  }
  if (!frozen) return;
  try {
    await (v1 === undefined ? untilFrozenV2(target, signal) : untilFrozenV1(v1, set, signal));
  } catch (error) {
    await set(false);
    throw error;
  }
}

async function write(directory: string, v1: boolean, frozen: boolean): Promise<boolean> {
  return v1
    ? await writeCgroupFile(`${directory}/freezer.state`, frozen ? "FROZEN" : "THAWED")
    : await writeCgroupFile(`${directory}/cgroup.freeze`, frozen ? "1" : "0");
}

async function untilFrozenV1(directory: string, set: (frozen: boolean) => Promise<boolean>, signal: AbortSignal): Promise<void> {
  for (let attempt = 1; attempt <= attemptsV1; attempt++) {
    signal.throwIfAborted();
    if ((await readCgroupFile(`${directory}/freezer.state`)) === "FROZEN") return;
    if (attempt % thawEvery === 0) {
      await set(false);
      await sleep(thawPauseMs, undefined, { signal });
    } else if (attempt % pauseEvery === 0) await sleep(1, undefined, { signal });
    await set(true);
  }
  throw new RuntimeError("deadline_exceeded", `cgroup ${directory} cannot be frozen: its processes do not stop`);
}

async function untilFrozenV2(directory: string, signal: AbortSignal): Promise<void> {
  for (let waitedMs = 0; waitedMs < longestFreezeMs; waitedMs += pollMs) {
    signal.throwIfAborted();
    if (fieldOf(await readCgroupFile(`${directory}/cgroup.events`), "frozen") === 1n) return;
    await sleep(pollMs, undefined, { signal });
  }
  throw new RuntimeError("deadline_exceeded", `cgroup ${directory} cannot be frozen: its processes do not stop`);
}
