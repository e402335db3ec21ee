import { access } from "node:fs/promises";
import { type Hierarchies, locate } from "./hierarchies.ts";

/** Without them a limit of that kind is refused. */
const expected = ["cpu", "cpuset", "memory", "pids"] as const;

/** Sentences about controllers that this machine lacks. */
export async function cgroupLimitations(hierarchies: Hierarchies): Promise<readonly string[]> {
  const sentences = expected
    .filter((controller) => locate(hierarchies, controller) === undefined)
    .map((controller) => `the cgroup controller ${controller} is missing: limits of its kind are refused`);
  if (locate(hierarchies, "hugetlb") === undefined) {
    sentences.push("the cgroup controller hugetlb is missing: huge page limits are not enforced");
  }
  const memory = locate(hierarchies, "memory");
  if (memory?.version === 1 && !(await exists(`${memory.mountPoint}/memory.memsw.limit_in_bytes`))) {
    sentences.push("the kernel does not account swap: limits of memory and swap together are not enforced");
  }
  return sentences;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
