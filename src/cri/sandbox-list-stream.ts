import type { StreamPodSandboxesRequest, StreamPodSandboxesResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listPodSandbox } from "./sandbox-list.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamPodSandboxes(
  app: CriApp,
  ctx: Context,
  request: StreamPodSandboxesRequest,
  send: Send<StreamPodSandboxesResponse>,
): Promise<void> {
  const { items } = await listPodSandbox(app, ctx, request);
  await sendChunks(items, send, (podSandboxes) => ({ podSandboxes }));
}
