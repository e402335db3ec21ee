import { describe, expect, it } from "vitest";
import { podAddresses } from "../../../src/network/cni-result.ts";

const interfaces = [
  { name: "cni0", mac: "02:00:00:00:00:01" },
  { name: "veth1", sandbox: "" },
  { name: "eth0", sandbox: "/run/netns/x" },
  { name: "net1", sandbox: "/run/netns/x" },
];

describe("addresses of a pod", () => {
  it("are those of eth0 in the order of the result, without prefix lengths", () => {
    const ips = [
      { address: "10.1.0.9/24", interface: 3 },
      { address: "fd00::5/64", interface: 2 },
      { address: "10.0.0.5/24", interface: 2 },
      { address: "10.0.0.1/24", interface: 0 },
    ];
    expect(podAddresses({ interfaces, ips }, "eth0", "cni")).toEqual(["fd00::5", "10.0.0.5"]);
    expect(podAddresses({ interfaces, ips }, "eth0", "ipv4")).toEqual(["10.0.0.5", "fd00::5"]);
    expect(podAddresses({ interfaces, ips }, "eth0", "ipv6")).toEqual(["fd00::5", "10.0.0.5"]);
  });

  it("are found without an interface index", () => {
    expect(podAddresses({ interfaces, ips: [{ address: "10.0.0.5/24" }] }, "eth0", "cni")).toEqual(["10.0.0.5"]);
  });

  it("are found in results of versions before 0.3", () => {
    expect(podAddresses({ ip4: { ip: "10.0.0.5/24" }, ip6: { ip: "fd00::5/64" } }, "eth0", "cni")).toEqual([
      "10.0.0.5",
      "fd00::5",
    ]);
  });

  it("are not those of an interface of the host that has the same name", () => {
    const result = { interfaces: [{ name: "eth0" }], ips: [{ address: "192.168.0.2/24", interface: 0 }] };
    expect(() => podAddresses(result, "eth0", "cni")).toThrow(/no address for eth0/);
  });

  it.each([
    [{}, /no address for eth0/],
    [{ ips: [] }, /no address for eth0/],
    [{ interfaces, ips: [{ address: "10.0.0.5/24", interface: 9 }] }, /interface 9, which it lacks/],
    [{ ips: [{ address: "nonsense" }] }, /is none|that is none/],
    [{ ips: [{}] }, /that is none/],
  ])("are an error in %j", (result, message) => {
    expect(() => podAddresses(result, "eth0", "cni")).toThrow(message);
  });
});
