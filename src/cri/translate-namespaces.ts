/** Which namespaces a pod and its containers get (cri-semantics 5.2). */
import type { OciIdMapping } from "../core/oci.ts";
import type { PidNamespace, PodSpec } from "../core/runtime.ts";
import { type IDMapping, NamespaceMode, type NamespaceOption, type UserNamespace } from "../gen/cri/v1/api.ts";
import { invalid, quoted } from "./translate-check.ts";

const lastId = 0xffff_ffff;

function modeName(mode: NamespaceMode): string {
  return Object.entries(NamespaceMode).find(([, value]) => value === mode)?.[0] ?? String(mode);
}

function podOrNode(what: string, mode: NamespaceMode): "new" | "host" {
  if (mode === NamespaceMode.POD) return "new";
  if (mode === NamespaceMode.NODE) return "host";
  throw invalid(`${what} namespace mode ${modeName(mode)} is not supported: use POD or NODE`);
}

/** One line as the CRI allows it; container root must be in it, or nothing could be set up. */
function oneMapping(what: string, mappings: readonly IDMapping[]): OciIdMapping[] {
  const [mapping, ...more] = mappings;
  if (mapping === undefined || more.length > 0) {
    throw invalid(`user namespace needs exactly one ${what} mapping, ${mappings.length} are given`);
  }
  const { containerId, hostId, length } = mapping;
  if (length < 1) throw invalid(`${what} mapping of the user namespace has length ${length}`);
  if (containerId + length - 1 >= lastId || hostId + length - 1 >= lastId) {
    throw invalid(`${what} mapping ${containerId}:${hostId}:${length} of the user namespace goes beyond the highest id`);
  }
  if (containerId !== 0) throw invalid(`${what} mapping of the user namespace does not contain the container's root (id 0)`);
  return [{ containerID: containerId, hostID: hostId, size: length }];
}

export function resolveUserNamespace(asked: UserNamespace | undefined): PodSpec["user"] {
  if (asked === undefined) return null;
  if (asked.mode === NamespaceMode.POD) return { uid: oneMapping("uid", asked.uids), gid: oneMapping("gid", asked.gids) };
  if (asked.mode !== NamespaceMode.NODE) {
    throw invalid(`user namespace mode ${modeName(asked.mode)} is not supported: use POD or NODE`);
  }
  if (asked.uids.length > 0 || asked.gids.length > 0) throw invalid("user namespace mode NODE must not have mappings");
  return null;
}

export function resolvePodNamespaces(
  asked: NamespaceOption | undefined,
): Pick<PodSpec, "network" | "ipc" | "uts" | "pid" | "user"> {
  const network = podOrNode("network", asked?.network ?? NamespaceMode.POD);
  const ipc = podOrNode("ipc", asked?.ipc ?? NamespaceMode.POD);
  const pidMode = asked?.pid ?? NamespaceMode.POD;
  if (pidMode === NamespaceMode.TARGET) throw invalid("pid namespace mode TARGET is not possible for a sandbox");
  if (!(pidMode in modeNames)) throw invalid(`unknown pid namespace mode ${modeName(pidMode)}`);
  const user = resolveUserNamespace(asked?.usernsOptions);
  if (user !== null && ipc === "host") throw invalid("a pod with a user namespace cannot use the node's IPC namespace");
  if (user !== null && pidMode === NamespaceMode.NODE) {
    throw invalid("a pod with a user namespace cannot use the node's PID namespace");
  }
  return { network, ipc, uts: network, pid: pidMode === NamespaceMode.POD ? "pod" : "none", user };
}

const modeNames: Readonly<Record<number, true>> = { 0: true, 1: true, 2: true, 3: true };

function sameMappings(a: PodSpec["user"], b: PodSpec["user"]): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/**
 * The container's PID namespace; its other namespaces are the pod's, so options that ask for the node's are refused. POD in a
 * sandbox that has the node's is those of the pod, the node's: also what a client says that leaves the field out.
 */
export function resolvePidNamespace(
  asked: NamespaceOption | undefined,
  podAsked: NamespaceOption | undefined,
  pod: Pick<PodSpec, "network" | "ipc" | "pid" | "user">,
): PidNamespace {
  const options = asked ?? podAsked;
  if (options !== undefined) {
    if (podOrNode("network", options.network) === "host" && pod.network !== "host") {
      throw invalid("the container asks for the node's network namespace but its sandbox has one of its own");
    }
    if (podOrNode("ipc", options.ipc) === "host" && pod.ipc !== "host") {
      throw invalid("the container asks for the node's IPC namespace but its sandbox has one of its own");
    }
    if (!sameMappings(resolveUserNamespace(options.usernsOptions), pod.user)) {
      throw invalid("userns_options of the container differ from those of its sandbox");
    }
  }
  const mode = options?.pid ?? NamespaceMode.POD;
  switch (mode) {
    case NamespaceMode.CONTAINER:
      return { kind: "private" };
    case NamespaceMode.NODE:
      if (pod.user !== null) throw invalid("a container in a user namespace cannot use the node's PID namespace");
      return { kind: "host" };
    case NamespaceMode.TARGET:
      if (!options?.targetId) throw invalid("pid namespace mode TARGET needs a target_id");
      return { kind: "target", containerId: options.targetId };
    case NamespaceMode.POD:
      if (pod.pid === "pod") return { kind: "pod" };
      if (podAsked?.pid === NamespaceMode.NODE) return { kind: "host" };
      throw invalid(
        "the container asks for the pod's PID namespace but its sandbox was made without one: use pid mode CONTAINER",
      );
    default:
      throw invalid(`unknown pid namespace mode ${quoted(modeName(mode))}`);
  }
}
