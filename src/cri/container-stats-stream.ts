import type { StreamContainerStatsRequest, StreamContainerStatsResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listContainerStats } from "./container-stats-list.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamContainerStats(
  app: CriApp,
  ctx: Context,
  request: StreamContainerStatsRequest,
  send: Send<StreamContainerStatsResponse>,
): Promise<void> {
  const { stats } = await listContainerStats(app, ctx, request);
  await sendChunks(stats, send, (containerStats) => ({ containerStats }));
}
