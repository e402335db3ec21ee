import { describe, expect, it } from "vitest";
import { chooseCgroupDriver } from "../../../src/cri/instance.ts";
import { FakeStore } from "./fake/fake-store.ts";

function stored(driver?: string): FakeStore {
  const store = new FakeStore();
  if (driver !== undefined) store.collection<string>("settings").put("cgroup-driver", driver);
  return store;
}

describe("the cgroup driver", () => {
  it("is what the configuration says", () => {
    expect(chooseCgroupDriver(stored("systemd"), "cgroupfs", true)).toBe("cgroupfs");
    expect(chooseCgroupDriver(stored("cgroupfs"), "systemd", true)).toBe("systemd");
  });

  it("cannot be systemd where that does not run", () => {
    expect(() => chooseCgroupDriver(stored(), "systemd", false)).toThrow(/systemd does not run here; set it to cgroupfs/);
  });

  it("is systemd by itself on a new node where that is process 1", () => {
    expect(chooseCgroupDriver(stored(), "auto", true)).toBe("systemd");
    expect(chooseCgroupDriver(stored(), "auto", false)).toBe("cgroupfs");
  });

  it("does not change by itself", () => {
    expect(chooseCgroupDriver(stored("cgroupfs"), "auto", true)).toBe("cgroupfs");
    expect(chooseCgroupDriver(stored("systemd"), "auto", true)).toBe("systemd");
    expect(chooseCgroupDriver(stored("systemd"), "auto", false)).toBe("cgroupfs");
  });
});
