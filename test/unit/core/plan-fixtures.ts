import type { ContainerPlanInput } from "../../../src/core/container-plan.ts";
import { deviceLinks, deviceNodes } from "../../../src/core/device/default-devices.ts";
import type { PodShape } from "../../../src/core/namespace/pod-shape.ts";
import type { OciMount, OciProcess, OciSpec } from "../../../src/core/oci.ts";
import type { Op, OpName, Plan } from "../../../src/core/plan.ts";
import type { ProcessSettings } from "../../../src/core/process/process-plan.ts";

export const plainPod: PodShape = { network: "new", ipc: "new", uts: "new", pid: "none", user: null };
const ids = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
export const userPod: PodShape = { ...plainPod, user: { uid: ids, gid: ids } };

export const settings: ProcessSettings = {
  capabilities: { bounding: 0xffn, permitted: 0x7fn, effective: 0x3fn, inheritable: 0n, ambient: 0n },
  limits: [{ resource: 7, soft: 1024n, hard: 20_000n }],
  raises: new Set(),
  oomScoreAdj: 100,
  seccomp: { flags: 4, program: Buffer.from("filter!!") },
};

export const process: OciProcess = {
  user: { uid: 1000, gid: 1000, additionalGids: [1000, 2000] },
  args: ["sh", "-c", "true"],
  env: ["PATH=/bin", "A=1", "A=2"],
  cwd: "/work",
};

export const mounts: readonly OciMount[] = [
  { destination: "/dev/shm", type: "bind", source: "/run/p/shm", options: ["rbind", "rprivate", "rw"] },
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
  { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "gid=5"] },
  { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["nosuid", "noexec", "nodev", "ro"] },
];

export function spec(
  changes: { process?: Partial<OciProcess>; linux?: OciSpec["linux"]; mounts?: readonly OciMount[] } = {},
): OciSpec {
  return {
    ociVersion: "1.3.0",
    process: { ...process, ...changes.process },
    root: { path: "rootfs", readonly: true },
    mounts: changes.mounts ?? mounts,
    linux: changes.linux ?? { maskedPaths: ["/proc/kcore"], readonlyPaths: ["/proc/sys"] },
  };
}

export function containerInput(changes: Partial<ContainerPlanInput> = {}): ContainerPlanInput {
  return {
    id: "c1",
    oci: spec(),
    pod: plainPod,
    pidNamespace: { kind: "private" },
    cgroupNamespace: "host",
    cgroupBarrier: false,
    cgroupTasks: ["/sys/fs/cgroup/cpu/k/c1/tasks", "/sys/fs/cgroup/memory/k/c1/tasks"],
    cgroupMount: {
      kind: "hierarchies",
      shared: false,
      entries: [
        { name: "cpu,cpuacct", hostPath: "/sys/fs/cgroup/cpu,cpuacct/k/c1" },
        { name: "memory", hostPath: "/sys/fs/cgroup/memory/k/c1" },
      ],
      links: [{ name: "cpu", target: "cpu,cpuacct" }],
    },
    settings,
    attachPath: "/run/caisson/containers/c1/rootfs",
    devices: deviceNodes([]).map((node) => ({ ...node, hostPath: node.path })),
    links: deviceLinks,
    volumes: [],
    hookState: { ociVersion: "1.3.0", id: "c1", bundle: "/b", annotations: {} },
    stdin: false,
    proc: { kind: "fresh" },
    idmapSlot: () => undefined,
    treeSlot: () => undefined,
    receivedSlots: 4,
    ...changes,
  };
}

export function names(plan: Plan): readonly OpName[] {
  return plan.map(({ op }) => op);
}

/** Position of the first operation that matches; fails the test when there is none. */
export function position(plan: Plan, wanted: Partial<Op>): number {
  const at = plan.findIndex((op) => Object.entries(wanted).every(([key, value]) => op[key as keyof Op] === value));
  if (at < 0) throw new Error(`no operation ${JSON.stringify(wanted)} in ${names(plan).join(" ")}`);
  return at;
}

export function all<N extends OpName>(plan: Plan, name: N): readonly Extract<Op, { op: N }>[] {
  return plan.filter((op): op is Extract<Op, { op: N }> => op.op === name);
}
