import { describe, expect, it } from "vitest";
import type { Config } from "../../../../src/core/library/config.ts";
import { asksForLimits } from "../../../../src/core/library/delegated-cgroups.ts";
import { needsMapper, refuseBeyondUser, refuseCriu, refuseUnmappedUser } from "../../../../src/core/library/rootless.ts";

const caller = { uid: 1000, gid: 1001 };
const map = (containerID: number, hostID: number, size: number) => ({ containerID, hostID, size });
const own: Config = {
  rootfs: "/r",
  namespaces: [{ type: "user" }, { type: "mnt" }],
  uidMappings: [map(0, 1000, 1)],
  gidMappings: [map(0, 1001, 1)],
};
const ranges: Config = {
  ...own,
  uidMappings: [map(0, 1000, 1), map(1, 100_000, 10)],
  gidMappings: [map(0, 1001, 1), map(1, 100_000, 10)],
};

describe("what an ordinary user's container can be", () => {
  it("is one in a user namespace that maps its root", () => {
    expect(() => refuseBeyondUser(own, caller)).not.toThrow();
    expect(() => refuseBeyondUser({ rootfs: "/r", namespaces: [{ type: "mnt" }] }, caller)).toThrow("needs a user namespace");
    expect(() => refuseBeyondUser({ ...own, uidMappings: [map(5, 1000, 1)] }, caller)).toThrow("must map id 0");
  });

  it.each<[string, Partial<Config>]>([
    ["netDevices", { netDevices: { eth0: {} } }],
    ["intelRdt", { intelRdt: { closID: "a" } }],
    ["timeOffsets", { timeOffsets: { boottime: { secs: 1 } } }],
    ["id-mapped mounts", { mounts: [{ source: "/a", destination: "/a", flags: ["bind", "idmap"] }] }],
  ])("has no %s", (what, changes) => {
    expect(() => refuseBeyondUser({ ...own, ...changes }, caller)).toThrow(
      `user 1000 is not root: ${what} can be had by root only`,
    );
  });

  it("has mounts with mapped owners only", () => {
    const mounts = [{ destination: "/dev/pts", device: "devpts", data: "gid=5" }];
    expect(() => refuseBeyondUser({ ...own, mounts }, caller)).toThrow("the option gid=5, and 5 is not mapped");
    expect(() => refuseBeyondUser({ ...ranges, mounts }, caller)).not.toThrow();
  });

  it("has users that are mapped, and groups where it has a range of them", () => {
    const user = { uid: 0, gid: 0, additionalGids: [3] };
    expect(() => refuseUnmappedUser(ranges, user, caller)).not.toThrow();
    expect(() => refuseUnmappedUser(own, user, caller)).toThrow("additional groups need more than its own group");
    expect(() => refuseUnmappedUser(ranges, { uid: 11, gid: 0 }, caller)).toThrow("user 11 is not in uidMappings");
    expect(() => refuseUnmappedUser(ranges, { uid: 0, gid: 0, additionalGids: [99] }, caller)).toThrow(
      "group 99 is not in gidMappings",
    );
  });

  it("needs newuidmap for more than its own ids", () => {
    expect([own, ranges, { ...own, uidMappings: [map(0, 1001, 1)] }].map((config) => needsMapper(config, caller))).toEqual([
      false,
      true,
      true,
    ]);
  });

  it("is not checkpointed", () => {
    expect(() => refuseCriu(caller)).toThrow("only root can checkpoint");
    expect(() => refuseCriu(undefined)).not.toThrow();
  });
});

it("counts everything but device rules as a limit", () => {
  const asks = (resources: NonNullable<Config["cgroups"]>["resources"]) =>
    asksForLimits({ rootfs: "/", cgroups: resources === undefined ? {} : { resources } });
  expect(
    [undefined, {}, { devices: [{ type: "a", major: -1, minor: -1 }] }, { memory: {} }, { pids: { limit: 0 } }].map((r) =>
      asks(r as never),
    ),
  ).toEqual([false, false, false, false, true]);
});
