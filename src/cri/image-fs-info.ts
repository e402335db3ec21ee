import type { FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";

/** Images and writable layers lie on one filesystem: both lists name it, so that the kubelet sees no split. */
export async function imageFsInfo(app: CriApp, _ctx: Context, _request: ImageFsInfoRequest): Promise<ImageFsInfoResponse> {
  const usage = await app.images.fsUsage();
  const filesystem: FilesystemUsage = {
    timestamp: usage.timestampNs,
    fsId: { mountpoint: usage.mountpoint },
    usedBytes: { value: usage.usedBytes },
    inodesUsed: { value: usage.inodesUsed },
  };
  return { imageFilesystems: [filesystem], containerFilesystems: [filesystem] };
}
