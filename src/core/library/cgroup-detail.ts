/** What cgroups tell in lists (libcontainer section 10): read only when somebody asks for a container's statistics, unlike CgroupMetrics. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { errnoName } from "../../lib/errors.ts";
import { type BlkioDetail, readBlkioDetail } from "./blkio-detail.ts";
import type { ContainerCgroup } from "./container-cgroup.ts";

export interface CgroupDetail {
  /** Every line of memory.stat. */
  readonly memory: Readonly<Record<string, bigint>>;
  /** memory.numa_stat by kind and node ("N0"): pages on v1, bytes on v2. */
  readonly numa: Readonly<Record<string, Readonly<Record<string, bigint>>>>;
  /** Nanoseconds of each processor; empty on v2, which does not tell. */
  readonly processors: readonly { readonly total: bigint; readonly user: bigint; readonly system: bigint }[];
  /** Settings of cpuset: "cpus", "mems", "cpu_exclusive" and what else the kernel has. */
  readonly cpuset: Readonly<Record<string, string>>;
  /** Queues, times and merges of block devices, where the kernel tells them. */
  readonly blkio: BlkioDetail;
  /** rdma.current and rdma.max, misc.current and misc.max: "mlx4_0 hca_handle=2", a line each. */
  readonly counted: Readonly<Record<"rdma.current" | "rdma.max" | "misc.current" | "misc.max", readonly string[]>>;
}

const cpusetFiles =
  "cpus mems cpu_exclusive mem_exclusive mem_hardwall memory_migrate memory_spread_page memory_spread_slab memory_pressure sched_load_balance sched_relax_domain_level cpus.effective mems.effective cpus.partition";

export function readCgroupDetail({ cgroups, path }: ContainerCgroup): CgroupDetail {
  const directories = cgroups.directories(path);
  const lines = (controller: string, file: string): readonly string[] => {
    const of = [...directories].find(([key]) => key.split(",").includes(controller))?.[1] ?? directories.get("");
    return (of === undefined ? "" : textOf(join(of, file))).split("\n").filter((line) => line !== "");
  };
  const perProcessor = lines("cpuacct", "cpuacct.usage_percpu").flatMap((line) => line.trim().split(" "));
  const split = lines("cpuacct", "cpuacct.usage_all").slice(1);
  return {
    memory: Object.fromEntries(lines("memory", "memory.stat").map((line) => pair(line, " "))),
    numa: Object.fromEntries(lines("memory", "memory.numa_stat").map(numaLine)),
    processors: perProcessor.map((total, at) => {
      const [, user = "0", system = "0"] = split[at]?.split(" ") ?? [];
      return { total: BigInt(total), user: BigInt(user), system: BigInt(system) };
    }),
    cpuset: Object.fromEntries(
      cpusetFiles.split(" ").flatMap((name) => lines("cpuset", `cpuset.${name}`).map((text): [string, string] => [name, text])),
    ),
    blkio: readBlkioDetail(lines),
    counted: {
      "rdma.current": lines("rdma", "rdma.current"),
      "rdma.max": lines("rdma", "rdma.max"),
      "misc.current": lines("misc", "misc.current"),
      "misc.max": lines("misc", "misc.max"),
    },
  };
}

/** "total=5 N0=5" of v1, "anon N0=5" of v2. */
function numaLine(line: string): [string, Record<string, bigint>] {
  const [first = "", ...nodes] = line.split(" ");
  return [first.split("=")[0] ?? "", Object.fromEntries(nodes.map((node) => pair(node, "=")))];
}

function pair(text: string, separator: string): [string, bigint] {
  const at = text.indexOf(separator);
  return [text.slice(0, at), BigInt(text.slice(at + 1))];
}

/** A file that this kernel, or this hierarchy, does not have is empty. */
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ENODEV", "EOPNOTSUPP"].includes(errnoName(error) ?? "")) return "";
    throw error;
  }
}
