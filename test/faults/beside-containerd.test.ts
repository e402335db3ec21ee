/** Debian's containerd with runc on the same machine, with pods below the same cgroup: neither runtime touches what is the other's. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type Rival, startContainerd } from "../bench/containerd.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { newThings, takeInventory } from "../helpers/leak-check.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage } from "../helpers/registry.ts";

let node: CriNode;
let rival: Rival;
beforeAll(async () => {
  node = await CriNode.start();
  const image = buildBusyboxImage(join(node.daemon.base, "pause"), { config: { Cmd: ["/bin/sleep", "100000"] } });
  rival = await startContainerd("/usr/sbin/runc", await pushImage(node.registry, "test/pause", "1", image), { hostMounts: true });
  await rival.client.image("PullImage", { image: { image: node.image } });
});
afterAll(async () => {
  await rival[Symbol.asyncDispose]();
  rmSync(join(node.daemon.base, "pause"), { recursive: true });
  await node[Symbol.asyncDispose]();
});

const steady = ["/bin/sleep", "100000"];

it("a daemon that is killed, loses its database and takes its pods away leaves containerd's alone, and the other way round", async () => {
  const { client } = rival;
  const config = node.podConfig("foreign", { hostname: "" });
  const { pod_sandbox_id } = await client.runtime("RunPodSandbox", { config });
  const container = { ...node.containerConfig("main", steady), image: { image: node.image } };
  const { container_id } = await client.runtime("CreateContainer", {
    pod_sandbox_id,
    config: container,
    sandbox_config: config,
  });
  await client.runtime("StartContainer", { container_id });
  const before = takeInventory();

  const pod = node.podConfig("own");
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", steady));
  await node.daemon.kill();
  for (const suffix of ["", "-wal", "-shm"]) rmSync(join(node.daemon.root, `caisson.db${suffix}`), { force: true });
  await node.daemon.launch();
  expect(await node.status(id)).toMatchObject({ state: "CONTAINER_RUNNING" });
  await node.removePod(podId);
  await node.daemon.stop();
  await node.daemon.launch();
  const { status } = await client.runtime("ContainerStatus", { container_id });
  expect(status.state).toBe("CONTAINER_RUNNING");
  const foreign = (line: string): boolean =>
    line.includes("caisson-rival-") || line.includes(container_id) || line.includes("containerd");
  // The other way round: what was there and is gone.
  expect(newThings(takeInventory(), before).filter(foreign)).toEqual([]);
  expect((await client.runtime("ExecSync", { container_id, cmd: ["/bin/true"], timeout: 10 })).exit_code).toBe(0);

  const secondPod = node.podConfig("own2");
  const secondPodId = await node.runPod(secondPod);
  const second = await node.run(secondPodId, secondPod, node.containerConfig("main", steady));
  await client.runtime("StopPodSandbox", { pod_sandbox_id });
  await client.runtime("RemovePodSandbox", { pod_sandbox_id });
  expect(await node.status(second)).toMatchObject({ state: "CONTAINER_RUNNING" });
  expect((await node.exec(second, ["/bin/true"])).exitCode).toBe(0);
  await node.removePod(secondPodId);
});
