/** Limits of a container's cgroup (cri-semantics 5.8). Zero and empty mean: not set. */
import type { OciResources } from "../core/oci.ts";
import type { LinuxContainerResources } from "../gen/cri/v1/api.ts";
import { messageOf } from "../lib/errors.ts";
import { invalid, quoted, safeNumber } from "./translate-check.ts";
import type { NodeFacts } from "./translate-node.ts";
import type { ResolvedResources } from "./translation.ts";

/** A page below 2^53: more than any machine has, and exact as a number. */
const mostBytes = 2n ** 53n - 4096n;
const [shortestPeriodUs, longestPeriodUs, shortestQuotaUs] = [1000, 1_000_000, 1000];

function bytes(what: string, value: bigint): number {
  if (value < 0n) throw invalid(`${what} ${value} is negative`);
  return Number(value > mostBytes ? mostBytes : value);
}

function resolveCpu(asked: LinuxContainerResources): OciResources["cpu"] {
  const period = safeNumber("cpu_period", asked.cpuPeriod);
  const quota = safeNumber("cpu_quota", asked.cpuQuota);
  const shares = safeNumber("cpu_shares", asked.cpuShares);
  if (period !== 0 && (period < shortestPeriodUs || period > longestPeriodUs)) {
    throw invalid(`cpu_period ${period} is outside of ${shortestPeriodUs} to ${longestPeriodUs} microseconds`);
  }
  if (quota !== 0 && quota !== -1 && quota < shortestQuotaUs) {
    throw invalid(`cpu_quota ${quota} is neither -1 (no limit) nor at least ${shortestQuotaUs} microseconds`);
  }
  if (shares < 0) throw invalid(`cpu_shares ${shares} is negative`);
  for (const [what, list] of [
    ["cpuset_cpus", asked.cpusetCpus],
    ["cpuset_mems", asked.cpusetMems],
  ] as const) {
    if (list !== "" && !/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/.test(list)) {
      throw invalid(`${what} ${quoted(list)} is not a list of numbers and ranges`);
    }
  }
  return {
    ...(period !== 0 ? { period } : {}),
    ...(quota !== 0 ? { quota } : {}),
    ...(shares !== 0 ? { shares } : {}),
    ...(asked.cpusetCpus !== "" ? { cpus: asked.cpusetCpus } : {}),
    ...(asked.cpusetMems !== "" ? { mems: asked.cpusetMems } : {}),
  };
}

/** swap is memory plus swap. Without a value of its own it equals the memory limit, so that a limit is a limit. */
function resolveMemory(asked: LinuxContainerResources, facts: LimitFacts, notes: string[]): OciResources["memory"] {
  const limit = bytes("memory_limit_in_bytes", asked.memoryLimitInBytes);
  const askedSwap = asked.memorySwapLimitInBytes;
  const swap = askedSwap === -1n ? -1 : bytes("memory_swap_limit_in_bytes", askedSwap);
  if (limit === 0) {
    if (swap > 0) throw invalid("memory_swap_limit_in_bytes is set without memory_limit_in_bytes");
    return {};
  }
  if (swap > 0 && swap < limit) {
    throw invalid(`memory_swap_limit_in_bytes ${swap} (memory and swap together) is below memory_limit_in_bytes ${limit}`);
  }
  if (facts.swapLimit) return { limit, swap: swap === 0 ? limit : swap };
  if (swap !== 0 && swap !== limit) notes.push("the kernel cannot limit swap: memory_swap_limit_in_bytes is left out");
  return { limit };
}

function resolveHugepages(asked: LinuxContainerResources, facts: LimitFacts, notes: string[]): OciResources["hugepageLimits"] {
  const limits = new Map<string, number>();
  for (const { pageSize, limit } of asked.hugepageLimits) {
    if (!/^[1-9][0-9]*[KMG]B$/.test(pageSize)) throw invalid(`hugepage page_size ${quoted(pageSize)} is not like 2MB or 1GB`);
    if (facts.hugePageSizes.has(pageSize)) limits.set(pageSize, bytes(`hugepage limit of ${pageSize}`, limit));
    else if (limit > 0n) notes.push(`the kernel has no huge pages of ${pageSize}: their limit is left out`);
  }
  return [...limits].map(([pageSize, limit]) => ({ pageSize, limit }));
}

/** `cgroup.` files steer processes and the tree, they are not limits. */
function resolveUnified(unified: Readonly<Record<string, string>>, facts: LimitFacts): Record<string, string> {
  const entries = Object.entries(unified);
  if (entries.length > 0 && facts.cgroupVersion !== "v2") {
    throw invalid(`unified resources (${quoted(entries[0]?.[0] ?? "")}) need cgroup v2; this node has ${facts.cgroupVersion}`);
  }
  for (const [key, value] of entries) {
    if (!/^[a-z0-9_]+(\.[A-Za-z0-9_-]+)+$/.test(key) || key.startsWith("cgroup.")) {
      throw invalid(`unified resource ${quoted(key)} is not a limit file of a controller`);
    }
    if (value.includes("\0")) throw invalid(`value of unified resource ${quoted(key)} contains a NUL character`);
  }
  return Object.fromEntries(entries);
}

type LimitFacts = Pick<NodeFacts, "swapLimit" | "hugePageSizes" | "cgroupVersion">;

/** Also for UpdateContainerResources. */
export function resolveResources(asked: LinuxContainerResources | undefined, facts: LimitFacts): ResolvedResources {
  if (asked === undefined) return { resources: {}, oomScoreAdj: 0, notes: [] };
  const notes: string[] = [];
  const oomScoreAdj = safeNumber("oom_score_adj", asked.oomScoreAdj);
  if (oomScoreAdj < -1000 || oomScoreAdj > 1000) throw invalid(`oom_score_adj ${oomScoreAdj} is outside of -1000 to 1000`);
  const cpu = resolveCpu(asked);
  const memory = resolveMemory(asked, facts, notes);
  const hugepageLimits = resolveHugepages(asked, facts, notes);
  const unified = resolveUnified(asked.unified, facts);
  return {
    resources: {
      ...(Object.keys(cpu ?? {}).length > 0 ? { cpu } : {}),
      ...(Object.keys(memory ?? {}).length > 0 ? { memory } : {}),
      ...(hugepageLimits?.length ? { hugepageLimits } : {}),
      ...(Object.keys(unified).length > 0 ? { unified } : {}),
    } as ResolvedResources["resources"],
    oomScoreAdj,
    notes,
  };
}

/** A node that can do all: what is wrong for it is wrong for every node. */
const ableNode = { swapLimit: true, hugePageSizes: new Set<string>(), cgroupVersion: "v2" } as const;

/** Values that a pod's cgroup, which is the client's own, is told to have. */
export function checkPodResources(what: string, asked: LinuxContainerResources | undefined): void {
  try {
    resolveResources(asked, ableNode);
  } catch (error) {
    throw invalid(`${what} of the sandbox: ${messageOf(error)}`);
  }
}
