import type { VersionRequest, VersionResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";

/** The kubelet compares `version` with "0.1.0" exactly and refuses a reply with an empty field. */
export async function version(app: CriApp, _ctx: Context, _request: VersionRequest): Promise<VersionResponse> {
  return {
    version: "0.1.0",
    runtimeName: "caisson",
    runtimeVersion: app.config.runtimeVersion,
    runtimeApiVersion: "v1",
  };
}
