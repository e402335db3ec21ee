import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CgroupStats } from "../../../src/core/runtime.ts";
import { containerStats } from "../../../src/cri/container-stats.ts";
import { listContainerStats } from "../../../src/cri/container-stats-list.ts";
import { stopContainer } from "../../../src/cri/container-stop.ts";
import { UsageSamples } from "../../../src/cri/usage-samples.ts";
import { WritableLayerUsage } from "../../../src/cri/writable-layer-usage.ts";
import { ContainerStatsFilter } from "../../../src/gen/cri/v1/api.ts";
import { ctx, FakeNode, failure, until } from "./fake/fake-node.ts";

describe("CPU rates", () => {
  const second = 1_000_000_000n;

  it("are unknown until there are two readings far enough apart", () => {
    const samples = new UsageSamples();
    expect(samples.nanoCores("a", second, 0n)).toBeUndefined();
    expect(samples.nanoCores("a", second + 1n, 5n)).toBeUndefined();
    expect(samples.nanoCores("a", 3n * second, second)).toBe(second / 2n);
  });

  it("stay the last known in between", () => {
    const samples = new UsageSamples();
    samples.nanoCores("a", second, 0n);
    samples.nanoCores("a", 2n * second, second);
    expect(samples.nanoCores("a", 2n * second + 1n, second)).toBe(second);
  });

  it("start anew when the counter goes back", () => {
    const samples = new UsageSamples();
    samples.nanoCores("a", second, 9n * second);
    expect(samples.nanoCores("a", 3n * second, 0n)).toBeUndefined();
    expect(samples.nanoCores("a", 4n * second, second)).toBe(second);
  });
});

describe("the writable layer", () => {
  let dir: string;
  let nowNs: bigint;
  let usage: WritableLayerUsage;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "caisson-layer-"));
    nowNs = 1_000n;
    usage = new WritableLayerUsage({ nowNs: () => nowNs });
  });
  afterEach(() => {
    usage.close();
    rmSync(dir, { recursive: true });
  });

  it("is measured in the background, hard links once and symlinks not followed", async () => {
    mkdirSync(join(dir, "upper/sub"), { recursive: true });
    writeFileSync(join(dir, "upper/sub/file"), Buffer.alloc(64 << 10, 1));
    linkSync(join(dir, "upper/sub/file"), join(dir, "upper/again"));
    symlinkSync("/", join(dir, "upper/root"));
    expect(usage.read("a", dir)).toBeUndefined();
    await until(() => usage.read("a", dir) !== undefined, "measured");
    const measured = usage.read("a", dir);
    expect(measured?.inodesUsed).toBe(4n); // upper, sub, file, root
    expect(measured?.usedBytes).toBeGreaterThanOrEqual(64n << 10n);
    expect(measured?.usedBytes).toBeLessThan(128n << 10n);
    expect(measured?.timestampNs).toBe(1_000n);
  });

  it("is not measured again before it is old", async () => {
    usage.request("a", dir);
    await until(() => usage.read("a", dir) !== undefined, "measured");
    writeFileSync(join(dir, "new"), "x");
    nowNs += 5_000_000_000n;
    expect(usage.read("a", dir)?.inodesUsed).toBe(0n);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(usage.read("a", dir)?.inodesUsed).toBe(0n);
    // Older than ten times what the first measurement took, also on a machine where that was minutes.
    nowNs += 86_400_000_000_000n;
    usage.read("a", dir);
    await until(() => usage.read("a", dir)?.inodesUsed === 1n, "measured again");
  });

  it("is measured once for all who ask while that is under way", async () => {
    let measured = 0;
    usage = new WritableLayerUsage({ nowNs: () => BigInt(++measured) });
    for (let asked = 0; asked < 3; asked++) expect(usage.read("a", dir)).toBeUndefined();
    await until(() => measured > 0, "measured");
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(measured).toBe(1);
  });

  it("that is new is known to be empty", () => {
    usage.empty("a");
    expect(usage.read("a", dir)).toMatchObject({ usedBytes: 0n, inodesUsed: 0n });
  });

  it("that has gone away is no error", async () => {
    usage.request("a", join(dir, "gone"));
    usage.request("b", dir);
    await until(() => usage.read("b", dir) !== undefined, "next one measured");
    expect(usage.read("a", join(dir, "gone"))).toBeUndefined();
  });
});

describe("ContainerStats", () => {
  let node: FakeNode;
  const numbers = (change: Partial<CgroupStats> = {}): CgroupStats => ({
    timestampNs: 10n,
    cpuUsageNs: 5n,
    memoryUsage: 100n,
    memoryWorkingSet: 60n,
    memoryLimit: 200n,
    memoryRss: 50n,
    memoryPageFaults: 3n,
    memoryMajorPageFaults: 1n,
    swapUsage: undefined,
    swapLimit: undefined,
    processCount: 1n,
    cpuPressure: undefined,
    memoryPressure: undefined,
    ioPressure: undefined,
    ...change,
  });
  beforeEach(async () => {
    node = new FakeNode();
    await node.open();
    node.runtime.statsOf = () => numbers();
  });
  afterEach(() => node[Symbol.dispose]());
  const stats = async (containerId: string) => (await containerStats(node.app, ctx(), { containerId })).stats;

  it("has attributes, CPU, memory and the writable layer of a running container", async () => {
    const id = await node.running(await node.pod());
    const found = await stats(id);
    expect(found).toMatchObject({
      attributes: { id, metadata: { name: "main" }, labels: { part: "main" }, annotations: { hash: "abc" } },
      cpu: { timestamp: 10n, usageCoreNanoSeconds: { value: 5n } },
      memory: { workingSetBytes: { value: 60n }, availableBytes: { value: 140n }, rssBytes: { value: 50n } },
      writableLayer: { usedBytes: { value: 0n }, fsId: { mountpoint: join(node.dir, "root/containers") } },
    });
    expect(found?.cpu?.usageNanoCores).toBeUndefined();
    expect(found?.swap).toBeUndefined();
    expect(found?.writableLayer?.timestamp).toBeGreaterThan(0n);
  });

  it("says 0 available without a limit, and never less than 0", async () => {
    const id = await node.running(await node.pod());
    node.runtime.statsOf = () => numbers({ memoryLimit: (1n << 63n) - 4096n });
    expect((await stats(id))?.memory?.availableBytes).toEqual({ value: 0n });
    node.runtime.statsOf = () => numbers({ memoryLimit: 10n });
    expect((await stats(id))?.memory?.availableBytes).toEqual({ value: 0n });
  });

  it("has attributes and writable layer only for an exited container", async () => {
    const id = await node.running(await node.pod());
    await stopContainer(node.app, ctx(), { containerId: id, timeout: 0n });
    const found = await stats(id);
    expect(found?.cpu).toBeUndefined();
    expect(found?.memory).toBeUndefined();
    expect(found?.writableLayer).toBeDefined();
  });

  it("is not_found for an unknown container, and leaves out numbers that cannot be read", async () => {
    expect(await failure(stats("f".repeat(64)))).toMatchObject({ code: "not_found" });
    const id = await node.running(await node.pod());
    node.runtime.fail("stats");
    expect((await stats(id))?.cpu).toBeUndefined();
  });

  it("lists by filter", async () => {
    const pod = await node.pod();
    const a = await node.running(pod);
    const b = await node.running(pod, { metadata: { name: "b", attempt: 0 }, labels: { part: "b" } });
    const ids = async (filter: Parameters<typeof ContainerStatsFilter.fromPartial>[0]) => {
      const reply = await listContainerStats(node.app, ctx(), { filter: ContainerStatsFilter.fromPartial(filter) });
      return reply.stats.map((item) => item.attributes?.id).sort();
    };
    expect(await ids({})).toEqual([a, b].sort());
    expect(await ids({ id: a.slice(0, 20) })).toEqual([a]);
    expect(await ids({ labelSelector: { part: "b" } })).toEqual([b]);
    expect(await ids({ podSandboxId: "nowhere" })).toEqual([]);
  });
});
