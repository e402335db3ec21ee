/** Verbose info as node agents and debugging scripts read it: each value is looked up on the machine. */
import { execFileSync } from "node:child_process";
import { readFileSync, readlinkSync, statSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";

let node: CriNode;
let config: Message;
let podId: string;
let containerId: string;

beforeAll(async () => {
  node = await CriNode.start();
  node.enableNetwork("caissonvi0", "10.211.17.0/24");
  await node.networkReady();
  config = node.podConfig("shown", { linux: { security_context: { namespace_options: network.pod } } });
  podId = await node.runPod(config);
  const container = node.containerConfig("main", ["/bin/sleep", "1000"], {
    envs: [{ key: "COLOUR", value: Buffer.from("blue") }],
    mounts: [{ container_path: "/logs", host_path: node.logs, readonly: true }],
    linux: { security_context: { run_as_user: { value: "1000" } } },
  });
  containerId = await node.run(podId, config, container);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
});

const podReply = async (): Promise<Message> =>
  await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: podId, verbose: true });
const namespaceOf = (pid: number, kind: string): number => Number(/\d+/.exec(readlinkSync(`/proc/${pid}/ns/${kind}`))?.[0]);
const networkPath = (runtimeSpec: Message): string =>
  runtimeSpec.linux.namespaces.find(({ type }: Message) => type === "network").path;

describe("of a pod", () => {
  it("leads to its network namespace by path and by pid, and to its addresses", async () => {
    const { status, info } = await podReply();
    expect(Object.keys(info)).toEqual(["info"]);
    const {
      pid,
      runtimeSpec,
      cniResult,
      sandboxMetadata,
      netNamespaceClosed,
      processStatus,
      config: shown,
    } = JSON.parse(info.info);
    const path = networkPath(runtimeSpec);
    expect(statSync(path).ino).toBe(namespaceOf(pid, "net"));
    expect(sandboxMetadata.NetNSPath).toBe(path);
    const addresses = execFileSync("nsenter", [`--net=${path}`, "ip", "-4", "-o", "addr", "show", "eth0"], { encoding: "utf8" });
    expect(addresses).toContain(` ${status.network.ip}/`);
    expect(
      execFileSync("nsenter", ["-t", String(pid), "-n", "ip", "-4", "-o", "addr", "show", "eth0"], { encoding: "utf8" }),
    ).toBe(addresses);
    expect(cniResult.Interfaces.eth0).toMatchObject({ IPConfigs: [{ IP: status.network.ip }], Sandbox: path });
    expect([netNamespaceClosed, processStatus]).toEqual([false, "running"]);
    expect(shown.metadata).toEqual({ name: "shown", namespace: "default", uid: config.metadata.uid });
    expect(runtimeSpec.linux.cgroupsPath).toBe(config.linux.cgroup_parent);
    for (const { type, path: pinned } of runtimeSpec.linux.namespaces) {
      if (type !== "network") expect(statSync(pinned).ino, type).toBe(namespaceOf(pid, type));
    }
  });
});

describe("of a container", () => {
  it("leads to its process, pod, namespaces, cgroup and configuration", async () => {
    const { pid, sandboxID, snapshotKey, runtimeSpec, config: shown } = await node.info(containerId);
    expect([sandboxID, snapshotKey]).toEqual([podId, containerId]);
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toBe("/bin/sleep\x001000\0");
    expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(runtimeSpec.linux.cgroupsPath);
    expect(runtimeSpec.linux.cgroupsPath.split("/").at(-1)).toContain(containerId);
    expect(statSync(networkPath(runtimeSpec)).ino).toBe(namespaceOf(pid, "net"));
    expect(runtimeSpec.process).toMatchObject({ user: { uid: 1000 }, args: ["/bin/sleep", "1000"], cwd: "/" });
    expect(runtimeSpec.process.env).toContain("COLOUR=blue");
    expect(shown.envs).toEqual([{ key: "COLOUR", value: "blue" }]);
    expect(runtimeSpec.mounts).toContainEqual(expect.objectContaining({ destination: "/logs", source: node.logs }));
    expect(runtimeSpec.root.path).toContain(containerId);
    expect(runtimeSpec.annotations).toMatchObject({
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.sandbox-id": podId,
      "io.kubernetes.cri.sandbox-name": "shown",
      "io.kubernetes.cri.sandbox-namespace": "default",
    });
    expect(await node.client.runtime("ContainerStatus", { container_id: containerId })).toMatchObject({ info: {} });
  });

  it("keeps what belongs to the past and names no process once it has ended", async () => {
    await node.client.runtime("StopContainer", { container_id: containerId, timeout: 0 });
    expect(await node.info(containerId)).toMatchObject({ pid: 0, sandboxID: podId, runtimeSpec: { root: {} } });
    await node.client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
    const { status, info } = await podReply();
    expect(JSON.parse(info.info)).toMatchObject({ pid: 0, netNamespaceClosed: true, processStatus: "stopped" });
    expect(status.network.ip).toBe("");
  });
});
