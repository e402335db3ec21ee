import type { StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listPodSandboxStats } from "./sandbox-stats-list.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamPodSandboxStats(
  app: CriApp,
  ctx: Context,
  request: StreamPodSandboxStatsRequest,
  send: Send<StreamPodSandboxStatsResponse>,
): Promise<void> {
  const { stats } = await listPodSandboxStats(app, ctx, request);
  await sendChunks(stats, send, (chunk) => ({ podSandboxStats: chunk }));
}
