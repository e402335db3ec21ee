import { isIP } from "node:net";
import { type PodSandboxConfig, type PortMapping, Protocol } from "../gen/cri/v1/api.ts";
import type { PodNetworkRequest, PortMapping as PodPortMapping } from "../network/pod-network.ts";
import { resolveCgroupParent } from "./translate-cgroup.ts";
import { cleanAbsolutePath, invalid, quoted } from "./translate-check.ts";
import { hostsFile, resolvConf, resolveHostname } from "./translate-files.ts";
import { resolvePodNamespaces } from "./translate-namespaces.ts";
import { checkPodResources } from "./translate-resources.ts";
import { checkSandboxSecurity } from "./translate-sandbox-security.ts";
import { resolveSysctls } from "./translate-sysctls.ts";
import type { PodTranslation, SandboxInput } from "./translation.ts";

const protocols: Readonly<Record<number, PodPortMapping["protocol"]>> = {
  [Protocol.TCP]: "tcp",
  [Protocol.UDP]: "udp",
  [Protocol.SCTP]: "sctp",
};

function portMapping(mapping: PortMapping): PodPortMapping {
  const { containerPort, hostPort, hostIp } = mapping;
  const protocol = protocols[mapping.protocol];
  if (protocol === undefined) throw invalid(`port mapping has unknown protocol ${String(mapping.protocol)}`);
  if (hostPort < 0 || hostPort > 65535) throw invalid(`host_port ${hostPort} is outside of 0 to 65535`);
  if (containerPort < 1 || containerPort > 65535) throw invalid(`container_port ${containerPort} is outside of 1 to 65535`);
  if (hostIp !== "" && isIP(hostIp) === 0) throw invalid(`host_ip ${quoted(hostIp)} is not an address`);
  return { protocol, containerPort, hostPort, hostIp };
}

type PortMappings = PodNetworkRequest["portMappings"];

function networkRequest(input: SandboxInput, cgroupParent: string, ports: PortMappings): PodNetworkRequest {
  const { config } = input;
  const { name = "", namespace = "", uid = "" } = config.metadata ?? {};
  const { servers, searches, options } = config.dnsConfig ?? { servers: [], searches: [], options: [] };
  return {
    podId: input.id,
    name,
    namespace,
    uid,
    netnsPath: input.netnsPath,
    cgroupParent,
    // A host port of 0 asks for nothing on the node.
    portMappings: ports.filter(({ hostPort }) => hostPort !== 0),
    dns: config.dnsConfig === undefined ? null : { servers, searches, options },
    annotations: config.annotations,
  };
}

function checkLogDirectory(config: PodSandboxConfig): void {
  if (config.logDirectory !== "") cleanAbsolutePath("log_directory", config.logDirectory);
}

/** Everything that RunPodSandbox needs to know; nothing on the machine is read or changed. */
export function translateSandbox(input: SandboxInput): PodTranslation {
  const { config } = input;
  checkLogDirectory(config);
  const security = config.linux?.securityContext;
  checkSandboxSecurity(security);
  checkPodResources("overhead", config.linux?.overhead);
  checkPodResources("resources", config.linux?.resources);
  const ports = config.portMappings.map(portMapping);
  const namespaces = resolvePodNamespaces(security?.namespaceOptions);
  const hostNetwork = namespaces.network === "host";
  const hostname = resolveHostname(config.hostname, hostNetwork, input.nodeHostname, input.id);
  const { cgroupDriver } = input.options;
  const { cgroupParent, ownsCgroupParent } = resolveCgroupParent(config.linux?.cgroupParent ?? "", input.id, cgroupDriver);
  return {
    spec: {
      id: input.id,
      hostname,
      ...namespaces,
      runDir: input.runDir,
      netnsPath: hostNetwork ? null : input.netnsPath,
      shmBytes: input.options.shmBytes,
    },
    network: hostNetwork ? null : networkRequest(input, cgroupParent, ports),
    sysctls: resolveSysctls(config.linux?.sysctls ?? {}, input.options.defaultSysctls, namespaces),
    cgroupParent,
    ownsCgroupParent,
    files: { hostname: `${hostname}\n`, hosts: hostsFile(hostNetwork), resolvConf: resolvConf(config.dnsConfig) },
    privileged: security?.privileged === true,
  };
}
