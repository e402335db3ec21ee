import type { StreamImagesRequest, StreamImagesResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { listImages } from "./image-list.ts";
import { type Send, sendChunks } from "./stream-chunks.ts";

export async function streamImages(
  app: CriApp,
  ctx: Context,
  request: StreamImagesRequest,
  send: Send<StreamImagesResponse>,
): Promise<void> {
  const { images } = await listImages(app, ctx, request);
  await sendChunks(images, send, (chunk) => ({ images: chunk }));
}
