/** Namespaces that NRI plugins want a container to have instead of its pod's. */
import { readlinkSync } from "node:fs";
import type { OciMount } from "../core/oci.ts";
import type { OtherNamespace, OtherNamespaces } from "../core/other-namespaces.ts";
import type { PidNamespace } from "../core/runtime.ts";
import { readStartTicks } from "../core/shim/process-handle.ts";
import type { LinuxNamespace } from "../gen/nri/v1alpha1/api.ts";
import { RuntimeError } from "../lib/errors.ts";
import { bareKey, isRemoval } from "../nri/merge-keyed.ts";
import { cleanAbsolutePath, invalid, quoted } from "./translate-check.ts";
import { sysctlPath } from "./translate-sysctls.ts";
import type { ContainerInput, ContainerTranslation } from "./translation.ts";

export type AdjustedNamespaces = Pick<ContainerTranslation, "pidNamespace" | "cgroupNamespace" | "namespaces">;

/** Why nobody can have these otherwise. */
const fixed: Readonly<Record<string, string>> = {
  mount: "the container's root is made in one of its own",
  user: "the pod's owns every other one, and its id mappings come with the pod",
  time: "an adjustment has no words for its clocks",
};

const otherTypes = ["network", "ipc", "uts"] as const;
const isOther = (type: string): type is (typeof otherTypes)[number] => (otherTypes as readonly string[]).includes(type);

/** A type that is taken away is the node's; one without a path is the container's own. */
export function adjustNamespaces(
  input: Pick<ContainerInput, "pod" | "cgroupVersion">,
  before: AdjustedNamespaces,
  wanted: readonly LinuxNamespace[],
): AdjustedNamespaces {
  const { spec } = input.pod;
  let { pidNamespace, cgroupNamespace } = before;
  const others: Partial<Record<keyof OtherNamespaces, OtherNamespace>> = { ...before.namespaces };
  // What is set comes behind what is taken away.
  for (const { type: key, path } of wanted) {
    const type = bareKey(key);
    const removed = isRemoval(key);
    const why = fixed[type];
    if (why !== undefined)
      throw new RuntimeError("unimplemented", `a ${type} namespace, which an NRI plugin wants changed, is not possible: ${why}`);
    if (spec.user !== null && type !== "cgroup" && (removed || path !== ""))
      throw invalid(
        `an NRI plugin wants a ${type} namespace that a pod with a user namespace has no power over: only new ones can be had`,
      );
    if (type === "cgroup") cgroupNamespace = cgroupNamespaceOf(path, removed, input.cgroupVersion);
    else if (type === "pid") pidNamespace = removed ? { kind: "host" } : pidNamespaceOf(path);
    else if (isOther(type)) others[type] = removed ? "host" : path === "" ? "new" : { path: cleanPath(type, path) };
    else throw invalid(`namespace type ${quoted(key)}, which an NRI plugin wants, is not known`);
  }
  return { pidNamespace, cgroupNamespace, ...(Object.keys(others).length === 0 ? {} : { namespaces: others }) };
}

const cleanPath = (type: string, path: string): string => cleanAbsolutePath(`path of an NRI plugin's ${type} namespace`, path);

/** The kernel has no useful one on v1. */
function cgroupNamespaceOf(path: string, removed: boolean, version: ContainerInput["cgroupVersion"]): "private" | "host" {
  if (path !== "" && !removed)
    throw new RuntimeError(
      "unimplemented",
      "the cgroup namespace of another process, which an NRI plugin wants, is not possible: it would show a place that the container is not in",
    );
  return removed || version !== "v2" ? "host" : "private";
}

/** With the node's network a pod's user namespace leaves it the node's sysfs; with a network of its own it has another. */
export function withOwnSysfs(
  mounts: readonly OciMount[],
  input: Pick<ContainerInput, "config" | "pod">,
  { namespaces = {} }: Pick<AdjustedNamespaces, "namespaces">,
): readonly OciMount[] {
  const { user, network } = input.pod.spec;
  if (user === null || network !== "host" || namespaces.network === undefined) return mounts;
  const mode = input.config.linux?.securityContext?.privileged === true ? "rw" : "ro";
  const own: OciMount = { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", mode] };
  return mounts.map((mount) => (mount.destination === "/sys" && mount.source === "/sys" ? own : mount));
}

/** By a process in it: its procfs is copied from there where the kernel cannot make one. */
function pidNamespaceOf(path: string): PidNamespace {
  if (path === "") return { kind: "private" };
  const clean = cleanPath("pid", path);
  const pid = Number(/^\/proc\/([1-9][0-9]{0,9})\/ns\/pid$/.exec(clean)?.[1] ?? 0);
  if (pid === 0) throw invalid(`PID namespace ${quoted(path)}, which an NRI plugin wants, is not named as /proc/PID/ns/pid`);
  const startTicks = readStartTicks(pid);
  if (startTicks === undefined)
    throw invalid(`PID namespace ${clean}, which an NRI plugin wants, does not exist: the process has ended`);
  return namespaceOf(clean) === namespaceOf("/proc/self/ns/pid")
    ? { kind: "host" }
    : { kind: "process", process: { pid, startTicks } };
}

function namespaceOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

/** Sysctls are set in the pod's namespaces; the node's, and others', are not a container's to change. */
export function refuseForeignSysctls(keys: readonly string[], { namespaces = {} }: Pick<AdjustedNamespaces, "namespaces">): void {
  const typeOf = (path: string): keyof OtherNamespaces =>
    path.startsWith("net/") ? "network" : path === "kernel/domainname" ? "uts" : "ipc";
  const found = keys.find((key) => namespaces[typeOf(sysctlPath(key))] !== undefined);
  if (found !== undefined)
    throw new RuntimeError(
      "unimplemented",
      `sysctl ${quoted(found)}, which an NRI plugin wants, cannot be had: the container has not the pod's ${typeOf(sysctlPath(found))} namespace`,
    );
}
