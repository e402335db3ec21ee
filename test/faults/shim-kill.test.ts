/**
 * kill -9 of the shim while the daemon is held before and after each named step, and at rest. A dead shim ends its pod: no process of it is
 * left, containers say 255 Unknown, the sandbox is not ready, its network can still be torn down, and removal leaves nothing.
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { allSteps } from "../../src/lib/step.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, takeInventory } from "../helpers/leak-check.ts";
import { isRunning } from "../helpers/process-state.ts";
import { calls, forgetLogs, newRun, type Run } from "./scenario.ts";

let node: CriNode;
beforeAll(async () => {
  node = await CriNode.start();
  node.enableNetwork("caissons0", "10.211.5.0/24");
  await node.daemon.stop();
  await node.daemon.launch(traced());
  await untilNetworkReady();
  const run = newRun(node, "warm", node.image);
  for (const { name, call } of calls) if (!name.includes("Image")) await call(run);
  forgetLogs(run);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

afterEach(async () => {
  for (const { id } of (await node.client.runtime("ListPodSandbox", {})).items) await node.removePod(id);
});

const traced = () => ({ CAISSON_FAULT_TRACE: `${node.daemon.base}/trace` });

async function untilNetworkReady(): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const { status } = await node.client.runtime("Status", {});
    if (status.conditions.find((condition: { type: string }) => condition.type === "NetworkReady").status) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Shims of this test's daemon: their pods' directories name them. */
function shims(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        const [name, flag, id] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return name === "caisson-shim" && flag === "--pod" && readdirSync(`${node.daemon.state}/pods`).includes(id ?? "");
      } catch {
        return false;
      }
    });
}

/** How far StopContainer of "steady" had come when the shim was killed; one under way may or may not have been answered with its own code. */
type SteadyStop = "not begun" | "under way" | "done";

const endedByItself = { exit_code: 7, reason: "Error" };
const endedWithItsShim = { exit_code: 255, reason: "Unknown" };

async function expectPodEnded(run: Run, steadyStop: SteadyStop = "not begun"): Promise<void> {
  const until = Date.now() + 10_000;
  for (;;) {
    const { items } = await node.client.runtime("ListPodSandbox", {});
    const { containers } = await node.client.runtime("ListContainers", {});
    const states = containers.map((container: { state: string }) => container.state);
    const done =
      items.every((item: { state: string }) => item.state === "SANDBOX_NOTREADY") &&
      states.every((state: string) => state === "CONTAINER_EXITED");
    if (done) {
      for (const { id, metadata } of containers) {
        const status = await node.status(id);
        // One that had ended before keeps what it ended with.
        if (metadata.name === "steady") {
          // One whose start was under way never ran: that is what it says.
          const neverRan = status.started_at === "0" && status.reason === "StartError";
          const byItself = steadyStop === "done" || (steadyStop === "under way" && status.exit_code === endedByItself.exit_code);
          expect(status).toMatchObject(neverRan ? { exit_code: 128 } : byItself ? endedByItself : endedWithItsShim);
        }
        expect(BigInt(status.finished_at)).toBeGreaterThan(0n);
      }
      return;
    }
    if (Date.now() > until)
      throw new Error(`${run.name}: ${JSON.stringify([items.map((i: { state: string }) => i.state), states])}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function cleanUp(run: Run): Promise<void> {
  for (const { id } of (await node.client.runtime("ListPodSandbox", {})).items) await node.removePod(id);
  forgetLogs(run);
}

it("kill -9 of the shim at rest ends its pod and nothing else", async () => {
  const before = takeInventory();
  const other = newRun(node, "other", node.image);
  other.podId = await node.runPod(other.pod);
  const bystander = await node.run(other.podId, other.pod, node.containerConfig("bystander", ["/bin/sleep", "1000"]));
  const others = new Set(shims());
  const run = newRun(node, "rest", node.image);
  for (const { name, call } of calls.slice(0, 4)) if (!name.includes("Image")) await call(run);
  const { pid } = await node.info(run.steady);
  const [shim] = shims().filter((candidate) => !others.has(candidate));
  process.kill(shim ?? 0, "SIGKILL");
  const until = Date.now() + 10_000;
  while ((await node.status(run.steady)).state !== "CONTAINER_EXITED" && Date.now() < until)
    await new Promise((r) => setTimeout(r, 10));
  expect(await node.status(run.steady)).toMatchObject({ exit_code: 255, reason: "Unknown" });
  expect(isRunning(pid)).toBe(false);
  expect((await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: run.podId })).status.state).toBe("SANDBOX_NOTREADY");
  expect(await node.status(bystander)).toMatchObject({ state: "CONTAINER_RUNNING" });
  await cleanUp(run);
  forgetLogs(other);
  await expectNoLeaks(before);
});

it("kill -9 of daemon and shim together: the next start tells the truth", async () => {
  const before = takeInventory();
  const run = newRun(node, "both", node.image);
  for (const { name, call } of calls.slice(0, 4)) if (!name.includes("Image")) await call(run);
  const { pid } = await node.info(run.steady);
  const dead = shims();
  await node.daemon.kill();
  for (const shim of dead) process.kill(shim, "SIGKILL");
  await new Promise((resolve) => setTimeout(resolve, 200));
  await node.daemon.launch(traced());
  await expectPodEnded(run);
  expect(isRunning(pid)).toBe(false);
  await cleanUp(run);
  await expectNoLeaks(before);
});

// Images are pulled, kept and removed without any shim; at some other steps the pod's shim does not live yet or any more.
const steps = allSteps.filter((name) => !name.startsWith("image."));
describe.each(steps)("kill -9 of the shim while the daemon is at %s", (name) => {
  it.each(["before", "after"] as const)("%s", async (when) => {
    const before = takeInventory();
    node.daemon.arm(`pause=20000:${when}:${name}`);
    const run = newRun(node, `${name.replaceAll(".", "-")}-${when}`, node.image);
    let killed = false;
    const reached = (): boolean => {
      try {
        return readFileSync(`${node.daemon.base}/trace`, "utf8").split("\n").includes(`pause:${when}:${name}`);
      } catch {
        return false;
      }
    };
    const killer = (async () => {
      const until = Date.now() + 20_000;
      while (!reached() && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
      for (const shim of shims()) {
        process.kill(shim, "SIGKILL");
        killed = true;
      }
      node.daemon.arm("");
    })();
    const errors: string[] = [];
    let steadyStop: SteadyStop = "not begun";
    for (const { name: callName, call } of calls.filter((c) => !c.name.includes("Image"))) {
      if (callName === "exit of short" && killed) continue;
      const stopsSteady = callName === "StopContainer steady" && !killed;
      try {
        // A kill's step ends after the exit that it brought about, so the next calls may run while the daemon is still held at it.
        if (stopsSteady) steadyStop = "under way";
        await call(run);
        if (stopsSteady && !killed) steadyStop = "done";
      } catch (error) {
        errors.push(`${callName}: ${error}`);
        break;
      }
    }
    await killer;
    expect(reached(), `step ${name} was never reached`).toBe(true);
    // The daemon that saw it tells the truth, and so does the next one.
    const restart = async (): Promise<void> => {
      await node.daemon.stop();
      await node.daemon.launch(traced());
    };
    if (when === "before") await restart();
    if (killed) await expectPodEnded(run, steadyStop);
    await cleanUp(run);
    // A daemon keeps the cgroup of its helpers, where there is one, to its end.
    if (when === "after") await restart();
    await expectNoLeaks(before);
    rmSync(`${node.daemon.base}/trace`, { force: true });
  });
});
