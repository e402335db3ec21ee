import type { StreamContainersRequest, StreamContainersResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listContainers } from "./container-list.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamContainers(
  app: CriApp,
  ctx: Context,
  request: StreamContainersRequest,
  send: Send<StreamContainersResponse>,
): Promise<void> {
  const { containers } = await listContainers(app, ctx, request);
  await sendChunks(containers, send, (chunk) => ({ containers: chunk }));
}
