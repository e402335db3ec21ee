import type { RemoveImageRequest, RemoveImageResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { checkedImage } from "./request-checks.ts";

/** Removes every name of the image. Idempotent; layers that containers use go when the last of these does. */
export async function removeImage(app: CriApp, _ctx: Context, request: RemoveImageRequest): Promise<RemoveImageResponse> {
  await app.images.remove(checkedImage(request.image));
  return {};
}
