/** Numbers of a container's or pod's cgroup (sources: cri-semantics section 6). Each file is read once, all in one turn. */
import type { CgroupStats } from "../runtime.ts";
import { fieldOf, numberOf, pressureOf } from "./stat-text.ts";

export interface StatsPlace {
  readonly version: 1 | 2;
  readonly directory: string;
}

/** Directories of one cgroup by controller; undefined: the machine lacks it. */
export interface StatsPlaces {
  readonly cpu: StatsPlace | undefined;
  readonly cpuacct: StatsPlace | undefined;
  readonly memory: StatsPlace | undefined;
  readonly pids: StatsPlace | undefined;
  readonly io: StatsPlace | undefined;
  readonly hugetlb: StatsPlace | undefined;
  /** On v2, also without controllers: pressure is told there. */
  readonly unified: string | undefined;
}

/** Texts without the last newline, in the order of the paths; undefined: missing. */
export type ReadFiles = (paths: readonly string[]) => Promise<readonly (string | undefined)[]>;
/** The text of a file of the directory of a controller. */
export type TextOf = (place: Pick<StatsPlace, "directory"> | undefined, file: string) => string | undefined;

/** undefined: there is no such cgroup. */
export async function readStats(places: StatsPlaces, read: ReadFiles, nowNs: () => bigint): Promise<CgroupStats | undefined> {
  const textOf = await readTexts(statsFiles(places), read);
  return statsOf(places, textOf, nowNs());
}

export type WantedFiles = readonly (readonly [place: Pick<StatsPlace, "directory"> | undefined, files: readonly string[]])[];

/** Reads files of several directories at once. */
export async function readTexts(wanted: WantedFiles, read: ReadFiles): Promise<TextOf> {
  const paths = wanted.flatMap(([place, files]) =>
    place === undefined ? [] : files.map((file) => `${place.directory}/${file}`),
  );
  const texts = await read(paths);
  const byPath = new Map(paths.map((path, at) => [path, texts[at]]));
  return (place, file) => (place === undefined ? undefined : byPath.get(`${place.directory}/${file}`));
}

const pressureFiles = ["cpu.pressure", "memory.pressure", "io.pressure"];
const memoryFiles = {
  1: [
    "memory.stat",
    "memory.usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.memsw.usage_in_bytes",
    "memory.memsw.limit_in_bytes",
  ],
  2: ["memory.stat", "memory.current", "memory.max", "memory.swap.current", "memory.swap.max"],
} as const;

export function statsFiles({ cpuacct, memory, pids, unified }: StatsPlaces): WantedFiles {
  return [
    [cpuacct, cpuacct?.version === 1 ? ["cpuacct.usage"] : ["cpu.stat"]],
    [memory, memoryFiles[memory?.version ?? 2]],
    [pids, ["pids.current"]],
    [unified === undefined ? undefined : { directory: unified }, pressureFiles],
  ];
}

const nsPerUs = 1000n;

/** Microseconds of the kernel as our nanoseconds. */
export function fromUs(us: bigint | undefined): bigint | undefined {
  return us === undefined ? undefined : us * nsPerUs;
}

export function statsOf(places: StatsPlaces, textOf: TextOf, timestampNs: bigint): CgroupStats | undefined {
  const { cpuacct, memory, pids } = places;
  const cpuUsageNs =
    cpuacct?.version === 1
      ? numberOf(textOf(cpuacct, "cpuacct.usage"))
      : fromUs(fieldOf(textOf(cpuacct, "cpu.stat"), "usage_usec"));
  const memoryStats = memory?.version === 1 ? memoryOfV1(memory, textOf) : memoryOfV2(memory, textOf);
  const processCount = numberOf(textOf(pids, "pids.current"));
  if (cpuUsageNs === undefined && memoryStats.memoryUsage === undefined && processCount === undefined) return undefined;
  const unified = places.unified === undefined ? undefined : { directory: places.unified };
  return {
    timestampNs,
    cpuUsageNs,
    ...memoryStats,
    processCount,
    cpuPressure: pressureOf(textOf(unified, "cpu.pressure")),
    memoryPressure: pressureOf(textOf(unified, "memory.pressure")),
    ioPressure: pressureOf(textOf(unified, "io.pressure")),
  };
}

type MemoryStats = Pick<
  CgroupStats,
  | "memoryUsage"
  | "memoryWorkingSet"
  | "memoryLimit"
  | "memoryRss"
  | "memoryPageFaults"
  | "memoryMajorPageFaults"
  | "swapUsage"
  | "swapLimit"
>;

function memoryOfV1(place: StatsPlace, textOf: TextOf): MemoryStats {
  const stat = textOf(place, "memory.stat");
  const usage = numberOf(textOf(place, "memory.usage_in_bytes"));
  const limit = finite(numberOf(textOf(place, "memory.limit_in_bytes")));
  const sum = numberOf(textOf(place, "memory.memsw.usage_in_bytes"));
  const sumLimit = finite(numberOf(textOf(place, "memory.memsw.limit_in_bytes")));
  return {
    memoryUsage: usage,
    memoryWorkingSet: workingSet(usage, fieldOf(stat, "total_inactive_file")),
    memoryLimit: limit,
    memoryRss: fieldOf(stat, "total_rss"),
    memoryPageFaults: fieldOf(stat, "total_pgfault"),
    memoryMajorPageFaults: fieldOf(stat, "total_pgmajfault"),
    swapUsage: sum === undefined || usage === undefined ? undefined : least0(sum - usage),
    swapLimit: sumLimit === undefined || limit === undefined ? undefined : least0(sumLimit - limit),
  };
}

function memoryOfV2(place: StatsPlace | undefined, textOf: TextOf): MemoryStats {
  const stat = textOf(place, "memory.stat");
  const usage = numberOf(textOf(place, "memory.current"));
  return {
    memoryUsage: usage,
    memoryWorkingSet: workingSet(usage, fieldOf(stat, "inactive_file")),
    memoryLimit: numberOf(textOf(place, "memory.max")),
    memoryRss: fieldOf(stat, "anon"),
    memoryPageFaults: fieldOf(stat, "pgfault"),
    memoryMajorPageFaults: fieldOf(stat, "pgmajfault"),
    swapUsage: numberOf(textOf(place, "memory.swap.current")),
    swapLimit: numberOf(textOf(place, "memory.swap.max")),
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
