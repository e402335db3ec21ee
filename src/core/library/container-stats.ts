/** Numbers of a container: of its cgroup, and of the interfaces in its network namespace. */
import { readFileSync } from "node:fs";
import { errnoName } from "../../lib/errors.ts";
import { interfacesOf } from "../network-counters.ts";
import type { CgroupMetrics, InterfaceCounters, ProcessIdentity } from "../runtime.ts";
import { type CgroupDetail, readCgroupDetail } from "./cgroup-detail.ts";
import type { ContainerCgroup } from "./container-cgroup.ts";
import { noCgroup } from "./errors.ts";

export interface ContainerStats {
  readonly cgroup: CgroupMetrics;
  readonly detail: CgroupDetail;
  /** Without the loopback; empty when the first process has ended. */
  readonly interfaces: readonly InterfaceCounters[];
}

/** @throws RuntimeError failed_precondition `cgroup not exist`. */
export async function readContainerStats(at: ContainerCgroup, init: ProcessIdentity | undefined): Promise<ContainerStats> {
  const cgroup = await at.cgroups.metrics(at.path, () => BigInt(Date.now()) * 1_000_000n);
  if (cgroup === undefined) throw noCgroup();
  return { cgroup, detail: readCgroupDetail(at), interfaces: init === undefined ? [] : interfacesOf(countersOf(init)) };
}

/** The file is that of the process's own network namespace. */
function countersOf({ pid }: ProcessIdentity): string {
  try {
    return readFileSync(`/proc/${pid}/net/dev`, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH", "EINVAL"].includes(errnoName(error) ?? "")) return "";
    throw error;
  }
}
