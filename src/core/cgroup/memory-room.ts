import { RuntimeError } from "../../lib/errors.ts";
import { readCgroupFile, writeCgroupFile } from "./cgroup-files.ts";
import { numberOf } from "./stat-text.ts";

/**
 * v2 enforces a memory.max below the usage by killing, where v1 answers EBUSY. memory.high only makes the kernel free what it can, and
 * holds the processes back meanwhile: it goes first, and where too much stays in use the limit is refused. `setLimit` runs before
 * memory.high is put back, so that the usage cannot grow in between.
 */
export async function withRoom(directory: string, limit: string, setLimit: () => Promise<void>): Promise<void> {
  const wanted = numberOf(limit);
  const usage = async (): Promise<bigint> => numberOf(await readCgroupFile(`${directory}/memory.current`)) ?? 0n;
  if (wanted === undefined || (await usage()) <= wanted) return await setLimit();
  const highPath = `${directory}/memory.high`;
  const high = (await readCgroupFile(highPath)) ?? "max";
  await writeCgroupFile(highPath, limit);
  try {
    const left = await usage();
    if (left > wanted) {
      const sentence = `unable to set the memory limit to ${limit}: ${left} bytes are in use and cannot be freed`;
      throw new RuntimeError("failed_precondition", sentence, { path: directory });
    }
    await setLimit();
  } finally {
    await writeCgroupFile(highPath, high);
  }
}
