import type { ListImagesRequest, ListImagesResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { imageView } from "./image-view.ts";

export async function listImages(app: CriApp, _ctx: Context, request: ListImagesRequest): Promise<ListImagesResponse> {
  const reference = request.filter?.image?.image ?? "";
  if (reference === "") return { images: app.images.list().map(imageView) };
  const image = app.images.find(reference);
  return { images: image === undefined ? [] : [imageView(image)] };
}
