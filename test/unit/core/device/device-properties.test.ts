import { describe, expect, it } from "vitest";
import { deviceProperties } from "../../../../src/core/device/device-properties.ts";

const denyAll = { allow: false, access: "rwm" } as const;

describe("device rules for systemd", () => {
  it("are a strict list of what is allowed", () => {
    const { policy, allow } = deviceProperties([denyAll, { allow: true, type: "b", major: 8, minor: 1, access: "r" }]);
    expect(policy).toBe("strict");
    expect(allow).toContainEqual(["/dev/block/8:1", "r"]);
    expect(allow).toContainEqual(["/dev/char/1:3", "rwm"]);
    expect(allow).toContainEqual(["char-136", "rwm"]);
    expect(allow).toContainEqual(["char-*", "m"]);
  });

  it("are no list when everything is allowed", () => {
    expect(deviceProperties([denyAll, { allow: true, access: "rwm" }])).toEqual({ policy: "auto", allow: [] });
  });

  it("never tell of more than they allow", () => {
    const hole = { allow: false, type: "c", major: 8, minor: 3, access: "w" } as const;
    const { allow } = deviceProperties([denyAll, { allow: true, type: "c", major: 8, access: "rwm" }, hole]);
    expect(allow.map(([path]) => path)).not.toContain("char-8");
    const everything = deviceProperties([{ allow: true, access: "rwm" }, hole]);
    expect(everything.policy).toBe("strict");
    expect(everything.allow).toContainEqual(["/dev/char/1:3", "rwm"]);
  });

  it("leave out what cannot be said", () => {
    const { allow } = deviceProperties([denyAll, { allow: true, type: "c", minor: 5, access: "r" }]);
    expect(allow.filter(([, access]) => access === "r")).toEqual([]);
  });
});
