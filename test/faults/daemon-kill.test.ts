/**
 * kill -9 of the daemon before and after every named step of the main flows. After its restart containers run, logs have no hole, exit
 * codes and times are true, the interrupted call can be repeated, and in the end nothing is left. A step that is never reached fails.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allSteps, repairSteps } from "../../src/lib/step.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";
import { pushImage } from "../helpers/registry.ts";
import { calls, checkLog, checkTruth, forgetLogs, newRun, type Run } from "./scenario.ts";

let node: CriNode;
let pullReference: string;
beforeAll(async () => {
  node = await CriNode.start();
  node.enableNetwork("caissonf0", "10.211.8.0/24");
  const image = buildBusyboxImage(`${node.daemon.base}/other`, { layers: [{ content: [{ name: "etc/other", content: "x" }] }] });
  pullReference = await pushImage(node.registry, "test/other", "1", image);
  // The bridge stays when its last pod goes, as the plugin made it: it is part of what is there before.
  const run = newRun(node, "warm", pullReference);
  await untilNetworkReady();
  for (const { call } of calls) await call(run);
  forgetLogs(run);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

async function untilNetworkReady(): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const { status } = await node.client.runtime("Status", {});
    if (status.conditions.find((condition: { type: string }) => condition.type === "NetworkReady").status) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("the network never became ready");
}

/** Calls in order from `from`; returns the index of the call during which the daemon died, or the number of calls. */
async function goOn(run: Run, from: number): Promise<number> {
  for (let index = from; index < calls.length; index++) {
    try {
      await calls[index]?.call(run);
    } catch (error) {
      // A reply that was lost with the daemon; the process may need a moment to be gone.
      for (let tries = 0; tries < 50 && node.daemon.running; tries++) await new Promise((resolve) => setTimeout(resolve, 10));
      if (node.daemon.running) throw new Error(`${calls[index]?.name} failed: ${error}`);
      return index;
    }
    if (!node.daemon.running) return index + 1;
  }
  return calls.length;
}

describe.each(allSteps)("kill -9 of the daemon at %s", (name) => {
  it.each(["before", "after"] as const)("%s", async (when) => {
    const directories = [
      `${node.daemon.base}/state/pods`,
      `${node.daemon.base}/state/containers`,
      `${node.daemon.base}/root/containers`,
      `${node.daemon.base}/root/layers`,
      `${node.daemon.base}/root/images`,
      "/tmp/caissonf0-ipam/caissonf0",
    ];
    const before = takeInventory({ directories });
    node.daemon.arm(`kill:${when}:${name}`);
    const run = newRun(node, `${name.replaceAll(".", "-")}-${when}`.slice(0, 60), pullReference);
    const died = await goOn(run, 0);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(node.daemon.running, `step ${name} was never reached`).toBe(false);
    node.daemon.arm("");
    await node.daemon.launch();
    await untilNetworkReady();
    await checkTruth(run);
    const end = await goOn(run, Math.min(died, calls.length - 1));
    expect(end).toBe(calls.length);
    checkLog(run);
    forgetLogs(run);
    await expectNoLeaks(before, { directories });
  });
});

describe.each(repairSteps)("kill -9 of the daemon while it repairs, at %s", (name) => {
  it.each(["before", "after"] as const)("%s", async (when) => {
    const directories = [
      `${node.daemon.base}/state/pods`,
      `${node.daemon.base}/state/containers`,
      `${node.daemon.base}/root/containers`,
      "/tmp/caissonf0-ipam/caissonf0",
    ];
    const before = takeInventory({ directories });
    const run = newRun(node, `repair-${name.replaceAll(".", "-")}-${when}`, pullReference);
    if (name === "undo") {
      const toPod = calls.findIndex((call) => call.name === "RunPodSandbox");
      for (const { call } of calls.slice(0, toPod + 1)) await call(run);
      node.daemon.arm(`kill:${when}:undo`);
      const broken = node.containerConfig("steady", ["/bin/true"], {
        mounts: [{ container_path: "/etc/passwd/x", host_path: "/tmp" }],
      });
      await expect(node.create(run.podId, run.pod, broken)).rejects.toThrow();
      expect(await node.daemon.exited()).toBe("SIGKILL");
    } else {
      const toExec = calls.findIndex((call) => call.name === "ExecSync");
      for (const { call } of calls.slice(0, toExec)) await call(run);
      await node.daemon.kill();
      node.daemon.arm(`kill:${when}:${name}`);
      await node.daemon.launch({}, false);
      expect(await node.daemon.exited()).toBe("SIGKILL");
    }
    node.daemon.arm("");
    await node.daemon.launch();
    await untilNetworkReady();
    await checkTruth(run);
    const from = name === "undo" ? "CreateContainer steady" : "ExecSync";
    expect(
      await goOn(
        run,
        calls.findIndex((call) => call.name === from),
      ),
    ).toBe(calls.length);
    checkLog(run);
    forgetLogs(run);
    await expectNoLeaks(before, { directories });
  });
});
