/**
 * Who keeps something from being freed. What is read of a process waits for no lock that it may hold itself: neither its command line
 * nor its memory map, which a process in an uninterruptible wait may keep locked.
 */
import { readdir, readFile, readlink } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { Holder, ProcessIdentity } from "./runtime.ts";
import { ProcessHandle } from "./shim/process-handle.ts";

/** More are counted by nobody: the list is for people. */
const mostHolders = 16;

/** The freezer lets a process that waits in the kernel run for a moment and wait again. */
const looks = 4;
const lookMs = 5;

/** Undefined: there is no such process any more. */
async function holderOf(pid: number): Promise<Holder | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    let thread = await sleepingThread(pid);
    for (let look = 1; thread === undefined && look < looks; look++) {
      await sleep(lookMs);
      thread = await sleepingThread(pid);
    }
    return {
      pid,
      startTicks: BigInt(fields[22 - 3] ?? 0),
      command: stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")")),
      state: thread?.state ?? fields[0] ?? "",
      waitsIn: thread?.waitsIn ?? "",
    };
  } catch {
    return undefined; // It has ended meanwhile.
  }
}

/** A process cannot end before the last of its threads: the one that no signal reaches tells most. */
async function sleepingThread(pid: number): Promise<{ readonly state: string; readonly waitsIn: string } | undefined> {
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const stat = await readFile(`/proc/${pid}/task/${thread}/stat`, "latin1").catch(() => "");
    if (stat.charAt(stat.lastIndexOf(")") + 2) !== "D") continue;
    const waitsIn = (await readFile(`/proc/${pid}/task/${thread}/wchan`, "latin1").catch(() => "")).trim();
    return { state: "D", waitsIn: waitsIn === "0" ? "" : waitsIn };
  }
  return undefined;
}

export async function describeProcesses(pids: readonly number[]): Promise<readonly Holder[]> {
  const found = await Promise.all(pids.slice(0, mostHolders).map(holderOf));
  return found.filter((holder) => holder !== undefined);
}

/** Processes that work in a mount of this mount namespace: by directory, root or open file. */
export async function holdersOfMount(path: string): Promise<readonly Holder[]> {
  const pids: number[] = [];
  for (const name of await readdir("/proc")) {
    if (/^\d+$/.test(name) && pids.length < mostHolders && (await isAt(`/proc/${name}`, path))) pids.push(Number(name));
  }
  return await describeProcesses(pids);
}

async function isAt(process: string, path: string): Promise<boolean> {
  const descriptors = await readdir(`${process}/fd`).catch(() => []);
  const links = [`${process}/cwd`, `${process}/root`, ...descriptors.map((fd) => `${process}/fd/${fd}`)];
  const targets = await Promise.all(links.map((link) => readlink(link).catch(() => "")));
  return targets.some((target) => target === path || target.startsWith(`${path}/`));
}

/** Resolves when all of these processes have ended; a later process with the number of one of them is another one. */
export async function untilAllEnded(processes: readonly ProcessIdentity[]): Promise<void> {
  for (const identity of processes) {
    using process = ProcessHandle.find(identity);
    await process?.ended;
  }
}
