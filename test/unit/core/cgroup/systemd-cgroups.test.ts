/** Changes of limits of a scope: a tree of plain files and a systemd that remembers what it is told. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { Systemd } from "../../../../src/core/cgroup/systemd.ts";
import { SystemdCgroups } from "../../../../src/core/cgroup/systemd-cgroups.ts";
import type { Variant } from "../../../../src/lib/dbus/signature.ts";
import { FakeBus } from "../../../helpers/fake-bus.ts";

const path = "/kubepods.slice/cri-containerd-x.scope";
let root: string;
let bus: FakeBus;
let cgroups: SystemdCgroups;
let known: Map<string, Variant>;
const read = (file: string): string => readFileSync(join(root, path, file), "utf8");

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), "caisson-cgroup-"));
  mkdirSync(join(root, path), { recursive: true });
  // As long as what is written: a plain file keeps the rest of a longer value.
  writeFileSync(join(root, path, "cpu.max"), "30000 50000");
  writeFileSync(join(root, path, "pids.max"), "20");
  known = new Map<string, Variant>([
    ["Version", { signature: "s", value: "252.39" }],
    ["CPUQuotaPerSecUSec", { signature: "t", value: 600_000n }],
    ["CPUQuotaPeriodUSec", { signature: "t", value: 50_000n }],
    ["TasksMax", { signature: "t", value: 20n }],
  ]);
  bus = await FakeBus.start();
  bus.handlers.set("Get", ({ body }) => ({
    signature: "v",
    body: [known.get(String(body[1])) ?? { signature: "s", value: "?" }],
  }));
  bus.handlers.set("GetUnit", () => ({ signature: "o", body: ["/org/freedesktop/systemd1/unit/x"] }));
  bus.handlers.set("SetUnitProperties", ({ body }) => {
    for (const [name, value] of body[2] as readonly [string, Variant][]) known.set(name, value);
    return {};
  });
  const unified = { mountPoint: root, controllers: new Set(["cpu", "cpuset", "memory", "pids"]) };
  cgroups = new SystemdCgroups({ version: "v2", v1: [], unified }, new Systemd(bus.socket));
});
afterEach(async () => {
  cgroups[Symbol.dispose]();
  await bus[Symbol.asyncDispose]();
  rmSync(root, { recursive: true });
});

const state = (): unknown => [
  read("cpu.max"),
  read("pids.max"),
  known.get("CPUQuotaPerSecUSec")?.value,
  known.get("TasksMax")?.value,
];
const before = ["30000 50000", "20", 600_000n, 20n];
const asked = { cpu: { quota: 12_345, period: 50_000 }, pids: { limit: 64 } };

it("reaches the unit and the files, and is undone in both", async () => {
  const { undo } = await cgroups.change(path, asked);
  expect(state()).toEqual(["12345 50000", "64", 250_000n, 64n]);
  await undo();
  expect(state()).toEqual(before);
});

it("puts the files back when systemd refuses", async () => {
  bus.handlers.set("SetUnitProperties", () => ({
    error: "org.freedesktop.DBus.Error.InvalidArgs",
    signature: "s",
    body: ["no"],
  }));
  await expect(cgroups.change(path, asked)).rejects.toThrow(/does not change cri-containerd-x\.scope/);
  expect(state()).toEqual(before);
});

it("leaves systemd alone when the kernel refuses", async () => {
  rmSync(join(root, path, "pids.max"));
  await expect(cgroups.change(path, { pids: { limit: 64 } })).rejects.toMatchObject({ code: "failed_precondition" });
  expect(bus.names()).not.toContain("SetUnitProperties");
});

it("puts both back when the files are refused after systemd was told", async () => {
  bus.handlers.set("SetUnitProperties", ({ body }) => {
    for (const [name, value] of body[2] as readonly [string, Variant][]) known.set(name, value);
    rmSync(join(root, path, "pids.max"), { force: true });
    return {};
  });
  await expect(cgroups.change(path, asked)).rejects.toMatchObject({ code: "failed_precondition" });
  expect([read("cpu.max"), known.get("CPUQuotaPerSecUSec")?.value, known.get("TasksMax")?.value]).toEqual([
    "30000 50000",
    600_000n,
    20n,
  ]);
});
