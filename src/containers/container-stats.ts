import { setTimeout as sleep } from "node:timers/promises";
import type { ContainerStatsRequest, ContainerStatsResponse } from "../gen/caisson/v1/container.ts";
import { codeOf } from "../lib/errors.ts";
import { statsReply } from "./container-replies.ts";
import type { LibraryContainers } from "./library-containers.ts";

/** Once, or until the container has ended. */
export async function followStats(
  containers: LibraryContainers,
  { id, intervalMs }: ContainerStatsRequest,
  send: (message: ContainerStatsResponse) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  using container = await containers.load(id);
  await send(statsReply(await container.stats()));
  while (intervalMs > 0) {
    await sleep(intervalMs, undefined, { signal });
    try {
      if ((await container.status()) === "stopped") return;
      await send(statsReply(await container.stats()));
    } catch (error) {
      // Taken away in between.
      if (codeOf(error) === "failed_precondition" || codeOf(error) === "not_found") return;
      throw error;
    }
  }
}
