import type { ImageStatusRequest, ImageStatusResponse } from "../gen/cri/v1/api.ts";
import type { Image } from "../image/image-service.ts";
import type { Context, CriApp } from "./app-types.ts";
import { imageView } from "./image-view.ts";
import { infoText } from "./info-json.ts";
import { checkedImage } from "./request-checks.ts";

/** An image that is not here is a success without an image, never `not_found`. */
export async function imageStatus(app: CriApp, _ctx: Context, request: ImageStatusRequest): Promise<ImageStatusResponse> {
  const image = app.images.find(checkedImage(request.image));
  if (image === undefined) return { image: undefined, info: {} };
  return { image: imageView(image), info: request.verbose ? { info: infoOf(image) } : {} };
}

function infoOf(image: Image): string {
  return infoText({ chainID: image.chainId, imageSpec: JSON.parse(image.configJson) as unknown });
}
