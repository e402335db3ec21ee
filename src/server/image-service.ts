import type { CriApp } from "../cri/app-types.ts";
import { imageFsInfo } from "../cri/image-fs-info.ts";
import { listImages } from "../cri/image-list.ts";
import { streamImages } from "../cri/image-list-stream.ts";
import { pullImage } from "../cri/image-pull.ts";
import { removeImage } from "../cri/image-remove.ts";
import { imageStatus } from "../cri/image-status.ts";
import { type ImageServiceServer, ImageServiceService } from "../gen/cri/v1/api.ts";
import type { Gate } from "./call.ts";
import type { Service } from "./grpc-server.ts";
import { serverStream } from "./server-stream.ts";
import { unary, withUnimplemented } from "./unary.ts";

/** runtime.v1.ImageService: which verb answers which call. `app` is there once the gate is open. */
export function imageService(gate: Gate, app: () => CriApp): Service {
  const table: Partial<ImageServiceServer> = {
    pullImage: unary("PullImage", gate, (ctx, req) => pullImage(app(), ctx, req)),
    imageStatus: unary("ImageStatus", gate, (ctx, req) => imageStatus(app(), ctx, req)),
    listImages: unary("ListImages", gate, (ctx, req) => listImages(app(), ctx, req)),
    streamImages: serverStream("StreamImages", gate, (ctx, req, send) => streamImages(app(), ctx, req, send)),
    removeImage: unary("RemoveImage", gate, (ctx, req) => removeImage(app(), ctx, req)),
    imageFsInfo: unary("ImageFsInfo", gate, (ctx, req) => imageFsInfo(app(), ctx, req)),
  };
  return {
    definition: ImageServiceService,
    implementation: withUnimplemented<ImageServiceServer>(ImageServiceService, gate, table),
  };
}
