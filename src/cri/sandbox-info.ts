import type { CriApp } from "./app-types.ts";
import { infoText, messageJson } from "./info-json.ts";
import { containersOf } from "./queries.ts";
import type { SandboxRecord } from "./records.ts";

/** Verbose info of a sandbox under the key `info`, with the names that node agents look for (containerd's). */
export function sandboxInfo(app: CriApp, record: SandboxRecord): string {
  const closed = record.network === "detached" || record.phase === "stopped";
  return infoText({
    pid: processInPod(app, record),
    processStatus: record.phase === "ready" ? "running" : "stopped",
    netNamespaceClosed: closed,
    netNsClosed: closed,
    image: "",
    snapshotKey: "",
    snapshotter: "overlay",
    runtimeHandler: record.handler,
    runtimeType: "caisson",
    runtimeOptions: null,
    config: messageJson(record.config),
    runtimeSpec: podSpecView(app, record),
    cniResult: cniView(record.cniResult),
    sandboxMetadata: metadataView(record),
    overhead: messageJson(record.config.linux?.overhead ?? null),
    resources: messageJson(record.config.linux?.resources ?? null),
    phase: record.phase,
    reason: record.reason,
    message: record.message,
    leftovers: app.ledger.of(record.id)?.items ?? [],
    helperPid: record.shim?.pid ?? 0,
    timeline: app.store.timeline(record.id),
  });
}

/** For `nsenter`: a process inside the pod's namespaces, on the host's numbers; 0 when there is none. The helper itself lives in the
 *  host's namespaces and would mislead. */
function processInPod(app: CriApp, record: SandboxRecord): number {
  const running = containersOf(app, record.id).filter((container) => container.phase === "running");
  const oldest = running.toSorted((a, b) => Number(a.createdAtNs - b.createdAtNs))[0];
  return oldest?.process?.pid ?? 0;
}

/** There is no pod container; this shows where the pod's namespaces and cgroup are, at the place where tools look for them. */
function podSpecView(app: CriApp, record: SandboxRecord): unknown {
  const { spec, cgroupParent, network, sysctls } = record.translation;
  const paths: Readonly<Partial<Record<string, string>>> = {
    ...(network === null ? {} : { network: network.netnsPath }),
    ...app.pods.get(record.id)?.namespacePaths,
  };
  return {
    ociVersion: "1.3.0",
    hostname: spec.hostname,
    annotations: record.config.annotations,
    linux: {
      namespaces: Object.entries(paths).map(([type, path]) => ({ type, path })),
      cgroupsPath: cgroupParent,
      sysctl: sysctls,
    },
  };
}

function metadataView(record: SandboxRecord): unknown {
  const [ip = "", ...additional] = record.ips;
  return {
    ID: record.id,
    Name: record.name,
    Config: messageJson(record.config),
    NetNSPath: record.translation.spec.netnsPath ?? "",
    IP: ip,
    AdditionalIPs: additional,
    RuntimeHandler: record.handler,
    CNIResult: cniView(record.cniResult),
    ProcessLabel: "",
  };
}

interface CniResult {
  readonly interfaces?: readonly { readonly name?: string; readonly mac?: string; readonly sandbox?: string }[];
  readonly ips?: readonly { readonly address?: string; readonly gateway?: string; readonly interface?: number }[];
  readonly dns?: unknown;
  readonly routes?: unknown;
}

/** As containerd prints a result: interfaces by name, each with its addresses. */
export function cniView(result: unknown): unknown {
  if (typeof result !== "object" || result === null) return null;
  const { interfaces = [], ips = [], dns = null, routes = null } = result as CniResult;
  const named = interfaces.map((link, index) => [
    link.name ?? String(index),
    {
      IPConfigs: ips
        .filter((ip) => ip.interface === index)
        .map((ip) => ({ IP: ip.address?.split("/")[0] ?? "", Gateway: ip.gateway ?? "" })),
      Mac: link.mac ?? "",
      Sandbox: link.sandbox ?? "",
    },
  ]);
  return { Interfaces: Object.fromEntries(named), DNS: dns, Routes: routes };
}
