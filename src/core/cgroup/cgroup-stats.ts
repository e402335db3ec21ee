/** Numbers of a container's cgroup (sources: cri-semantics section 6). Each file is read once. */
import type { CgroupStats } from "../runtime.ts";
import { readCgroupFile } from "./cgroup-files.ts";

/** Directories of one cgroup by controller; undefined: the machine lacks it. */
export interface StatsPlaces {
  readonly cpu: { readonly version: 1 | 2; readonly directory: string } | undefined;
  readonly memory: { readonly version: 1 | 2; readonly directory: string } | undefined;
  readonly pids: { readonly directory: string } | undefined;
}

/** undefined: there is no such cgroup. */
export async function readStats(places: StatsPlaces, nowNs: () => bigint): Promise<CgroupStats | undefined> {
  const [cpu, memory, processCount] = await Promise.all([
    readCpu(places.cpu),
    readMemory(places.memory),
    places.pids === undefined ? undefined : readNumber(`${places.pids.directory}/pids.current`),
  ]);
  if (cpu === undefined && memory.memoryUsage === undefined && processCount === undefined) return undefined;
  return { timestampNs: nowNs(), cpuUsageNs: cpu, ...memory, processCount };
}

const nsPerUs = 1000n;

async function readCpu(place: StatsPlaces["cpu"]): Promise<bigint | undefined> {
  if (place === undefined) return undefined;
  if (place.version === 1) return await readNumber(`${place.directory}/cpuacct.usage`);
  const usage = parseFlat(await readCgroupFile(`${place.directory}/cpu.stat`)).get("usage_usec");
  return usage === undefined ? undefined : usage * nsPerUs;
}

type MemoryStats = Omit<CgroupStats, "timestampNs" | "cpuUsageNs" | "processCount">;

const noMemory: MemoryStats = {
  memoryUsage: undefined,
  memoryWorkingSet: undefined,
  memoryLimit: undefined,
  memoryRss: undefined,
  memoryPageFaults: undefined,
  memoryMajorPageFaults: undefined,
  swapUsage: undefined,
  swapLimit: undefined,
};

async function readMemory(place: StatsPlaces["memory"]): Promise<MemoryStats> {
  if (place === undefined) return noMemory;
  const file = (name: string) => readCgroupFile(`${place.directory}/${name}`);
  return place.version === 1 ? await readMemoryV1(file) : await readMemoryV2(file);
}

type ReadFile = (name: string) => Promise<string | undefined>;

async function readMemoryV1(file: ReadFile): Promise<MemoryStats> {
  const [stat, usageText, limitText, sumText, sumLimitText] = await Promise.all([
    file("memory.stat"),
    file("memory.usage_in_bytes"),
    file("memory.limit_in_bytes"),
    file("memory.memsw.usage_in_bytes"),
    file("memory.memsw.limit_in_bytes"),
  ]);
  const values = parseFlat(stat);
  const usage = toNumber(usageText);
  const limit = finite(toNumber(limitText));
  const sum = toNumber(sumText);
  const sumLimit = finite(toNumber(sumLimitText));
  return {
    memoryUsage: usage,
    memoryWorkingSet: workingSet(usage, values.get("total_inactive_file")),
    memoryLimit: limit,
    memoryRss: values.get("total_rss"),
    memoryPageFaults: values.get("total_pgfault"),
    memoryMajorPageFaults: values.get("total_pgmajfault"),
    swapUsage: sum === undefined || usage === undefined ? undefined : least0(sum - usage),
    swapLimit: sumLimit === undefined || limit === undefined ? undefined : least0(sumLimit - limit),
  };
}

async function readMemoryV2(file: ReadFile): Promise<MemoryStats> {
  const [stat, usageText, limitText, swapText, swapLimitText] = await Promise.all([
    file("memory.stat"),
    file("memory.current"),
    file("memory.max"),
    file("memory.swap.current"),
    file("memory.swap.max"),
  ]);
  const values = parseFlat(stat);
  const usage = toNumber(usageText);
  return {
    memoryUsage: usage,
    memoryWorkingSet: workingSet(usage, values.get("inactive_file")),
    memoryLimit: toNumber(limitText),
    memoryRss: values.get("anon"),
    memoryPageFaults: values.get("pgfault"),
    memoryMajorPageFaults: values.get("pgmajfault"),
    swapUsage: toNumber(swapText),
    swapLimit: toNumber(swapLimitText),
  };
}

/** What the kernel cannot simply drop. */
function workingSet(usage: bigint | undefined, inactiveFile: bigint | undefined): bigint | undefined {
  return usage === undefined ? undefined : least0(usage - (inactiveFile ?? 0n));
}

function least0(value: bigint): bigint {
  return value < 0n ? 0n : value;
}

/** v1 says "no limit" by a number near 2^63. */
function finite(value: bigint | undefined): bigint | undefined {
  return value === undefined || value > 1n << 62n ? undefined : value;
}

/** "max" is no number. */
function toNumber(text: string | undefined): bigint | undefined {
  return text !== undefined && /^[0-9]+$/.test(text) ? BigInt(text) : undefined;
}

async function readNumber(path: string): Promise<bigint | undefined> {
  return toNumber(await readCgroupFile(path));
}

/** Lines of "key number". */
export function parseFlat(text: string | undefined): ReadonlyMap<string, bigint> {
  const values = new Map<string, bigint>();
  for (const line of text?.split("\n") ?? []) {
    const [key, value] = line.split(" ");
    const number = toNumber(value);
    if (key !== undefined && number !== undefined) values.set(key, number);
  }
  return values;
}
