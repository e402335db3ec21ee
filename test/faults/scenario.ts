/**
 * The main flow of a node as a list of resumable calls: each may be interrupted by the death of the daemon and is then repeated, as
 * a kubelet does. What was learnt so far (ids) is kept between the tries; a call whose reply was lost must be repeatable.
 */
import { rmSync } from "node:fs";
import type { Message } from "../helpers/cri-client.ts";
import type { CriNode } from "../helpers/cri-node.ts";
import { isRunning } from "../helpers/process-state.ts";

export interface Run {
  readonly node: CriNode;
  readonly name: string;
  readonly pod: Message;
  /** Reference that PullImage gets; removed before, so that the pull does all its work. */
  readonly pullReference: string;
  podId: string;
  steady: string;
  short: string;
  stubborn: string;
  /** How often the exec's effect was asked for. */
  execs: number;
}

const counting = ["/bin/sh", "-c", "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"];

export function newRun(node: CriNode, name: string, pullReference: string): Run {
  const pod = node.podConfig(name, {
    linux: { security_context: { namespace_options: { network: "POD", pid: "CONTAINER", ipc: "POD" } } },
  });
  return { node, name, pod, pullReference, podId: "", steady: "", short: "", stubborn: "", execs: 0 };
}

/** In order; each leaves the node in the same state when it is called twice. */
export const calls: readonly { readonly name: string; readonly call: (run: Run) => Promise<unknown> }[] = [
  { name: "PullImage", call: ({ node, pullReference }) => node.client.image("PullImage", { image: { image: pullReference } }) },
  {
    name: "RunPodSandbox",
    call: async (run) => {
      run.podId = await run.node.runPod(run.pod);
    },
  },
  {
    name: "CreateContainer steady",
    call: async (run) => {
      run.steady = await run.node.create(run.podId, run.pod, run.node.containerConfig("steady", counting));
    },
  },
  { name: "StartContainer steady", call: (run) => startOnce(run, run.steady) },
  {
    name: "CreateContainer short",
    call: async (run) => {
      run.short = await run.node.create(
        run.podId,
        run.pod,
        run.node.containerConfig("short", ["/bin/sh", "-c", "echo short; exit 3"]),
      );
    },
  },
  { name: "StartContainer short", call: (run) => startOnce(run, run.short) },
  {
    name: "CreateContainer stubborn",
    call: async (run) => {
      run.stubborn = await run.node.create(
        run.podId,
        run.pod,
        run.node.containerConfig("stubborn", ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]),
      );
    },
  },
  { name: "StartContainer stubborn", call: (run) => startOnce(run, run.stubborn) },
  { name: "exit of short", call: (run) => run.node.exited(run.short) },
  {
    name: "ExecSync",
    call: async (run) => {
      run.execs++;
      const { exitCode, stdout } = await run.node.exec(run.steady, ["/bin/sh", "-c", "echo in; exit 4"]);
      if (exitCode !== 4 || stdout !== "in\n") throw new Error(`exec gave ${exitCode} and ${JSON.stringify(stdout)}`);
    },
  },
  {
    name: "UpdateContainerResources",
    call: ({ node, steady }) =>
      node.client.runtime("UpdateContainerResources", { container_id: steady, linux: { cpu_shares: 512 } }),
  },
  {
    name: "UpdatePodSandboxResources",
    call: ({ node, podId }) =>
      node.client.runtime("UpdatePodSandboxResources", { pod_sandbox_id: podId, resources: { cpu_shares: 512 } }),
  },
  { name: "ReopenContainerLog", call: ({ node, steady }) => node.client.runtime("ReopenContainerLog", { container_id: steady }) },
  {
    name: "StopContainer stubborn",
    call: ({ node, stubborn }) => node.client.runtime("StopContainer", { container_id: stubborn, timeout: 0 }),
  },
  {
    name: "StopContainer steady",
    call: ({ node, steady }) => node.client.runtime("StopContainer", { container_id: steady, timeout: 10 }),
  },
  { name: "RemoveContainer short", call: ({ node, short }) => node.client.runtime("RemoveContainer", { container_id: short }) },
  { name: "StopPodSandbox", call: ({ node, podId }) => node.client.runtime("StopPodSandbox", { pod_sandbox_id: podId }) },
  { name: "RemovePodSandbox", call: ({ node, podId }) => node.client.runtime("RemovePodSandbox", { pod_sandbox_id: podId }) },
  {
    name: "RemoveImage",
    call: ({ node, pullReference }) => node.client.image("RemoveImage", { image: { image: pullReference } }),
  },
];

/** StartContainer is not idempotent by contract: a kubelet that lost the reply looks at the status first. */
async function startOnce({ node }: Run, id: string): Promise<void> {
  const { state } = await node.status(id);
  if (state === "CONTAINER_CREATED") await node.start(id);
}

/** Throws when what the daemon says of the containers is not what is true on the machine. */
export async function checkTruth(run: Run): Promise<void> {
  const { node } = run;
  const { items } = await node.client.runtime("ListPodSandbox", { filter: run.podId === "" ? undefined : { id: run.podId } });
  const { containers } = await node.client.runtime("ListContainers", {});
  for (const { id } of containers) {
    const status = await node.status(id);
    const { pid } = await node.info(id);
    const alive = pid > 0 && isRunning(pid);
    const ought = status.state === "CONTAINER_RUNNING" || status.state === "CONTAINER_CREATED";
    if (alive !== ought)
      throw new Error(
        `container ${status.metadata.name} is ${status.state} but its process ${pid} is ${alive ? "alive" : "gone"}`,
      );
    if (status.state === "CONTAINER_EXITED") {
      const { finished_at: finished, started_at: started, exit_code: code, metadata, reason } = status;
      if (BigInt(finished) === 0n) throw new Error(`container ${metadata.name} is exited without a time`);
      if (BigInt(started) > BigInt(finished)) throw new Error(`container ${metadata.name} finished before it started`);
      if (metadata.name === "short" && (code !== 3 || reason !== "Error"))
        throw new Error(`container short says ${code} (${reason}), not 3`);
    }
  }
  if (items.length > 1) throw new Error(`${items.length} pods instead of one`);
}

/** Lines of the steady container's log are 1, 2, 3, ... without a hole. */
export function checkLog(run: Run): void {
  const text = run.node.log(run.name, "steady");
  const numbers = text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => Number(line.replace(/^stdout F line /, "")));
  numbers.forEach((value, index) => {
    if (value !== index + 1) throw new Error(`the log has ${value} where ${index + 1} belongs: ${text.slice(0, 200)}`);
  });
  if (numbers.length === 0) throw new Error("the log is empty");
}

export function forgetLogs(run: Run): void {
  rmSync(run.pod.log_directory, { recursive: true, force: true });
}
