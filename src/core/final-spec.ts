/** The OCI spec as it was carried out, for the bundle, hooks and verbose info; and what exec reads back from it. */

import type { PodShape } from "./namespace/pod-shape.ts";
import type { OciNamespace, OciSpec } from "./oci.ts";
import type { OtherNamespaces } from "./other-namespaces.ts";
import type { ContainerSpec, PodSpec, ProcessIdentity } from "./runtime.ts";

/** A namespace without a path is the container's own; a missing one is the node's. */
export function finalSpec(
  spec: ContainerSpec,
  pod: PodSpec,
  init: ProcessIdentity,
  target: ProcessIdentity | undefined,
): OciSpec {
  const namespaces: OciNamespace[] = [{ type: "mount" }];
  if (spec.pidNamespace.kind === "private") namespaces.push({ type: "pid" });
  if (spec.pidNamespace.kind === "pod") namespaces.push(sharedBy(init, "pid", "pid"));
  if (target !== undefined) namespaces.push({ type: "pid", path: `/proc/${target.pid}/ns/pid` });
  for (const type of ["network", "ipc", "uts"] as const) namespaces.push(...withOther(type, pod, init, spec.namespaces?.[type]));
  if (pod.user !== null) namespaces.push(sharedBy(init, "user", "user"));
  if (spec.cgroupNamespace === "private") namespaces.push({ type: "cgroup" });
  return { ...spec.oci, linux: { ...spec.oci.linux, namespaces } };
}

const sharedBy = ({ pid }: ProcessIdentity, type: OciNamespace["type"], file: string): OciNamespace => ({
  type,
  path: `/proc/${pid}/ns/${file}`,
});

function withOther(
  type: "network" | "ipc" | "uts",
  pod: Pick<PodSpec, "network" | "ipc" | "uts" | "netnsPath">,
  init: ProcessIdentity,
  other: OtherNamespaces["network"],
): readonly OciNamespace[] {
  if (typeof other === "object") return [{ type, path: other.path }];
  if (other !== undefined) return other === "new" ? [{ type }] : [];
  if (pod[type] === "host") return [];
  if (type === "network" && pod.netnsPath !== null) return [{ type, path: pod.netnsPath }];
  return [sharedBy(init, type, type === "network" ? "net" : type)];
}

/** Whether the container has namespaces that its pod has not. */
export function leavesPod(oci: OciSpec, pod: PodSpec, init: ProcessIdentity): boolean {
  const pathsOf = (namespaces: readonly OciNamespace[]) => namespaces.map(({ path = "" }) => path).join();
  return (["network", "ipc", "uts"] as const).some((wanted) => {
    const has = (oci.linux.namespaces ?? []).filter(({ type }) => type === wanted);
    return (
      has.length !== withOther(wanted, pod, init, undefined).length ||
      pathsOf(has) !== pathsOf(withOther(wanted, pod, init, undefined))
    );
  });
}

/** The pod as a process that joins the container finds it there: "host" is what the container has of the node. */
export function shapeInside<P extends PodShape>(pod: P, oci: OciSpec): P {
  const kindOf = (wanted: OciNamespace["type"]): "new" | "host" =>
    oci.linux.namespaces?.some(({ type }) => type === wanted) === true ? "new" : "host";
  return { ...pod, network: kindOf("network"), ipc: kindOf("ipc"), uts: kindOf("uts") };
}

/** What a process that joins the container has to know of its namespaces. */
export function joinedKinds(oci: OciSpec): { readonly cgroupNamespace: "private" | "host"; readonly hostPid: boolean } {
  const has = (wanted: OciNamespace["type"]) => oci.linux.namespaces?.some(({ type }) => type === wanted) === true;
  return { cgroupNamespace: has("cgroup") ? "private" : "host", hostPid: !has("pid") };
}
