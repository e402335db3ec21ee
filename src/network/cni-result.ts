/** Results of plugins: what all versions have in common, and the pod's addresses. */
import { isIP } from "node:net";
import { RuntimeError } from "../lib/errors.ts";
import type { JsonObject } from "./network-list.ts";

interface ResultInterface {
  readonly name: string;
  /** Path of the network namespace; empty: on the host. */
  readonly sandbox: string;
}

interface ResultAddress {
  readonly address: string;
  /** Index into the interfaces. */
  readonly interfaceIndex: number | undefined;
}

interface CommonResult {
  readonly interfaces: readonly ResultInterface[];
  readonly addresses: readonly ResultAddress[];
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : "");
const objectsIn = (value: unknown): Record<string, unknown>[] =>
  Array.isArray(value) ? value.filter((item) => typeof item === "object" && item !== null) : [];

/** "10.0.0.5/24" without the prefix length; undefined when it is no address. */
function withoutPrefix(cidr: string): string | undefined {
  const address = cidr.split("/")[0] ?? "";
  return isIP(address) === 0 ? undefined : address;
}

/** 0.3.0 and later have `interfaces` and `ips`; before that there were `ip4` and `ip6` objects and no interfaces. */
function common(result: JsonObject): CommonResult {
  if (!("ips" in result) && ("ip4" in result || "ip6" in result)) {
    const legacy = [result.ip4, result.ip6].flatMap((ip) => objectsIn([ip]));
    return { interfaces: [], addresses: legacy.map((ip) => ({ address: textOf(ip.ip), interfaceIndex: undefined })) };
  }
  return {
    interfaces: objectsIn(result.interfaces).map(({ name, sandbox }) => ({ name: textOf(name), sandbox: textOf(sandbox) })),
    addresses: objectsIn(result.ips).map((ip) => ({
      address: textOf(ip.address),
      interfaceIndex: typeof ip.interface === "number" ? ip.interface : undefined,
    })),
  };
}

export type IpPreference = "cni" | "ipv4" | "ipv6";

/** Addresses of the pod's interface; an address without an interface index is the pod's. Never empty: that is an error. */
export function podAddresses(result: JsonObject, ifName: string, preference: IpPreference): string[] {
  const { interfaces, addresses } = common(result);
  const found: string[] = [];
  for (const { address, interfaceIndex } of addresses) {
    const ip = withoutPrefix(address);
    if (ip === undefined)
      throw new RuntimeError("internal", `the CNI result has an address ${JSON.stringify(address)} that is none`);
    if (interfaceIndex !== undefined) {
      const on = interfaces[interfaceIndex];
      if (on === undefined)
        throw new RuntimeError("internal", `the CNI result has an address on interface ${interfaceIndex}, which it lacks`);
      if (on.name !== ifName || on.sandbox === "") continue;
    }
    if (!found.includes(ip)) found.push(ip);
  }
  if (found.length === 0) throw new RuntimeError("internal", `the CNI result has no address for ${ifName}`);
  if (preference === "cni") return found;
  const preferred = preference === "ipv4" ? 4 : 6;
  return [...found.filter((ip) => isIP(ip) === preferred), ...found.filter((ip) => isIP(ip) !== preferred)];
}
