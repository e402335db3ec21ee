/** Limits of block devices, network classes and RDMA as writes to cgroup files (libcontainer section 6.2). Pure. */
import { RuntimeError } from "../../lib/errors.ts";
import type { OciBlockIo, OciResources, OciThrottle } from "../oci.ts";
import type { ResourceContext, ResourceWrite } from "./resource-writes.ts";

const throttles = [
  ["throttleReadBpsDevice", "read_bps", "rbps"],
  ["throttleWriteBpsDevice", "write_bps", "wbps"],
  ["throttleReadIOPSDevice", "read_iops", "riops"],
  ["throttleWriteIOPSDevice", "write_iops", "wiops"],
] as const;

export function deviceWrites(resources: OciResources, context: ResourceContext): readonly ResourceWrite[] {
  const { blockIO } = resources;
  const blockWrites = context.versionOf("blkio") === 1 ? blockWritesV1 : blockWritesV2;
  return [...(blockIO === undefined ? [] : blockWrites(blockIO)), ...networkWrites(resources), ...rdmaWrites(resources)];
}

function blockWritesV1(asked: OciBlockIo): readonly ResourceWrite[] {
  const write = (file: string, value: string) => ({ controller: "blkio", file: `blkio.${file}`, value });
  const { weight, leafWeight, weightDevice = [] } = asked;
  return [
    ...positive("weight", weight).map((value) => ({ ...write("weight", value), orElse: write("bfq.weight", value) })),
    ...positive("leafWeight", leafWeight).map((value) => write("leaf_weight", value)),
    ...weightDevice.flatMap((device): ResourceWrite[] => {
      const key = keyOf(device);
      const keyed = (file: string, value: string) => ({ ...write(file, `${key} ${value}`), key, reset: `${key} 0` });
      return [
        ...positive("weight", device.weight).map((value) => ({
          ...keyed("weight_device", value),
          orElse: keyed("bfq.weight_device", value),
        })),
        ...positive("leafWeight", device.leafWeight).map((value) => keyed("leaf_weight_device", value)),
      ];
    }),
    ...eachThrottle(asked, (device, rate, [, file]) => {
      const key = keyOf(device);
      return { ...write(`throttle.${file}_device`, `${key} ${rate}`), key, reset: `${key} 0` };
    }),
  ];
}

function blockWritesV2(asked: OciBlockIo): readonly ResourceWrite[] {
  const write = (file: string, value: string) => ({ controller: "io", file: `io.${file}`, value });
  const { weight, leafWeight, weightDevice = [] } = asked;
  if (leafWeight !== undefined && leafWeight !== 0) throw onlyV1("blockIO.leafWeight");
  return [
    ...positive("weight", weight).map((value) => ({
      ...write("bfq.weight", value),
      orElse: write("weight", String(ioWeight(Number(value)))),
    })),
    ...weightDevice.flatMap((device): ResourceWrite[] => {
      if (device.leafWeight !== undefined && device.leafWeight !== 0) throw onlyV1("blockIO.weightDevice.leafWeight");
      const key = keyOf(device);
      return positive("weight", device.weight).map((value) => ({
        ...write("bfq.weight", `${key} ${value}`),
        key,
        reset: `${key} default`,
      }));
    }),
    ...eachThrottle(asked, (device, rate, [, , word]) => {
      const key = keyOf(device);
      const most = rate === "0" ? "max" : rate;
      return { ...write("max", `${key} ${word}=${most}`), key, reset: `${key} rbps=max wbps=max riops=max wiops=max` };
    }),
  ];
}

/** io.weight that has the same place between its ends: 10 to 1000 become 1 to 10000. */
export function ioWeight(weight: number): number {
  return 1 + Math.floor(((weight - 10) * 9999) / 990);
}

function eachThrottle(
  asked: OciBlockIo,
  make: (device: OciThrottle, rate: string, names: (typeof throttles)[number]) => ResourceWrite,
): readonly ResourceWrite[] {
  return throttles.flatMap((names) =>
    (asked[names[0]] ?? []).map((device) => {
      if (!Number.isInteger(device.rate) || device.rate < 0) throw invalid(`blockIO.${names[0]} rate ${device.rate}`);
      return make(device, String(device.rate), names);
    }),
  );
}

function networkWrites({ network }: OciResources): readonly ResourceWrite[] {
  const { classID, priorities = [] } = network ?? {};
  return [
    ...(classID === undefined ? [] : [{ controller: "net_cls", file: "net_cls.classid", value: String(classID) }]),
    ...priorities.map(({ name, priority }): ResourceWrite => {
      if (!/^[^\s/]{1,15}$/.test(name)) throw invalid(`network.priorities name ${JSON.stringify(name)}`);
      return { controller: "net_prio", file: "net_prio.ifpriomap", value: `${name} ${priority}`, key: name, reset: `${name} 0` };
    }),
  ];
}

function rdmaWrites({ rdma }: OciResources): readonly ResourceWrite[] {
  return Object.entries(rdma ?? {}).map(([device, { hcaHandles, hcaObjects }]): ResourceWrite => {
    if (!/^[^\s/]{1,64}$/.test(device)) throw invalid(`rdma device ${JSON.stringify(device)}`);
    const words = [
      ...(hcaHandles === undefined ? [] : [`hca_handle=${hcaHandles}`]),
      ...(hcaObjects === undefined ? [] : [`hca_object=${hcaObjects}`]),
    ];
    const reset = `${device} hca_handle=max hca_object=max`;
    return { controller: "rdma", file: "rdma.max", value: [device, ...words].join(" "), key: device, reset };
  });
}

/** 0 says nothing. */
function positive(what: string, value: number | undefined): readonly string[] {
  if (value === undefined || value === 0) return [];
  if (!Number.isInteger(value) || value < 10 || value > 1000) throw invalid(`blockIO.${what} ${value} (10 to 1000)`);
  return [String(value)];
}

function keyOf({ major, minor }: { readonly major: number; readonly minor: number }): string {
  return `${major}:${minor}`;
}

function invalid(what: string): RuntimeError {
  return new RuntimeError("invalid_argument", `${what} is not valid`);
}

export function onlyV1(field: string): RuntimeError {
  return new RuntimeError(
    "failed_precondition",
    `resources.${field} cannot be set: only cgroup v1 has it, and this node uses v2`,
  );
}
