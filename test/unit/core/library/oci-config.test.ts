import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { fromOciSpec } from "../../../../src/core/library/oci-config.ts";
import { ociFields } from "../../../../src/core/library/oci-fields.ts";
import { translateConfig, translateNodes, translateProcess } from "../../../../src/core/library/translate.ts";

const base = {
  ociVersion: "1.3.0",
  process: { cwd: "/", args: ["sh"], user: { uid: 0, gid: 0 } },
  root: { path: "rootfs" },
  linux: {},
};
const bundle = "/bundle";
const maps = [{ containerID: 0, hostID: 1, size: 2 }];

/** Every field of config.json for Linux in runtime-spec 1.3, with something that it may say. */
const fields: Readonly<Record<string, unknown>> = {
  ociVersion: "2.0.0",
  "root.path": "/other",
  "root.readonly": true,
  mounts: [{ destination: "/a", type: "tmpfs", source: "x", options: ["ro"], uidMappings: maps, gidMappings: maps }],
  hostname: "a",
  domainname: "b",
  annotations: { a: "b" },
  "hooks.prestart": [{ path: "/a" }],
  "hooks.createRuntime": [{ path: "/a" }],
  "hooks.createContainer": [{ path: "/a" }],
  "hooks.startContainer": [{ path: "/a" }],
  "hooks.poststart": [{ path: "/a" }],
  "hooks.poststop": [{ path: "/a" }],
  "process.terminal": true,
  "process.consoleSize": { height: 1, width: 2 },
  "process.cwd": "/a",
  "process.env": ["A=b"],
  "process.args": ["true"],
  "process.commandLine": "a b",
  "process.user.uid": 1,
  "process.user.gid": 1,
  "process.user.umask": 7,
  "process.user.additionalGids": [5],
  "process.user.username": "a",
  "process.rlimits": [{ type: "RLIMIT_CORE", soft: 0, hard: 0 }],
  "process.capabilities.bounding": ["CAP_KILL"],
  "process.capabilities.effective": ["CAP_KILL"],
  "process.capabilities.inheritable": ["CAP_KILL"],
  "process.capabilities.permitted": ["CAP_KILL"],
  "process.capabilities.ambient": ["CAP_KILL"],
  "process.noNewPrivileges": true,
  "process.oomScoreAdj": 5,
  "process.apparmorProfile": "a",
  "process.selinuxLabel": "a",
  "process.scheduler": { policy: "SCHED_FIFO" },
  "process.ioPriority": { class: "IOPRIO_CLASS_BE", priority: 1 },
  "process.execCPUAffinity": { initial: "0" },
  "linux.namespaces": [{ type: "mount", path: "/a" }],
  "linux.uidMappings": maps,
  "linux.gidMappings": maps,
  "linux.timeOffsets": { boottime: { secs: 1, nanosecs: 2 } },
  "linux.devices": [{ type: "c", path: "/dev/a", major: 1, minor: 2, fileMode: 0o600, uid: 1, gid: 2 }],
  "linux.netDevices": { eth0: { name: "a" } },
  "linux.cgroupsPath": "/a",
  "linux.rootfsPropagation": "shared",
  "linux.maskedPaths": ["/a"],
  "linux.readonlyPaths": ["/a"],
  "linux.mountLabel": "a",
  "linux.sysctl": { "net.a": "1" },
  "linux.personality": { domain: "LINUX32" },
  "linux.memoryPolicy": { mode: "MPOL_BIND", nodes: "0" },
  "linux.intelRdt.closID": "a",
  "linux.intelRdt.l3CacheSchema": "L3:0=f",
  "linux.intelRdt.memBwSchema": "MB:0=50",
  "linux.intelRdt.schemata": ["L3:0=f"],
  "linux.intelRdt.enableMonitoring": true,
  "linux.intelRdt.enableCMT": true,
  "linux.intelRdt.enableMBM": true,
  "linux.seccomp.defaultAction": "SCMP_ACT_ALLOW",
  "linux.seccomp.defaultErrnoRet": 1,
  "linux.seccomp.architectures": ["SCMP_ARCH_X86"],
  "linux.seccomp.flags": ["SECCOMP_FILTER_FLAG_LOG"],
  "linux.seccomp.syscalls": [{ names: ["a"], action: "SCMP_ACT_ALLOW" }],
  "linux.seccomp.listenerPath": "/a",
  "linux.seccomp.listenerMetadata": "a",
  "linux.resources.devices": [{ allow: true, type: "c", major: 1, minor: 2, access: "r" }],
  "linux.resources.memory.limit": 1,
  "linux.resources.memory.reservation": 1,
  "linux.resources.memory.swap": 1,
  "linux.resources.memory.kernel": 1,
  "linux.resources.memory.kernelTCP": 1,
  "linux.resources.memory.swappiness": 0,
  "linux.resources.memory.disableOOMKiller": true,
  "linux.resources.memory.useHierarchy": true,
  "linux.resources.memory.checkBeforeUpdate": true,
  "linux.resources.cpu.shares": 2,
  "linux.resources.cpu.quota": 1,
  "linux.resources.cpu.period": 1,
  "linux.resources.cpu.cpus": "0",
  "linux.resources.cpu.mems": "0",
  "linux.resources.cpu.burst": 1,
  "linux.resources.cpu.realtimeRuntime": 1,
  "linux.resources.cpu.realtimePeriod": 1,
  "linux.resources.cpu.idle": 1,
  "linux.resources.pids.limit": 1,
  "linux.resources.hugepageLimits": [{ pageSize: "2MB", limit: 1 }],
  "linux.resources.unified": { "memory.high": "1" },
  "linux.resources.blockIO": { weight: 10 },
  "linux.resources.network": { classID: 1 },
  "linux.resources.rdma": { mlx: { hcaHandles: 1 } },
  vm: { hypervisor: {} },
  windows: { layerFolders: ["a"] },
  solaris: { milestone: "a" },
  zos: { namespaces: [{}] },
  freebsd: { jail: {} },
};

function withField(path: string, value: unknown): object {
  const copy = structuredClone(base) as Record<string, unknown>;
  const names = path.split(".");
  let at = copy;
  for (const name of names.slice(0, -1)) {
    at[name] ??= {};
    at = at[name] as Record<string, unknown>;
  }
  at[names.at(-1) ?? ""] = value;
  return copy;
}

/** All that the plan builders get to see. */
function seen(spec: object): string {
  const { config, process } = fromOciSpec(spec, bundle);
  const user = typeof process.user === "object" ? process.user : { uid: 0, gid: 0 };
  const oci = translateConfig(config, translateProcess(config, process, { additionalGids: [], ...user }));
  return JSON.stringify([oci, config.cgroups, config.timeOffsets, translateNodes(config.devices ?? [])]);
}

describe("fields of config.json", () => {
  it("are all in the table, and nothing else is", () => {
    const known = Object.keys(ociFields).map((path) => path.replace(/\[\].*/, ""));
    expect(new Set(known)).toEqual(new Set(Object.keys(fields)));
    expect(Object.keys(ociFields).filter((path) => path.startsWith("mounts[]."))).toHaveLength(6);
  });

  it("are in docs/config-json.md as they are", () => {
    const text = readFileSync(new URL("../../../../docs/config-json.md", import.meta.url), "utf8");
    const rows = [...text.matchAll(/^\| `(.+)` \| (.+) \|$/gm)].map(([, path, fate]) => [path, fate]);
    const fates = Object.entries(ociFields).map(([path, fate]) => [
      path,
      fate === "honoured" ? fate : `refused: ${fate.refused}`,
    ]);
    expect(rows).toEqual(fates);
  });

  const refused = Object.entries(ociFields).flatMap(([path, fate]) =>
    fate === "honoured" ? [] : [{ path, reason: fate.refused }],
  );
  it.each(refused)("$path is refused by name", ({ path, reason }) => {
    expect(() => fromOciSpec(withField(path, fields[path]), bundle)).toThrow(
      `config.json: ${path} cannot be honoured: ${reason}`,
    );
  });

  const honoured = Object.keys(fields).filter((path) => path === "mounts" || ociFields[path] === "honoured");
  it.each(honoured.filter((path) => path !== "ociVersion"))("%s makes a difference", (path) => {
    expect(seen(withField(path, fields[path]))).not.toBe(seen(base));
  });

  it.each(["destination", "type", "source", "options", "uidMappings", "gidMappings"])(
    "mounts[].%s makes a difference",
    (name) => {
      const [full = {}] = fields.mounts as Record<string, unknown>[];
      const { [name]: _, ...less } = full;
      expect(seen({ ...base, mounts: [full] })).not.toBe(
        seen({ ...base, mounts: [name === "destination" ? { ...less, destination: "/b" } : less] }),
      );
    },
  );

  it("may say nothing", () => {
    const quiet = {
      ...base,
      hooks: { prestart: [] },
      linux: { seccomp: null, intelRdt: {}, mountLabel: "", resources: { memory: { disableOOMKiller: false } } },
    };
    expect(() => fromOciSpec(quiet, bundle)).not.toThrow();
  });

  it("that are no field of the specification are ignored", () => {
    expect(() => fromOciSpec({ ...base, "com.example.extension": { a: 1 } }, bundle)).not.toThrow();
  });
});

describe("translation of config.json", () => {
  it("refuses what is missing", () => {
    expect(() => fromOciSpec({ ...base, ociVersion: "2.0.0" }, bundle)).toThrow('ociVersion "2.0.0" is not of 1.x');
    expect(() => fromOciSpec({ ...base, process: undefined }, bundle)).toThrow("process property must not be empty");
    expect(() => fromOciSpec({ ...base, process: { ...base.process, args: [] } }, bundle)).toThrow("args must not be empty");
    expect(() => fromOciSpec({ ...base, process: { args: ["a"] } }, bundle)).toThrow("Cwd property must not be empty");
    expect(() => fromOciSpec({ ...base, root: {} }, bundle)).toThrow("root.path must not be empty");
  });

  it("begins relative paths at the bundle", () => {
    const { config } = fromOciSpec({ ...base, mounts: [{ destination: "/a", source: "b", options: ["rbind"] }] }, bundle);
    expect([config.rootfs, config.mounts?.[0]?.source, config.labels?.bundle]).toEqual([
      "/bundle/rootfs",
      "/bundle/b",
      "/bundle",
    ]);
  });

  it("adds the default devices and their rules behind what is asked for", () => {
    const devices = [{ type: "c", path: "/dev/null", major: 9, minor: 9 }];
    const { config } = fromOciSpec(
      { ...base, linux: { devices, resources: { devices: [{ allow: false, access: "rwm" }] } } },
      bundle,
    );
    const nodes = translateNodes(config.devices ?? []).map(({ path, major }) => `${path} ${major}`);
    expect(nodes.toSorted()).toEqual([
      "/dev/full 1",
      "/dev/null 9",
      "/dev/random 1",
      "/dev/tty 5",
      "/dev/urandom 1",
      "/dev/zero 1",
    ]);
    const rules = config.cgroups?.resources?.devices ?? [];
    expect(rules[0]).toEqual({ allow: false, type: "a", major: -1, minor: -1, permissions: "rwm" });
    expect(rules).toHaveLength(12);
  });
});
