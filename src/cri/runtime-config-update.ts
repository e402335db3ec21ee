import { isIP } from "node:net";
import type { UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse } from "../gen/cri/v1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import type { Context, CriApp } from "./app-types.ts";

const key = "pod-cidr";

/** Checks and remembers the node's pod CIDRs: plugins of later pods that declare the capability ipRanges get them. */
export async function updateRuntimeConfig(
  app: CriApp,
  _ctx: Context,
  request: UpdateRuntimeConfigRequest,
): Promise<UpdateRuntimeConfigResponse> {
  const cidrs = request.runtimeConfig?.networkConfig?.podCidr ?? "";
  if (cidrs === "") return {};
  const bad = cidrs.split(",").find((cidr) => !isCidr(cidr.trim()));
  if (bad !== undefined) throw new RuntimeError("invalid_argument", `pod CIDR ${JSON.stringify(bad)} is not an address range`);
  app.store.collection<string>("settings").put(key, cidrs);
  return {};
}

/** One for each address family; empty when nobody has told them. */
export function podCidrs(app: CriApp): readonly string[] {
  const known = app.store.collection<string>("settings").load().get(key) ?? "";
  return known
    .split(",")
    .map((cidr) => cidr.trim())
    .filter((cidr) => cidr !== "");
}

function isCidr(text: string): boolean {
  const [, address = "", bits = ""] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
  const family = isIP(address);
  return family !== 0 && Number(bits) <= (family === 4 ? 32 : 128);
}
