import type { ListContainerStatsRequest, ListContainerStatsResponse } from "../gen/cri/v1/api.ts";
import { inBatches } from "../lib/batches.ts";
import type { Context, CriApp } from "./app-types.ts";
import { selectContainers } from "./container-list.ts";
import { statsOf } from "./container-stats.ts";

/** How many are read at the same time: enough to keep two cores busy, few enough to let pulls and writes in between. */
export const statsBatch = 32;

/** All containers that fit; one that goes away meanwhile is left out. */
export async function listContainerStats(
  app: CriApp,
  ctx: Context,
  request: ListContainerStatsRequest,
): Promise<ListContainerStatsResponse> {
  const filter = request.filter;
  const fitting = selectContainers(app, filter?.id ?? "", filter?.podSandboxId ?? "", filter?.labelSelector ?? {});
  const stats = await inBatches(fitting, statsBatch, async (record) => {
    ctx.signal.throwIfAborted();
    return await statsOf(app, record);
  });
  return { stats: stats.filter((item) => app.containers.get(item.attributes?.id ?? "") !== undefined) };
}
