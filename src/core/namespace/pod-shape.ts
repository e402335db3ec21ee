import type { OciIdMapping } from "../oci.ts";
import { nsKind, podPin } from "../plan-schema.ts";

/** Which namespaces a pod has of its own: what plans need to know of a PodSpec. */
export interface PodShape {
  readonly network: "new" | "host";
  readonly ipc: "new" | "host";
  readonly uts: "new" | "host";
  readonly pid: "pod" | "none";
  readonly user: { readonly uid: readonly OciIdMapping[]; readonly gid: readonly OciIdMapping[] } | null;
}

export interface Pinned {
  readonly slot: number;
  readonly kind: number;
}

/** The pins that every process of the pod joins, user namespace not counted. */
export function sharedNamespaces(pod: PodShape): readonly Pinned[] {
  return [
    ...(pod.network === "new" ? [{ slot: podPin.net, kind: nsKind.net }] : []),
    ...(pod.ipc === "new" ? [{ slot: podPin.ipc, kind: nsKind.ipc }] : []),
    ...(pod.uts === "new" ? [{ slot: podPin.uts, kind: nsKind.uts }] : []),
  ];
}
