import { describe, expect, it } from "vitest";
import { bandwidthOf } from "../../../src/network/bandwidth.ts";

const ingress = (value: string) => bandwidthOf({ "kubernetes.io/ingress-bandwidth": value })?.ingressRate;

describe("bandwidth annotations", () => {
  it("mean nothing when they are missing", () => {
    expect(bandwidthOf({ other: "10M" })).toBeUndefined();
  });

  it("limit each direction for itself, without a limit on bursts", () => {
    expect(bandwidthOf({ "kubernetes.io/egress-bandwidth": "1G" })).toEqual({ egressRate: 1e9, egressBurst: 2 ** 32 - 1 });
  });

  it.each([
    ["10M", 10_000_000],
    ["1k", 1000],
    ["1Mi", 1_048_576],
    ["1.5M", 1_500_000],
    ["1e6", 1_000_000],
    ["1P", 1e15],
    ["1000", 1000],
    ["1000.0001", 1001],
  ])("read %s as %d bits per second", (text, rate) => {
    expect(ingress(text)).toBe(rate);
  });

  it.each(["", "fast", "-10M", "10 M", "10MB", "999", "1.1P", "1E", "1e99", "1M\n"])("refuse %j", (text) => {
    expect(() => ingress(text)).toThrow(/annotation kubernetes.io\/ingress-bandwidth has the value/);
  });
});
