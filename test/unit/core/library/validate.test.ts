import { describe, expect, it } from "vitest";
import { scopeAt } from "../../../../src/core/library/cgroup-scope.ts";
import type { Config, RootOverlay } from "../../../../src/core/library/config.ts";
import { checkId } from "../../../../src/core/library/container-id.ts";
import { Process } from "../../../../src/core/library/process.ts";
import type { ProcessSpec } from "../../../../src/core/library/process-spec.ts";
import { validateConfig } from "../../../../src/core/library/validate.ts";
import { config, facts, withUser } from "./fixtures.ts";

const refusal =
  (changes: Partial<Config>, base = config) =>
  () =>
    validateConfig({ ...base, ...changes }, facts);
const up = { upper: "/up", work: "/w" };
const without = (type: string) => ({ namespaces: (config.namespaces ?? []).filter((namespace) => namespace.type !== type) });

describe("ids", () => {
  it("are names of directories", () => {
    for (const id of ["a", "A-b_c+d.e", ".hidden", "0", "..."]) expect(checkId(id)).toBe(id);
    for (const id of ["", ".", "..", "a/b", "a b", "a\n", "ä", "a:b"])
      expect(() => checkId(id)).toThrow("invalid container ID format");
  });
});

describe("rules of a config", () => {
  it("are kept by a plain one, and by one with a user namespace", () => {
    expect(refusal({})).not.toThrow();
    expect(refusal({}, withUser)).not.toThrow();
    expect(refusal({ rootfs: "/roots/one/" })).not.toThrow();
  });

  it.each<[string, Partial<Config>, string]>([
    ["a relative root", { rootfs: "root" }, "is not an absolute path"],
    ["a missing root", { rootfs: "/missing" }, "is no existing directory"],
    ["a root behind a symlink", { rootfs: "/link/root" }, "leads through a symlink to /elsewhere/root"],
    ["no mount namespace", without("mnt"), "a container needs a mount namespace"],
    ["a type twice", { namespaces: [{ type: "mnt" }, { type: "mnt" }] }, "duplicated ns mnt"],
    [
      "a type that nobody knows",
      { namespaces: [{ type: "mnt" }, { type: "disk" as "mnt" }] },
      'namespace type "disk" is not known',
    ],
    ["a relative path of a namespace", { namespaces: [{ type: "mnt" }, { type: "net", path: "ns" }] }, "is not absolute"],
    [
      "a host name without its namespace",
      { ...without("uts"), hostname: "a" },
      "unable to set hostname without a private UTS namespace",
    ],
    ["a domain name without its namespace", { ...without("uts"), domainname: "a" }, "unable to set domainname"],
    ["networks without a namespace", { ...without("net"), networks: [{ type: "loopback" }] }, "without a private NET namespace"],
    ["another network", { networks: [{ type: "veth" as "loopback" }] }, "only loopback"],
    ["mappings without a user namespace", { uidMappings: withUser.uidMappings ?? [] }, "user namespace isn't enabled"],
    ["clock offsets without a time namespace", { timeOffsets: { boottime: { secs: 1 } } }, "time namespace isn't enabled"],
    ["a name and a path of the cgroup", { cgroups: { path: "/a", name: "b" } }, "either Path or Name and Parent"],
    ["another propagation", { rootPropagation: "loud" }, 'rootPropagation "loud" is not known'],
    [
      "data of a bind",
      { mounts: [{ destination: "/a", source: "/b", device: "bind", flags: ["bind"], data: "size=1" }] },
      "cannot have options",
    ],
    [
      "half an id mapping",
      { mounts: [{ destination: "/a", source: "/b", device: "bind", flags: ["bind"], uidMappings: withUser.uidMappings ?? [] }] },
      "needs both",
    ],
    ["an id-mapped tmpfs", { mounts: [{ destination: "/a", device: "tmpfs", flags: ["idmap"] }] }, "only binds can be id-mapped"],
    [
      "an id mapping of nothing",
      { mounts: [{ destination: "/a", source: "/b", device: "bind", flags: ["bind", "idmap"] }] },
      "has no mappings",
    ],
    [
      "a node of every device",
      { devices: [{ type: "c", path: "/dev/a", major: -1, minor: 0 }] },
      "a node needs a type and numbers",
    ],
    [
      "another permission",
      { cgroups: { resources: { devices: [{ type: "c", major: 1, minor: 1, permissions: "x" }] } } },
      "may only contain r, w and m",
    ],
  ])("refuse %s", (_, changes, message) => {
    expect(refusal(changes)).toThrow(message);
  });

  it.each<[string, Partial<Config>, string]>([
    ["a relative layer", { overlay: { layers: ["a"], ...up } }, 'overlay layer "a" is not an absolute path'],
    ["a missing layer", { overlay: { layers: ["/missing"], ...up } }, "overlay layer /missing is no existing directory"],
    ["a layer behind a symlink", { overlay: { layers: ["/link/a"], ...up } }, "leads through a symlink to /elsewhere/a"],
    ["a layer twice", { overlay: { layers: ["/a", "/roots/one/"], ...up } }, "layer /roots/one is there twice"],
    ["an upper layer without its work directory", { overlay: { upper: "/up" } }, "work is missing"],
    ["a work directory alone", { overlay: { work: "/up" } }, "upper is missing"],
    ["an overlay of nothing", { overlay: {} }, "no upper one is no overlay"],
    ["a relative upper layer", { overlay: { upper: "up", work: "/w" } }, 'overlay upper "up" is not an absolute path'],
    ["a work directory behind a symlink", { overlay: { upper: "/up", work: "/link/w" } }, "symlink to /elsewhere/w"],
    ["a work directory in the upper layer", { overlay: { upper: "/up", work: "/up/w" } }, "/up and /up/w lie one in the other"],
    ["an upper layer in the root", { overlay: { upper: "/roots/one/up", work: "/w" } }, "lie one in the other"],
    ["a layer in the work directory", { overlay: { layers: ["/w/a"], ...up } }, "/w and /w/a lie one in the other"],
    ["too many layers", { overlay: { layers: Array.from({ length: 500 }, (_, at) => `/l${at}`) } }, "501 layers are more than"],
    ["a strange field of it", { overlay: { lower: "/a" } as RootOverlay }, "config.overlay.lower is not supported"],
    ["a mapped root without a user namespace", { idmapRoot: true }, "idmapRoot needs a user namespace"],
  ])("refuse as root %s", (_, changes, message) => {
    expect(refusal(changes)).toThrow(message);
  });

  it("let a root have layers, and be mapped by known mappings", () => {
    expect(refusal({ overlay: { layers: ["/a", "/b"] } })).not.toThrow();
    expect(refusal({ overlay: up })).not.toThrow();
    expect(refusal({ overlay: { upper: "/missing/u", work: "/missing/w" } })).not.toThrow();
    expect(refusal({ overlay: up, idmapRoot: true }, withUser)).not.toThrow();
    const { uidMappings: _, ...unmapped } = withUser;
    const namespaces: Config["namespaces"] = [{ type: "mnt" }, { type: "user", path: "/u" }];
    expect(refusal({ namespaces, idmapRoot: true }, unmapped)).toThrow("idmapRoot needs uidMappings and gidMappings");
  });

  it("hold no field that nobody would heed", () => {
    const more = (changes: object) => refusal(changes as Partial<Config>);
    expect(more({ strange: 1 })).toThrow("config.strange is not supported");
    expect(more({ cgroups: { resources: { strange: {} } } })).toThrow("config.cgroups.resources.strange is not supported");
    expect(more({ cgroups: { resources: { memory: { strange: 1 } } } })).toThrow("config.cgroups.resources.memory.strange");
    expect(more({ mounts: [{ destination: "/a", propagation: 1 }] })).toThrow("config.mounts.propagation is not supported");
    expect(() => new Process({ args: ["a"], strange: "x" } as ProcessSpec)).toThrow("process.strange is not supported");
  });

  it("ask mappings or a path of a user namespace, and no offsets of a joined time namespace", () => {
    const { uidMappings: _, ...unmapped } = withUser;
    expect(refusal({}, unmapped)).toThrow("no namespace path nor user mapping specified");
    const joined: Partial<Config> = {
      namespaces: [{ type: "mnt" }, { type: "time", path: "/t" }],
      timeOffsets: { boottime: { secs: 1 } },
    };
    expect(refusal(joined)).toThrow("both namespace path and time offsets");
    expect(refusal({ uidMappings: [{ containerID: 0, hostID: 0, size: 0 }] }, withUser)).toThrow("which is no range of ids");
  });

  it("take a joined mount namespace as it is", () => {
    const namespaces = [{ type: "mnt" as const, path: "/ns" }];
    expect(refusal({ namespaces, rootfs: "/", mounts: [] })).not.toThrow();
    expect(refusal({ namespaces, rootfs: "/" })).toThrow("mounts must be empty");
    expect(refusal({ namespaces, mounts: [] })).toThrow('rootfs must be "/"');
    expect(refusal({ namespaces, rootfs: "/", mounts: [], overlay: { layers: ["/a"] } })).toThrow("without overlay");
    const user = [...namespaces, { type: "user" as const }];
    expect(refusal({ namespaces: user, rootfs: "/", mounts: [], idmapRoot: true }, withUser)).toThrow("idmapRoot");
  });

  it("know whose sysctls are whose", () => {
    const sysctl = (key: string) => ({ sysctl: { [key]: "1" } });
    for (const key of [
      "net.ipv4.ip_forward",
      "net/ipv4/conf/eth0.1/x",
      "kernel.msgmax",
      "kernel.shm_rmid_forced",
      "fs.mqueue.queues_max",
      "kernel.domainname",
    ])
      expect(refusal(sysctl(key))).not.toThrow();
    expect(refusal(sysctl("user.max_user_namespaces"), withUser)).not.toThrow();
    for (const key of [
      "vm.swappiness",
      "kernel.core_pattern",
      "kernel.msgmaxx",
      "fs.mqueue",
      "user.max_user_namespaces",
      "kernel.hostname",
      "net..a",
    ])
      expect(refusal(sysctl(key))).toThrow(/^sysctl /);
    expect(refusal({ ...without("net"), ...sysctl("net.core.somaxconn") })).toThrow("host network namespace");
    expect(refusal({ ...without("ipc"), ...sysctl("kernel.sem") })).toThrow("hosts ipc namespace");
    const own = { namespaces: [{ type: "mnt" as const }, { type: "net" as const, path: "/proc/self/ns/net" }] };
    expect(refusal({ ...own, ...sysctl("net.core.somaxconn") })).toThrow("host network namespace");
  });

  it("let systemd make a cgroup that is a scope, where it runs", () => {
    const at = (cgroups: Config["cgroups"]) => refusal({ cgroups: { systemd: true, ...cgroups } });
    for (const cgroups of [{}, { path: "a-b.slice:c:d" }, { path: ":c:d" }, { parent: "a.slice", name: "b" }])
      expect(at(cgroups)).not.toThrow();
    expect(at({ path: "/a/b" })).toThrow(
      'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a/b"',
    );
    expect(at({ path: "a.slice:b:c.slice" })).toThrow("is no scope in a slice of systemd");
    expect(at({ path: "a:b:c" })).toThrow("is not the name of a systemd slice");
    expect(at({ path: "a.slice:b:c d" })).toThrow("is not the name of a systemd unit");
    const labels = { "org.systemd.property.RuntimeMaxSec": "5" };
    expect(refusal({ cgroups: { systemd: true }, labels })).toThrow(
      "annotation org.systemd.property.RuntimeMaxSec is not supported",
    );
    expect(refusal({ labels })).not.toThrow();
    const without = () => validateConfig({ ...config, cgroups: { systemd: true } }, { ...facts, hasSystemd: () => false });
    expect(without).toThrow("systemd cannot make the cgroup: it does not run here");
  });

  it("put the scope into its slice, named for the container where nothing else is said", () => {
    expect(scopeAt({}, "one")).toBe("/system.slice/caisson-one.scope");
    expect(scopeAt({ parent: "a-b.slice", name: "two" }, "one")).toBe("/a.slice/a-b.slice/caisson-two.scope");
    expect(scopeAt({ path: "a-b.slice:c:d" }, "one")).toBe("/a.slice/a-b.slice/c-d.scope");
    expect(scopeAt({ path: "::d" }, "one")).toBe("/system.slice/d.scope");
  });

  it("refuse unified resources where there is no v2", () => {
    const changes = { cgroups: { resources: { unified: { "memory.high": "1" } } } };
    expect(() => validateConfig({ ...config, ...changes }, { ...facts, cgroupVersion: "v1" })).toThrow(
      "cannot use unified on cgroup v1",
    );
  });
});
