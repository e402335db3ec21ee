import type { RuntimeCondition, StatusRequest, StatusResponse } from "../gen/cri/v1/api.ts";
import type { NetworkStatus } from "../network/pod-network.ts";
import type { Context, CriApp } from "./app-types.ts";
import { infoText } from "./info-json.ts";

export async function status(app: CriApp, _ctx: Context, request: StatusRequest): Promise<StatusResponse> {
  const network = app.network.status();
  const features = { ...app.config.features };
  return {
    status: { conditions: conditionsOf(app, network) },
    info: request.verbose ? infoOf(app, network) : {},
    runtimeHandlers: [...app.config.handlers.keys()].map((name) => ({ name, features })),
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true },
  };
}

/** The first two decide about the node; the kubelet only shows others. */
function conditionsOf(app: CriApp, network: NetworkStatus): RuntimeCondition[] {
  const limits = app.runtime.limitations;
  const rebuilt = app.store.rebuilt;
  return [
    { type: "RuntimeReady", status: true, reason: "", message: "" },
    { type: "NetworkReady", status: network.ready, reason: network.reason, message: network.message },
    {
      type: "CaissonUnlimited",
      status: limits.length === 0,
      reason: limits.length === 0 ? "" : "MachineLimitations",
      message: limits.join("; "),
    },
    ...(rebuilt === undefined ? [] : [{ type: "CaissonStoreIntact", status: false, reason: "StoreRebuilt", message: rebuilt }]),
  ];
}

function infoOf(app: CriApp, network: NetworkStatus): Record<string, string> {
  return {
    config: infoText({ ...app.config.shown, rootDir: app.config.rootDir, stateDir: app.config.stateDir }),
    cniconfig: infoText({ network: network.networkName }),
    lastCNILoadStatus: network.ready ? "OK" : network.message,
    limitations: infoText(app.runtime.limitations),
    instance: infoText({ ...app.instance, cgroupVersion: app.runtime.cgroupVersion, cgroupDriver: app.config.cgroupDriver }),
    leftovers: infoText(app.ledger.all()),
    pendingTeardowns: infoText(app.teardowns.pending()),
    node: process.version,
  };
}
