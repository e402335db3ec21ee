import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { containerStatus } from "../../../src/cri/container-status.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { updateContainerResources } from "../../../src/cri/container-update.ts";
import { mergeResources, withPartners } from "../../../src/cri/resource-merge.ts";
import { podSandboxStatus } from "../../../src/cri/sandbox-status.ts";
import { updatePodSandboxResources } from "../../../src/cri/sandbox-update.ts";
import { LinuxContainerResources } from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import { ctx, FakeNode, failure } from "./fake/fake-node.ts";

type Limits = Parameters<typeof LinuxContainerResources.fromPartial>[0];
const limits = (change: Limits): LinuxContainerResources => LinuxContainerResources.fromPartial(change);

let node: FakeNode;
beforeEach(async () => {
  node = new FakeNode();
  await node.open();
});
afterEach(() => node[Symbol.dispose]());

const update = (containerId: string, change: Limits) =>
  updateContainerResources(node.app, ctx(), { containerId, linux: limits(change), windows: undefined, annotations: {} });
const statusOf = async (containerId: string, verbose = false) => await containerStatus(node.app, ctx(), { containerId, verbose });
const shownLimits = async (id: string) => (await statusOf(id)).status?.resources?.linux;
const pathOf = (id: string): string => `/kubepods/pod-u1/${id}`;

describe("UpdateContainerResources", () => {
  it.each(["created", "running"])("changes a %s container, its status and its bundle", async (phase) => {
    const pod = await node.pod();
    const config = { linux: { resources: { cpuShares: 100n, oomScoreAdj: 500n, memoryLimitInBytes: 1000n << 12n } } };
    const id = phase === "created" ? await node.container(pod, config) : await node.running(pod, config);
    await update(id, { cpuShares: 512n, cpusetCpus: "0-1", oomScoreAdj: -5n });
    expect(node.runtime.limits.get(pathOf(id))).toEqual({ cpu: { shares: 512, cpus: "0-1" } });
    expect(await shownLimits(id)).toMatchObject({
      cpuShares: 512n,
      cpusetCpus: "0-1",
      memoryLimitInBytes: 1000n << 12n,
      oomScoreAdj: 500n,
    });
    const { runtimeSpec } = JSON.parse((await statusOf(id, true)).info.info ?? "");
    expect(runtimeSpec.linux.resources.cpu).toEqual({ shares: 512, cpus: "0-1" });
    const bundle = join(node.dir, "state/pods", pod, "containers", id, "config.json");
    expect(JSON.parse(readFileSync(bundle, "utf8")).linux.resources.cpu.cpus).toBe("0-1");
    await node.restart();
    expect(await shownLimits(id)).toMatchObject({ cpuShares: 512n, cpusetCpus: "0-1" });
  });

  it("survives the loss of the database", async () => {
    const id = await node.running(await node.pod());
    await update(id, { cpuShares: 512n });
    node.crash();
    node.store.lose();
    await node.open();
    expect(await shownLimits(id)).toMatchObject({ cpuShares: 512n });
  });

  it("changes nothing at all when the kernel refuses", async () => {
    const id = await node.running(await node.pod(), { linux: { resources: { cpuShares: 100n } } });
    node.runtime.fail("updateResources", new RuntimeError("failed_precondition", "unable to set the memory limit"));
    expect(await failure(update(id, { cpuShares: 512n, memoryLimitInBytes: 4096n }))).toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("unable to set the memory limit"),
    });
    expect(await shownLimits(id)).toMatchObject({ cpuShares: 100n, memoryLimitInBytes: 0n });
  });

  it("puts the limits back when the change cannot be recorded", async () => {
    const id = await node.running(await node.pod());
    await update(id, { cpuShares: 100n });
    node.store.full = true;
    expect(await failure(update(id, { cpuShares: 512n }))).toBeDefined();
    node.store.full = false;
    expect(node.runtime.limits.get(pathOf(id))).toEqual({ cpu: { shares: 100 } });
    expect(await shownLimits(id)).toMatchObject({ cpuShares: 100n });
  });

  it("refuses what cannot be, before anything is changed", async () => {
    const id = await node.running(await node.pod());
    for (const bad of [
      { memoryLimitInBytes: -1n },
      { cpuPeriod: 5n },
      { cpusetCpus: "a" },
      { memorySwapLimitInBytes: 9n << 20n },
    ]) {
      expect(await failure(update(id, bad))).toMatchObject({ code: "invalid_argument" });
    }
    expect(node.runtime.calls).not.toContain("updateResources");
  });

  it("is for created and running containers, and not_found for none", async () => {
    const id = await node.running(await node.pod());
    await stopContainer(node.app, ctx(), { containerId: id, timeout: 0n });
    expect(await failure(update(id, { cpuShares: 512n }))).toMatchObject({ code: "failed_precondition" });
    expect(await failure(update("f".repeat(64), { cpuShares: 512n }))).toMatchObject({ code: "not_found" });
  });
});

describe("limits that go together", () => {
  const before = limits({
    cpuPeriod: 50_000n,
    cpuQuota: 20_000n,
    memoryLimitInBytes: 100n,
    memorySwapLimitInBytes: 150n,
    hugepageLimits: [
      { pageSize: "2MB", limit: 1n },
      { pageSize: "1GB", limit: 2n },
    ],
    unified: { "memory.low": "1", "memory.high": "2" },
  });

  it("are completed with those in force", () => {
    expect(withPartners(limits({ cpuQuota: 30_000n }), before)).toMatchObject({ cpuPeriod: 50_000n, cpuQuota: 30_000n });
    expect(withPartners(limits({ cpuPeriod: 10_000n }), before)).toMatchObject({ cpuPeriod: 10_000n, cpuQuota: 20_000n });
    expect(withPartners(limits({ memorySwapLimitInBytes: 200n }), before)).toMatchObject({ memoryLimitInBytes: 100n });
    expect(withPartners(limits({ cpuShares: 2n }), before)).toEqual(limits({ cpuShares: 2n }));
    expect(withPartners(limits({ cpuQuota: 1n }))).toMatchObject({ cpuPeriod: 0n });
  });

  it("are merged one by one", () => {
    const asked = limits({ hugepageLimits: [{ pageSize: "2MB", limit: 5n }], unified: { "memory.high": "9" } });
    expect(mergeResources(before, asked)).toEqual({
      ...before,
      hugepageLimits: [
        { pageSize: "1GB", limit: 2n },
        { pageSize: "2MB", limit: 5n },
      ],
      unified: { "memory.low": "1", "memory.high": "9" },
    });
    expect(mergeResources(undefined, limits({ cpuShares: 3n }))).toEqual(limits({ cpuShares: 3n }));
  });

  it("do not keep an old sum of memory and swap beside a new memory limit", () => {
    expect(mergeResources(before, limits({ memoryLimitInBytes: 300n })).memorySwapLimitInBytes).toBe(300n);
    expect(mergeResources(limits({}), limits({ memoryLimitInBytes: 300n })).memorySwapLimitInBytes).toBe(0n);
    const both = limits({ memoryLimitInBytes: 300n, memorySwapLimitInBytes: 400n });
    expect(mergeResources(before, both).memorySwapLimitInBytes).toBe(400n);
  });
});

describe("UpdatePodSandboxResources", () => {
  const infoOf = async (podSandboxId: string) =>
    JSON.parse((await podSandboxStatus(node.app, ctx(), { podSandboxId, verbose: true })).info.info ?? "");

  it("keeps what it is told and shows it in verbose info, also after a restart", async () => {
    const pod = await node.pod();
    const resources = limits({ cpuShares: 512n });
    await updatePodSandboxResources(node.app, ctx(), { podSandboxId: pod, overhead: undefined, resources });
    const overhead = limits({ memoryLimitInBytes: 5n });
    await updatePodSandboxResources(node.app, ctx(), { podSandboxId: pod, overhead, resources: undefined });
    await updatePodSandboxResources(node.app, ctx(), { podSandboxId: pod, overhead: undefined, resources: undefined });
    await node.restart();
    expect(await infoOf(pod)).toMatchObject({ resources: { cpu_shares: 512 }, overhead: { memory_limit_in_bytes: 5 } });
    expect(node.runtime.calls).not.toContain("updateResources");
  });

  it("is not_found for none", async () => {
    const request = { podSandboxId: "f".repeat(64), overhead: undefined, resources: limits({}) };
    expect(await failure(updatePodSandboxResources(node.app, ctx(), request))).toMatchObject({ code: "not_found" });
  });
});
