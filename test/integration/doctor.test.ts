/** caisson doctor finds what belongs to nobody, and only that. Other daemons of this machine have objects of their own. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";

const bridge = "caisson-d0";
const top = join(import.meta.dirname, "../..");
const leases = `/tmp/${bridge}-ipam/${bridge}`;
const stranger = "d0c".padEnd(64, "0");

let node: CriNode;
beforeAll(async () => {
  node = await CriNode.start();
  node.enableNetwork(bridge, "10.94.8.0/24");
  for (let ready = false; !ready; ) {
    const { status } = await node.client.runtime("Status", {});
    ready = status.conditions.find(({ type }: Message) => type === "NetworkReady").status;
  }
});
afterAll(() => node[Symbol.asyncDispose]());

interface Finding {
  readonly what: string;
  readonly text: string;
}
function doctor(...flags: string[]): readonly Finding[] {
  const run = ["--socket", node.daemon.socket, "doctor", "--json", ...flags];
  try {
    return JSON.parse(execFileSync(join(top, "scripts/caisson"), run, { encoding: "utf8" }));
  } catch (error) {
    return JSON.parse((error as { stdout: string }).stdout); // exit code 2: something of the machine is missing
  }
}
const mentions = (findings: readonly Finding[], word: string): readonly string[] =>
  findings.filter(({ text }) => text.includes(word)).map(({ what }) => what);

it("is silent about a pod that runs, and its network passes the plugins' check", async () => {
  const pod = node.podConfig("sound", { linux: { security_context: { namespace_options: network.pod } } });
  const podId = await node.runPod(pod);
  const id = await node.run(podId, pod, node.containerConfig("main", ["/bin/sleep", "1000"]));
  const findings = doctor();
  for (const word of [podId, id]) expect(mentions(findings, word)).toEqual([]);
  const namespace = `caisson-${podId}`;
  const shown = execFileSync("ip", ["-n", namespace, "-4", "-o", "addr", "show", "dev", "eth0"], { encoding: "utf8" });
  execFileSync("ip", ["-n", namespace, "addr", "flush", "dev", "eth0"]);
  expect(mentions(doctor("--network"), `pod default/sound (${podId}) is not attached as it was`)).toEqual(["network"]);
  // Without its address the bridge plugin would leave its rules for it in the packet filter.
  execFileSync("ip", ["-n", namespace, "addr", "add", /inet (\S+)/.exec(shown)?.[1] ?? "", "dev", "eth0"]);
  await node.removePod(podId);
});

it("names network namespaces, directories, cgroups and addresses of pods that nobody knows", async () => {
  const pod = node.podConfig("known", { linux: { security_context: { namespace_options: network.pod } } });
  const podId = await node.runPod(pod);
  const cgroup = `${node.cgroupParent}/pod-known/${stranger}`;
  const directories = [
    join(node.daemon.state, "pods", stranger),
    join(node.daemon.root, "containers", stranger),
    join("/sys/fs/cgroup", existsSync("/sys/fs/cgroup/cgroup.procs") ? "" : "pids", cgroup),
  ];
  execFileSync("ip", ["netns", "add", `caisson-${stranger}`]);
  for (const directory of directories) mkdirSync(directory, { recursive: true });
  writeFileSync(join(leases, "10.94.8.99"), `${stranger}\r\neth0`);
  try {
    const found = mentions(doctor(), stranger);
    expect(found.toSorted()).toEqual(["cgroup", "network", "network namespace", "pod directory", "writable layer"]);
    expect(mentions(doctor(), podId)).toEqual([]);
  } finally {
    execFileSync("ip", ["netns", "delete", `caisson-${stranger}`]);
    for (const directory of directories) rmdirSync(directory);
    rmSync(join(leases, "10.94.8.99"));
  }
  await node.removePod(podId);
  expect(readdirSync(leases).filter((name) => name.startsWith("10."))).toEqual([]);
});
