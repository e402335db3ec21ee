/** Kills what is in a cgroup when there is no shim to do it, and waits until nothing is left. */
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../lib/errors.ts";
import { childCgroups, readCgroupFile, writeCgroupFile } from "./cgroup-files.ts";
import { type CgroupPlace, directoriesOf } from "./cgroup-place.ts";

const killSignal = 9;
const longestPauseMs = 100;

/** Missing cgroups are success. Rejects with the signal's reason when it fires first. */
export async function killEverything(place: CgroupPlace, signal: AbortSignal): Promise<void> {
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    const pids = new Set<number>();
    for (const directory of directoriesOf(place)) await collect(directory, pids);
    if (pids.size === 0) return;
    await killOnce(place);
    await sleep(pauseMs, undefined, { signal });
  }
}

async function killOnce(place: CgroupPlace): Promise<void> {
  if (place.unified !== undefined && (await writeCgroupFile(`${place.unified}/cgroup.kill`, "1"))) await thaw(place);
  else await killFrozen(place);
}

/** Frozen first, so that what forks cannot run ahead and no pid is given to another process between the look and the kill. */
async function killFrozen(place: CgroupPlace): Promise<void> {
  await freeze(place, true);
  const pids = new Set<number>();
  for (const directory of directoriesOf(place)) await collect(directory, pids);
  for (const pid of pids) kill(pid);
  await thaw(place);
}

function kill(pid: number): void {
  try {
    process.kill(pid, killSignal);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) {
      throw new RuntimeError("internal", `process ${pid} cannot be killed`, { pid }, error);
    }
  }
}

/** v1 delivers no SIGKILL to what is frozen. */
async function thaw(place: CgroupPlace): Promise<void> {
  await freeze(place, false);
}

async function freeze(place: CgroupPlace, frozen: boolean): Promise<void> {
  const v1 = place.v1.find(({ controllers }) => controllers.includes("freezer"));
  if (v1 !== undefined) await writeCgroupFile(`${v1.directory}/freezer.state`, frozen ? "FROZEN" : "THAWED");
  else if (place.unified !== undefined) await writeCgroupFile(`${place.unified}/cgroup.freeze`, frozen ? "1" : "0");
}

/** Pids of a cgroup and of all below it; 0, a process of another PID namespace, is left out. */
export async function processesIn(directory: string): Promise<readonly number[]> {
  const pids = new Set<number>();
  await collect(directory, pids);
  return [...pids].toSorted((a, b) => a - b);
}

/** Pids of a cgroup and of all below it. */
async function collect(directory: string, pids: Set<number>): Promise<void> {
  const text = await readCgroupFile(`${directory}/cgroup.procs`);
  for (const line of text?.split("\n") ?? []) if (line !== "" && line !== "0") pids.add(Number(line));
  for (const child of await childCgroups(directory)) await collect(child, pids);
}
