/** Devices of NRI plugins, and interfaces of the node's network that move into the container's. */
import type { OciDevice, OciDeviceRule, OciNetDevices, OciSpec } from "../core/oci.ts";
import type { LinuxContainerAdjustment, LinuxDevice, LinuxDeviceCgroup } from "../gen/nri/v1alpha1/api.ts";
import { applyEntries, applyMap, isRemoval } from "../nri/merge-keyed.ts";
import { cleanAbsolutePath, invalid, quoted, safeNumber } from "./translate-check.ts";

function deviceOf(device: LinuxDevice): OciDevice {
  const path = cleanAbsolutePath("device path", device.path);
  const { type } = device;
  if (path === "/") throw invalid("device path must not be /");
  if (type !== "c" && type !== "b" && type !== "u" && type !== "p")
    throw invalid(`device type ${quoted(type)} of ${path} is not known`);
  const mode = device.fileMode?.value;
  return {
    path,
    type,
    ...(type === "p" ? {} : { major: safeNumber("device major", device.major), minor: safeNumber("device minor", device.minor) }),
    ...(mode === undefined ? {} : { fileMode: mode & 0o777 }),
    ...(device.uid === undefined ? {} : { uid: device.uid.value }),
    ...(device.gid === undefined ? {} : { gid: device.gid.value }),
  };
}

function ruleOf({ allow, type, major, minor, access }: LinuxDeviceCgroup): OciDeviceRule {
  if (type !== "a" && type !== "b" && type !== "c")
    throw invalid(`device rule of an NRI plugin has type ${quoted(type)}, which is none of a, b, c`);
  if (!/^[rwm]{0,3}$/.test(access))
    throw invalid(`access ${quoted(access)} in a device rule of an NRI plugin is not made of r, w, m`);
  const number = (what: string, value: { value: bigint } | undefined): number | undefined =>
    // -1 and absence are both any device.
    value === undefined || value.value === -1n ? undefined : safeNumber(`device ${what}`, value.value);
  const [majorNumber, minorNumber] = [number("major", major), number("minor", minor)];
  return {
    allow,
    type,
    ...(majorNumber === undefined ? {} : { major: majorNumber }),
    ...(minorNumber === undefined ? {} : { minor: minorNumber }),
    access: access === "" ? "rwm" : access,
  };
}

/** A device that is given may be used, one that is taken away may not; further rules of the plugins have the last word. */
export function adjustDevices(
  linux: OciSpec["linux"],
  wanted: readonly LinuxDevice[],
  ruled: readonly LinuxDeviceCgroup[],
): Pick<OciSpec["linux"], "devices" | "resources"> {
  const before = linux.devices ?? [];
  const devices = applyEntries(
    before,
    ({ path }) => path,
    wanted,
    ({ path }) => path,
    deviceOf,
  );
  const key = ({ type, major, minor }: Pick<OciDevice, "major" | "minor"> & { type?: string }): string =>
    `${type}:${major}:${minor}`;
  const kept = new Set(devices.map(key));
  const gone = new Set(before.map(key).filter((device) => !kept.has(device)));
  const added = wanted.filter(({ path, type }) => !isRemoval(path) && type !== "p").map(deviceOf);
  const rules = [
    ...(linux.resources?.devices ?? []).filter((rule) => !(rule.allow && gone.has(key(rule)))),
    ...added.map(({ type, major = 0, minor = 0 }) => {
      return { allow: true, type: type === "b" ? ("b" as const) : ("c" as const), major, minor, access: "rwm" };
    }),
    ...ruled.map(ruleOf),
  ];
  return { devices, resources: { ...linux.resources, devices: rules } };
}

/** By their names on the node. */
export function adjustNetDevices(
  before: OciNetDevices | undefined,
  wanted: LinuxContainerAdjustment["netDevices"],
): OciNetDevices {
  const named = Object.entries(wanted).map(([key, { name }]) => [key, name === "" ? {} : { name }] as const);
  return applyMap(before ?? {}, Object.fromEntries(named));
}
