import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Systemd } from "../../../../src/core/cgroup/systemd.ts";
import type { Variant } from "../../../../src/lib/dbus/signature.ts";
import { FakeBus } from "../../../helpers/fake-bus.ts";

let bus: FakeBus;
let systemd: Systemd;
beforeEach(async () => {
  bus = await FakeBus.start();
  systemd = new Systemd(bus.socket);
  bus.handlers.set("Get", ({ body }) => ({
    signature: "v",
    body: [{ signature: "s", value: body[1] === "Version" ? "252.39-1~deb12u1" : "active" }],
  }));
});
afterEach(async () => {
  systemd[Symbol.dispose]();
  await bus[Symbol.asyncDispose]();
});

const job = "/org/freedesktop/systemd1/job/5";
const removed = (unit: string, result: string, at = job): void => bus.signal("JobRemoved", "uoss", [5, at, unit, result]);
const startsWith = (before: () => void, after?: () => void): void => {
  bus.handlers.set("StartTransientUnit", () => ({ signature: "o", body: [job], before, ...(after ? { after } : {}) }));
};
const unitExists = { error: "org.freedesktop.systemd1.UnitExists", signature: "s", body: ["it exists"] };
const noSuchUnit = { error: "org.freedesktop.systemd1.NoSuchUnit", signature: "s", body: ["not loaded"] };

describe("a transient unit", () => {
  it("is there when its job is done", async () => {
    startsWith(
      () => {},
      () => setTimeout(() => removed("a.scope", "done"), 20),
    );
    await systemd.startTransient("a.scope", [["Delegate", { signature: "b", value: true }]]);
    expect(bus.names()).toEqual(["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
    expect(bus.calls[3]?.body).toEqual(["a.scope", "replace", [["Delegate", { signature: "b", value: true }]], []]);
  });

  it("is there when the job ended ahead of the answer", async () => {
    startsWith(() => removed("a.scope", "done"));
    await systemd.startTransient("a.scope", []);
  });

  it("is not confused by jobs of others, or by an older job of its own", async () => {
    startsWith(
      () => removed("a.scope", "failed", "/older"),
      () => {
        removed("b.scope", "failed");
        removed("a.scope", "done");
      },
    );
    await systemd.startTransient("a.scope", []);
  });

  it("fails with systemd's own word", async () => {
    startsWith(() => removed("a.scope", "dependency"));
    await expect(systemd.startTransient("a.scope", [])).rejects.toThrow(/a\.scope ended with dependency/);
  });

  it("is looked at when systemd says nothing", { timeout: 10_000 }, async () => {
    startsWith(() => {});
    bus.handlers.set("GetUnit", () => ({ signature: "o", body: ["/org/freedesktop/systemd1/unit/a"] }));
    await systemd.startTransient("a.scope", []);
    expect(bus.names()).toContain("GetUnit");
  });

  it("takes the place of a failed one", async () => {
    let tries = 0;
    bus.handlers.set("StartTransientUnit", () =>
      tries++ === 0 ? unitExists : { signature: "o", body: [job], before: () => removed("a.scope", "done") },
    );
    await systemd.startTransient("a.scope", []);
    expect(bus.names().slice(3)).toEqual(["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);
  });

  it("does not take the place of a living one", async () => {
    bus.handlers.set("StartTransientUnit", () => unitExists);
    await expect(systemd.startTransient("a.scope", [])).rejects.toMatchObject({ code: "already_exists" });
    expect(bus.names().filter((name) => name === "StartTransientUnit")).toHaveLength(2);
  });

  it("is made through a new connection when the former was lost", async () => {
    startsWith(() => removed("a.scope", "done"));
    await systemd.startTransient("a.scope", []);
    bus.drop();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await Promise.all([systemd.startTransient("a.scope", []), systemd.version()]);
    expect(bus.accepted).toBe(2);
  });

  it("is not made without a bus", async () => {
    const lonely = new Systemd(`${bus.socket}-not`);
    await expect(lonely.startTransient("a.scope", [])).rejects.toMatchObject({ code: "unavailable" });
    await expect(lonely.startTransient("a.scope", [])).rejects.toThrow(/is the dbus service running/);
  });
});

describe("the end of a unit", () => {
  it("is waited for, and nothing stays", async () => {
    bus.handlers.set("StopUnit", () => ({ signature: "o", body: [job], before: () => removed("a.scope", "done") }));
    await systemd.stop("a.scope");
    expect(bus.names().slice(3)).toEqual(["StopUnit", "ResetFailedUnit"]);
  });

  it("is no error when there is none", async () => {
    bus.handlers.set("StopUnit", () => noSuchUnit);
    await systemd.stop("a.scope");
    bus.handlers.set("StopUnit", () => ({ signature: "o", body: [job], before: () => removed("a.scope", "done") }));
    bus.handlers.set("ResetFailedUnit", () => noSuchUnit);
    await systemd.stop("a.scope");
  });
});

describe("systemd", () => {
  it("is asked for its version once", async () => {
    expect([await systemd.version(), await systemd.version()]).toEqual([252, 252]);
    expect(bus.names().filter((name) => name === "Get")).toHaveLength(1);
  });

  it("is not bothered with no properties", async () => {
    await systemd.setProperties("a.scope", []);
    expect(bus.names()).toEqual([]);
    await systemd.setProperties("a.scope", [["TasksMax", { signature: "t", value: 7n }]]);
    expect(bus.calls.at(-1)?.body).toEqual(["a.scope", true, [["TasksMax", { signature: "t", value: 7n }]]]);
  });

  it("tells what a scope has, so that it can be put back", async () => {
    bus.handlers.set("GetUnit", () => ({ signature: "o", body: ["/org/freedesktop/systemd1/unit/a_2escope"] }));
    const now = new Map<string, Variant>([
      ["TasksMax", { signature: "t", value: 9n }],
      ["AllowedCPUs", { signature: "ay", value: new Uint8Array() }],
    ]);
    bus.handlers.set("Get", ({ path, body }) => {
      const known = path === "/org/freedesktop/systemd1/unit/a_2escope" && body[0] === "org.freedesktop.systemd1.Scope";
      return { signature: "v", body: [(known && now.get(String(body[1]))) || { signature: "s", value: "?" }] };
    });
    const former = await systemd.scopeProperties("a.scope", [
      ["TasksMax", { signature: "t", value: 7n }],
      ["AllowedCPUs", { signature: "ay", value: Uint8Array.of(1) }],
    ]);
    expect(former.map(([name, { value }]) => [name, value])).toEqual([
      ["TasksMax", 9n],
      ["AllowedCPUs", Buffer.alloc(0)],
    ]);
    await systemd.setProperties("a.scope", former);
    expect(bus.names().at(-1)).toBe("SetUnitProperties");
  });

  it("has no limits to tell of a scope that is gone", async () => {
    bus.handlers.set("GetUnit", () => noSuchUnit);
    const asked = systemd.scopeProperties("a.scope", [["TasksMax", { signature: "t", value: 7n }]]);
    await expect(asked).rejects.toThrow(/limits of a\.scope/);
  });
});
