/** The OCI spec as it was carried out, for the bundle, hooks and verbose info; and what exec reads back from it. */
import type { OciNamespace, OciSpec } from "./oci.ts";
import type { ContainerSpec, PodSpec, ProcessIdentity } from "./runtime.ts";

/** A namespace without a path is the container's own; a missing one is the node's. */
export function finalSpec(
  spec: ContainerSpec,
  pod: PodSpec,
  init: ProcessIdentity,
  target: ProcessIdentity | undefined,
): OciSpec {
  const shared = (type: OciNamespace["type"], file: string): OciNamespace => ({ type, path: `/proc/${init.pid}/ns/${file}` });
  const namespaces: OciNamespace[] = [{ type: "mount" }];
  if (spec.pidNamespace.kind === "private") namespaces.push({ type: "pid" });
  if (spec.pidNamespace.kind === "pod") namespaces.push(shared("pid", "pid"));
  if (target !== undefined) namespaces.push({ type: "pid", path: `/proc/${target.pid}/ns/pid` });
  if (pod.network === "new") namespaces.push({ type: "network", path: pod.netnsPath ?? `/proc/${init.pid}/ns/net` });
  if (pod.ipc === "new") namespaces.push(shared("ipc", "ipc"));
  if (pod.uts === "new") namespaces.push(shared("uts", "uts"));
  if (pod.user !== null) namespaces.push(shared("user", "user"));
  if (spec.cgroupNamespace === "private") namespaces.push({ type: "cgroup" });
  return { ...spec.oci, linux: { ...spec.oci.linux, namespaces } };
}

/** What a process that joins the container has to know of its namespaces. */
export function joinedKinds(oci: OciSpec): { readonly cgroupNamespace: "private" | "host"; readonly hostPid: boolean } {
  const has = (wanted: OciNamespace["type"]) => oci.linux.namespaces?.some(({ type }) => type === wanted) === true;
  return { cgroupNamespace: has("cgroup") ? "private" : "host", hostPid: !has("pid") };
}
