import type { PortForwardRequest, PortForwardResponse } from "../gen/cri/v1/api.ts";
import type { Context, CriApp } from "./app-types.ts";
import { readySandbox } from "./streaming-checks.ts";
import { invalid } from "./translate-check.ts";

/** Gives out a URL; its client reaches the ports of the pod's loopback device. */
export function portForward(app: CriApp, _ctx: Context, request: PortForwardRequest): PortForwardResponse {
  const { id } = readySandbox(app, request.podSandboxId);
  const wrong = request.port.find((port) => port < 1 || port > 65_535);
  if (wrong !== undefined) throw invalid(`${wrong} is not a port`);
  const url = app.streaming.portForward({
    ports: request.port,
    connect: async (port, gone) => await app.pods.need(readySandbox(app, id).id).connect(port, gone),
  });
  return { url };
}
