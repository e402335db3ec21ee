import { expect, it } from "vitest";
import * as api from "../../../src/gen/nri/v1alpha1/api.ts";
import { Adjustments } from "../../../src/nri/adjustments.ts";
import { Owners } from "../../../src/nri/owners.ts";
import { checkAllowed } from "../../../src/nri/policy.ts";
import { Updates } from "../../../src/nri/updates.ts";

type Partial_ = Parameters<typeof api.ContainerAdjustment.fromPartial>[0];
const container = api.Container.fromPartial({
  id: "c",
  name: "web",
  annotations: { kept: "1", gone: "2" },
  env: ["PATH=/bin", "MODE=plain"],
  args: ["run"],
  mounts: [{ destination: "/data", type: "bind", source: "/a", options: [] }],
  linux: { resources: { memory: { limit: { value: 5n } }, cpu: { shares: { value: 2n } } } },
});
const wants = (adjust: Partial_): api.CreateContainerResponse =>
  api.CreateContainerResponse.fromPartial({ adjust: api.ContainerAdjustment.fromPartial(adjust) });
const merged = (...plugins: Partial_[]): Adjustments => {
  const all = new Adjustments(container);
  plugins.forEach((adjust, index) => {
    all.add(`0${index}-p${index}`, wants(adjust));
  });
  return all;
};

it("shows the next plugin what the ones before it want", () => {
  const { container: seen } = merged({
    annotations: { "-gone": "", added: "3" },
    env: [{ key: "MODE", value: "fast" }],
    args: ["walk"],
    mounts: [{ destination: "-/data" }, { destination: "/new", type: "tmpfs" }],
    linux: { resources: { memory: { limit: { value: 9n } } } },
  });
  expect(seen.annotations).toEqual({ kept: "1", added: "3" });
  expect(seen.env).toEqual(["PATH=/bin", "MODE=fast"]);
  expect(seen.args).toEqual(["walk"]);
  expect(seen.mounts.map(({ destination }) => destination)).toEqual(["/new"]);
  expect(seen.linux?.resources).toMatchObject({ memory: { limit: { value: 9n } }, cpu: { shares: { value: 2n } } });
});

const conflicts: readonly (readonly [what: string, adjust: Partial_])[] = [
  ['Annotations "a"', { annotations: { a: "1" } }],
  ['Mounts "/m"', { mounts: [{ destination: "/m" }] }],
  ['Env "E"', { env: [{ key: "E", value: "1" }] }],
  ["Args", { args: ["x"] }],
  ['Rlimits "RLIMIT_CORE"', { rlimits: [{ type: "RLIMIT_CORE" }] }],
  ['CdiDevices "v/c=d"', { CDIDevices: [{ name: "v/c=d" }] }],
  ['Devices "/dev/d"', { linux: { devices: [{ path: "/dev/d" }] } }],
  ["OomScoreAdj", { linux: { oomScoreAdj: { value: 1n } } }],
  ["IoPriority", { linux: { ioPriority: { class: 1 } } }],
  ["LinuxSched", { linux: { scheduler: { policy: 3 } } }],
  ["SeccompPolicy", { linux: { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } } }],
  ["CgroupsPath", { linux: { cgroupsPath: "/x" } }],
  ['Namespace "cgroup"', { linux: { namespaces: [{ type: "cgroup" }] } }],
  ['Sysctl "net.x"', { linux: { sysctl: { "net.x": "1" } } }],
  ['LinuxNetDevices "eth9"', { linux: { netDevices: { eth9: { name: "a" } } } }],
  ["MemoryPolicy", { linux: { memoryPolicy: { mode: 2 } } }],
  ["RdtClosID", { linux: { rdt: { closId: { value: "x" } } } }],
  ["MemLimit", { linux: { resources: { memory: { limit: { value: 1n } } } } }],
  ["CPUSetCPUs", { linux: { resources: { cpu: { cpus: "0" } } } }],
  ["PidsLimit", { linux: { resources: { pids: { limit: 3n } } } }],
  ['HugepageLimits "2MB"', { linux: { resources: { hugepageLimits: [{ pageSize: "2MB", limit: 1n }] } } }],
  ['CgroupsUnified "memory.high"', { linux: { resources: { unified: { "memory.high": "1" } } } }],
];
it.each(conflicts)("names both plugins that set %s", (what, adjust) => {
  expect(() => merged(adjust, adjust)).toThrow(`NRI plugins 00-p0 and 01-p1 both set ${what} of container c`);
});

it("lets a plugin take away what another one wants and set it anew", () => {
  const all = merged(
    { env: [{ key: "E", value: "1" }], args: ["a"], annotations: { a: "1" } },
    { env: [{ key: "-E" }, { key: "E", value: "2" }], args: ["", "b"], annotations: { "-a": "", a: "2" } },
  );
  expect(all.container.env).toContain("E=2");
  expect([all.adjustment.args, all.container.annotations.a]).toEqual([["b"], "2"]);
  expect(all.owners.message().owners.c?.simple[api.Field.Args]).toBe("01-p1");
});

it("lets everybody add hooks and says who has", () => {
  const hook = { prestart: [{ path: "/bin/true" }] };
  const all = merged({ hooks: hook }, { hooks: hook });
  expect(all.adjustment.hooks?.prestart).toHaveLength(2);
  expect(all.owners.of("c", api.Field.OciHooks)).toBe("00-p0,01-p1");
});

it("refuses what the configuration forbids, and of seccomp by what the container had", () => {
  const all = merged({ hooks: { poststop: [{ path: "/x" }] }, linux: { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } } });
  const check = (...rejected: Parameters<typeof checkAllowed>[0]): void => checkAllowed(rejected, container, all.owners);
  expect(() => check("hooks")).toThrow("NRI plugin 00-p0 changes hooks of container web");
  expect(() => check("seccomp-unconfined")).toThrow("seccomp-unconfined");
  check("seccomp-default", "seccomp-localhost", "env", "mounts", "namespaces", "resources");
});

it("puts updates of one container together, and one that matters to somebody matters", () => {
  const updates = new Updates(new Owners());
  const update = (resources: object, ignoreFailure: boolean): api.ContainerUpdate =>
    api.ContainerUpdate.fromPartial({ containerId: "o", linux: { resources }, ignoreFailure });
  updates.add("a", [update({ cpu: { shares: { value: 1n } } }, true)]);
  updates.add("b", [update({ memory: { limit: { value: 2n } } }, false)]);
  expect(updates.all).toMatchObject([
    {
      containerId: "o",
      ignoreFailure: false,
      linux: { resources: { cpu: { shares: { value: 1n } }, memory: { limit: { value: 2n } } } },
    },
  ]);
  expect(() => updates.add("c", [update({ cpu: { shares: { value: 3n } } }, false)])).toThrow(
    "NRI plugins a and c both set CPUShares",
  );
});
