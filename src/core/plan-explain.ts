/** The plan of a container as it would be made on this machine, for people: nothing is started, made or opened. */

import { access } from "node:fs/promises";
import { RuntimeError } from "../lib/errors.ts";
import { Cgroups } from "./cgroup/cgroups.ts";
import { type ContainerPlan, createSlot, planContainer } from "./container-plan.ts";
import { deviceLinks, deviceNodes } from "./device/default-devices.ts";
import { joinedKinds } from "./final-spec.ts";
import { hookStateOfSpec } from "./hooks.ts";
import type { PodShape } from "./namespace/pod-shape.ts";
import type { OciMount, OciNamespace, OciSpec } from "./oci.ts";
import { readOwnLimits } from "./process/own-limits.ts";
import { processSettings } from "./process/process-settings.ts";

/** Which namespaces the spec shares or makes; a pod's own and a library container's look the same from inside. */
function shapeOf(spec: OciSpec): PodShape {
  const has = (wanted: OciNamespace["type"]): boolean => spec.linux.namespaces?.some(({ type }) => type === wanted) === true;
  const uid = spec.linux.uidMappings ?? [];
  const gid = spec.linux.gidMappings ?? [];
  return {
    network: has("network") ? "new" : "host",
    ipc: has("ipc") ? "new" : "host",
    uts: has("uts") ? "new" : "host",
    pid: "none",
    user: has("user") ? { uid, gid } : null,
  };
}

/** Slots in the order in which the descriptors of id-mapped mounts would come. */
function idmapSlots(mounts: readonly OciMount[]): { slotOf: (mount: OciMount) => number | undefined; count: number } {
  const key = (mount: OciMount): string => JSON.stringify([mount.uidMappings ?? [], mount.gidMappings ?? []]);
  const mapped = mounts.filter(({ uidMappings = [], gidMappings = [] }) => uidMappings.length > 0 && gidMappings.length > 0);
  const keys = [...new Set(mapped.map(key))];
  return {
    count: keys.length,
    slotOf: (mount) => (mapped.includes(mount) ? createSlot.root + 1 + keys.indexOf(key(mount)) : undefined),
  };
}

/**
 * The operations of a container's init, in order. The seccomp program is left empty.
 * @throws RuntimeError invalid_argument for a spec that no plan can be made of.
 */
export async function explainPlan(id: string, oci: OciSpec): Promise<ContainerPlan> {
  try {
    return await makePlan(id, oci);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new RuntimeError("invalid_argument", `the spec lacks something that a plan needs: ${error.message}`, {}, error);
  }
}

async function makePlan(id: string, oci: OciSpec): Promise<ContainerPlan> {
  const cgroupsPath = oci.linux.cgroupsPath ?? `/${id}`;
  const [cgroups, own, hasKcore] = await Promise.all([
    Cgroups.find(),
    readOwnLimits(),
    access("/proc/kcore").then(
      () => true,
      () => false,
    ),
  ]);
  const use = cgroups.use(cgroupsPath);
  const pod = shapeOf(oci);
  const { cgroupNamespace, hostPid } = joinedKinds(oci);
  const joinedPid = oci.linux.namespaces?.some(({ type, path }) => type === "pid" && path !== undefined) === true;
  const filter = oci.linux.seccomp === undefined ? undefined : { flags: 0, program: Buffer.alloc(0) };
  const { slotOf, count } = idmapSlots(oci.mounts);
  const onV2 = cgroups.hierarchies.version === "v2";
  const fromHost = { kind: "tree", hostPath: use.unifiedRoot } as const;
  return planContainer({
    id,
    oci,
    pod,
    pidNamespace: { kind: hostPid ? "host" : joinedPid ? "pod" : "private" },
    cgroupNamespace,
    cgroupBarrier: cgroups.needsProcess(cgroupsPath),
    cgroupTasks: use.taskFiles,
    cgroupMount: onV2
      ? cgroupNamespace === "private"
        ? { kind: "fresh" }
        : fromHost
      : { kind: "hierarchies", shared: cgroupNamespace !== "private", ...use.mounts },
    hookState: hookStateOfSpec(id, "", oci),
    settings: processSettings(oci.process, own, pod.user !== null, filter),
    attachPath: `/run/caisson/containers/${id}/rootfs`,
    devices: deviceNodes(oci.linux.devices ?? []).map((node) => ({ ...node, hostPath: node.path })),
    links: hasKcore ? [...deviceLinks, { path: "/dev/core", target: "/proc/kcore" }] : deviceLinks,
    volumes: [],
    stdin: false,
    proc: { kind: "fresh" },
    idmapSlot: slotOf,
    treeSlot: () => undefined,
    receivedSlots: createSlot.root + 1 + count,
  });
}
