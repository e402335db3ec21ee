import type { StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listPodSandboxMetrics } from "./sandbox-metrics.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamPodSandboxMetrics(
  app: CriApp,
  ctx: Context,
  request: StreamPodSandboxMetricsRequest,
  send: Send<StreamPodSandboxMetricsResponse>,
): Promise<void> {
  const { podMetrics } = await listPodSandboxMetrics(app, ctx, request);
  await sendChunks(podMetrics, send, (podSandboxMetrics) => ({ podSandboxMetrics }));
}
