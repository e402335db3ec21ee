import type { ListContainerStatsRequest, ListContainerStatsResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { selectContainers } from "./container-list.ts";
import { statsOf } from "./container-stats.ts";

/** All containers that fit; one that goes away meanwhile is left out. */
export async function listContainerStats(
  app: CriApp,
  ctx: Context,
  request: ListContainerStatsRequest,
): Promise<ListContainerStatsResponse> {
  const filter = request.filter;
  const fitting = selectContainers(app, filter?.id ?? "", filter?.podSandboxId ?? "", filter?.labelSelector ?? {});
  const stats = await Promise.all(fitting.map((record) => statsOf(app, record)));
  ctx.signal.throwIfAborted();
  return { stats: stats.filter((item) => app.containers.get(item.attributes?.id ?? "") !== undefined) };
}
