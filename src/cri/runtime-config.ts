import { CgroupDriver, type RuntimeConfigRequest, type RuntimeConfigResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";

/** Said explicitly: the enum's zero value would say systemd. */
export async function runtimeConfig(app: CriApp, _ctx: Context, _request: RuntimeConfigRequest): Promise<RuntimeConfigResponse> {
  const systemd = app.config.cgroupDriver === "systemd";
  return { linux: { cgroupDriver: systemd ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS } };
}
