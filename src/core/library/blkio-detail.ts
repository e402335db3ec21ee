/** What schedulers of block devices tell of waiting and served requests (libcontainer section 10). Few kernels have it. Pure. */

export interface BlkioValue {
  readonly major: number;
  readonly minor: number;
  /** "Read", "Write", "Sync", "Async", "Discard", "Total"; "" where the kernel does not tell them apart. */
  readonly op: string;
  readonly value: bigint;
}

/** Files of v1, by what they count: of the cgroup and those below it. */
const files = {
  queued: "io_queued",
  merged: "io_merged",
  /** Nanoseconds. */
  serviceTime: "io_service_time",
  /** Nanoseconds. */
  waitTime: "io_wait_time",
  /** Milliseconds for which the cgroup had the device. */
  time: "time",
  sectors: "sectors",
} as const;

/** Microseconds of io.stat on v2, where the controller of costs tells them. */
const costs = { costUsage: "cost.usage", costWait: "cost.wait", costIndebt: "cost.indebt", costIndelay: "cost.indelay" } as const;

/** What this kernel does not count is absent. */
export type BlkioDetail = Readonly<Partial<Record<keyof typeof files | keyof typeof costs, readonly BlkioValue[]>>>;

/** BFQ's files are there when it was built with CONFIG_BFQ_CGROUP_DEBUG; those without its name are CFQ's, before Linux 5.0. */
export function readBlkioDetail(lines: (controller: string, file: string) => readonly string[]): BlkioDetail {
  const counted = Object.entries(files).map(([name, file]) => {
    const found = ["bfq.", ""].map((owner) => lines("blkio", `blkio.${owner}${file}_recursive`)).find((text) => text.length > 0);
    return [name, (found ?? []).flatMap(countOf)] as const;
  });
  const charged = lines("io", "io.stat");
  const costing = Object.entries(costs).map(([name, key]) => [name, charged.flatMap((line) => costOf(line, key))] as const);
  return Object.fromEntries([...counted, ...costing].filter(([, values]) => values.length > 0));
}

/** "8:0 Read 5", "8:0 5"; a last line "Total 5" is about all devices. */
function countOf(line: string): readonly BlkioValue[] {
  const [, major, minor, op = "", value] = /^(\d+):(\d+)(?: ([A-Za-z]+))? (\d+)$/.exec(line) ?? [];
  return value === undefined ? [] : [{ major: Number(major), minor: Number(minor), op, value: BigInt(value) }];
}

/** "8:0 rbytes=1 cost.usage=5". */
function costOf(line: string, key: string): readonly BlkioValue[] {
  const [device = "", ...pairs] = line.split(" ");
  const [major = "", minor = ""] = device.split(":");
  const value = pairs.find((pair) => pair.startsWith(`${key}=`))?.slice(key.length + 1);
  return value === undefined ? [] : [{ major: Number(major), minor: Number(minor), op: "", value: BigInt(value) }];
}
