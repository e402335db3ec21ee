/** What a plugin is told about a pod: CNI_ARGS and the runtime's capabilities. */
import { RuntimeError } from "../lib/errors.ts";
import { bandwidthOf } from "./bandwidth.ts";
import type { Json, JsonObject, NetworkList, PluginConfig } from "./network-list.ts";
import type { PodNetworkRequest } from "./pod-network.ts";

export const ifName = "eth0";

export interface Attachment {
  readonly containerId: string;
  readonly netns: string;
  readonly args: readonly (readonly [string, string])[];
  readonly capabilities: JsonObject;
}

/** CNI_ARGS is a list of K=V with semicolons and no escapes: a value with one would add arguments of its own. */
function argument(key: string, value: string): readonly [string, string] {
  if (/[;\0\n]/.test(value))
    throw new RuntimeError("invalid_argument", `${key} ${JSON.stringify(value)} cannot be given to a CNI plugin`);
  return [key, value];
}

export function attachmentOf(request: PodNetworkRequest): Attachment {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(request.podId)) {
    throw new RuntimeError("invalid_argument", `pod id ${JSON.stringify(request.podId)} is not a CNI container id`);
  }
  const bandwidth = bandwidthOf(request.annotations);
  const capabilities: Record<string, Json> = {
    "io.kubernetes.cri.pod-annotations": { ...request.annotations },
    ...(request.portMappings.length > 0 ? { portMappings: request.portMappings.map(portMapping) } : {}),
    ...(bandwidth === undefined ? {} : { bandwidth: { ...bandwidth } }),
    ...(request.dns === null
      ? {}
      : { dns: { servers: request.dns.servers, searches: request.dns.searches, options: request.dns.options } }),
    ...((request.podCidrs ?? []).length > 0 ? { ipRanges: (request.podCidrs ?? []).map((subnet) => [{ subnet }]) } : {}),
    aliases: [request.name],
    ...(request.cgroupParent === "" ? {} : { cgroupPath: request.cgroupParent }),
  };
  return {
    containerId: request.podId,
    netns: request.netnsPath,
    args: [
      ["IgnoreUnknown", "1"],
      argument("K8S_POD_NAMESPACE", request.namespace),
      argument("K8S_POD_NAME", request.name),
      argument("K8S_POD_INFRA_CONTAINER_ID", request.podId),
      argument("K8S_POD_UID", request.uid),
    ],
    capabilities,
  };
}

function portMapping({ hostPort, containerPort, protocol, hostIp }: PodNetworkRequest["portMappings"][number]): JsonObject {
  return { hostPort, containerPort, protocol, hostIP: hostIp };
}

/** The plugin's object without what is for the runtime, plus what it is told: only capabilities that it declares. */
export function requestConfig(
  list: NetworkList,
  plugin: PluginConfig,
  capabilities: JsonObject,
  prevResult: JsonObject | undefined,
): JsonObject {
  const { capabilities: _, runtimeConfig: __, prevResult: ___, ...own } = plugin.raw;
  const offered = Object.entries(capabilities).filter(([name]) => plugin.capabilities.has(name));
  return {
    ...own,
    cniVersion: list.cniVersion,
    name: list.name,
    ...(offered.length > 0 ? { runtimeConfig: Object.fromEntries(offered) } : {}),
    ...(prevResult === undefined ? {} : { prevResult }),
  };
}
