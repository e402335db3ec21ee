import { isIP } from "node:net";
import type { UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";

/** Checks and remembers the node's pod CIDR; network lists come from their directory, so nothing else follows from it. */
export async function updateRuntimeConfig(
  app: CriApp,
  _ctx: Context,
  request: UpdateRuntimeConfigRequest,
): Promise<UpdateRuntimeConfigResponse> {
  const cidrs = request.runtimeConfig?.networkConfig?.podCidr ?? "";
  if (cidrs === "") return {};
  const bad = cidrs.split(",").find((cidr) => !isCidr(cidr.trim()));
  if (bad !== undefined) throw new RuntimeError("invalid_argument", `pod CIDR ${JSON.stringify(bad)} is not an address range`);
  app.store.collection<string>("settings").put("pod-cidr", cidrs);
  return {};
}

function isCidr(text: string): boolean {
  const [, address = "", bits = ""] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
  const family = isIP(address);
  return family !== 0 && Number(bits) <= (family === 4 ? 32 : 128);
}
