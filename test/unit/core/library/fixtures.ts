import type { Config } from "../../../../src/core/library/config.ts";
import type { InitPlanInput } from "../../../../src/core/library/init-plan.ts";
import type { NamespaceUse, Shape } from "../../../../src/core/library/shape.ts";
import { translateConfig, translateProcess } from "../../../../src/core/library/translate.ts";
import type { MachineFacts } from "../../../../src/core/library/validate.ts";
import { noSlot } from "../../../../src/core/plan-schema.ts";
import { settings } from "../plan-fixtures.ts";

export const facts: MachineFacts = {
  cgroupVersion: "hybrid",
  realDirectory: (path) =>
    path.startsWith("/missing") ? undefined : path.replace(/^\/link/, "/elsewhere").replace(/(?<=.)\/$/, ""),
  isOwnNamespace: (type, path) => path === `/proc/self/ns/${type}`,
  hasNamespace: () => true,
  hasSystemd: () => true,
  resctrl: () => "/sys/fs/resctrl",
};

const ids = [{ containerID: 0, hostID: 100_000, size: 65_536 }];

export const config: Config = {
  rootfs: "/roots/one",
  namespaces: [{ type: "mnt" }, { type: "pid" }, { type: "uts" }, { type: "ipc" }, { type: "net" }],
  mounts: [
    { destination: "/data", source: "/srv", device: "bind", flags: ["rbind", "rshared"] },
    { destination: "/proc", source: "proc", device: "proc" },
  ],
};

export const withUser: Config = {
  ...config,
  namespaces: [...(config.namespaces ?? []), { type: "user" }],
  uidMappings: ids,
  gidMappings: ids,
};

export function shape(uses: Partial<Shape> = {}): Shape {
  const shared: NamespaceUse = "shared";
  return { user: shared, ipc: "new", uts: "new", net: "new", pid: "new", mnt: "new", cgroup: shared, time: shared, ...uses };
}

export function initInput(changes: Partial<InitPlanInput> & { readonly config?: Config } = {}): InitPlanInput {
  const { config: base = config, ...rest } = changes;
  const process = translateProcess(base, { args: ["sh"] }, { uid: 1, gid: 1, additionalGids: [] });
  return {
    id: "one",
    oci: translateConfig({ hostname: "host", ...base }, process),
    shape: shape(),
    joined: new Map(),
    loopback: true,
    sysctls: new Map([["net/ipv4/ip_forward", "1"]]),
    keyring: true,
    pivot: true,
    cgroupTasks: ["/sys/fs/cgroup/memory/one/tasks"],
    cgroupMount: { kind: "fresh" },
    settings,
    attachPath: "/state/one/rootfs",
    devices: [],
    links: [],
    stdio: { stdin: noSlot, stdout: 3, stderr: 4 },
    keepsConsole: false,
    keep: [],
    giveAway: [],
    timeOffsets: false,
    hookState: { ociVersion: "1.3.0", id: "one", bundle: "", annotations: {} },
    idmapSlot: () => undefined,
    receivedSlots: 5,
    ...rest,
  };
}
