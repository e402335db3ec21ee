import { expect, it } from "vitest";
import { Container, PodSandbox } from "../../../src/gen/nri/v1alpha1/api.ts";
import { syncChunks } from "../../../src/nri/sync-chunks.ts";
import { SyncGate } from "../../../src/nri/sync-gate.ts";

it("splits a synchronization into messages that fit, and says of each but the last that more follows", () => {
  const pods = Array.from({ length: 5 }, (_, i) => PodSandbox.fromPartial({ id: `p${i}`.padEnd(90, ".") }));
  const containers = Array.from({ length: 5 }, (_, i) => Container.fromPartial({ id: `c${i}`.padEnd(90, ".") }));
  const chunks = syncChunks(pods, containers, 310);
  expect(chunks.map((chunk) => [chunk.pods.length, chunk.containers.length, chunk.more])).toEqual([
    [3, 0, true],
    [2, 1, true],
    [0, 3, true],
    [0, 1, false],
  ]);
  expect(chunks.flatMap((chunk) => chunk.pods)).toEqual(pods);
  expect(syncChunks([], [])).toEqual([{ pods: [], containers: [], more: false }]);
});

it("lets nobody in while somebody is alone, and nobody alone while somebody is in", async () => {
  const gate = new SyncGate();
  const seen: string[] = [];
  const inside = await gate.enter();
  const alone = gate.alone(async () => void seen.push("alone"));
  const second = gate.enter().then((entered) => {
    seen.push("entered");
    entered[Symbol.dispose]();
  });
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(seen).toEqual([]);
  inside[Symbol.dispose]();
  inside[Symbol.dispose]();
  await Promise.all([alone, second]);
  expect(seen).toEqual(["alone", "entered"]);
  await gate.alone(async () => void seen.push("again"));
  expect(seen).toHaveLength(3);
});
