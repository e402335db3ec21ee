/** deploy/caissond.service under a real systemd, inside the virtual machine: restart and stop leave containers running. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { CriClient } from "../helpers/cri-client.ts";
import { buildBusyboxImage } from "../helpers/oci-image.ts";

const top = join(import.meta.dirname, "../..");
const systemctl = (...args: string[]): string => execFileSync("systemctl", args, { encoding: "utf8" });
const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

mkdirSync("/etc/caisson", { recursive: true });
buildBusyboxImage("/var/tmp/busybox-layout", { tag: "1" });
const layouts = '[registry.local_layouts]\n"local.test/busybox" = "/var/tmp/busybox-layout"\n';
writeFileSync("/etc/caisson/config.toml", `${layouts}[runtime]\ncgroup_driver = "cgroupfs"\n`);
const unit = readFileSync(join(top, "deploy/caissond.service"), "utf8");
writeFileSync("/run/systemd/system/caissond.service", unit.replace("/usr/local/bin/caissond", join(top, "scripts/caissond")));
systemctl("daemon-reload");

const client = new CriClient("unix:///run/caisson/caisson.sock");
const pod = {
  metadata: { name: "unit", uid: "u", namespace: "default", attempt: 0 },
  log_directory: "/var/log/unit",
  linux: {
    cgroup_parent: "/kubepods/pod-unit",
    security_context: { namespace_options: { network: "NODE", pid: "CONTAINER", ipc: "POD" } },
  },
};
let containerId = "";
const pidOf = async (): Promise<number> => {
  const { info } = await client.runtime("ContainerStatus", { container_id: containerId, verbose: true });
  return JSON.parse(info.info).pid;
};
let podId = "";
let pid = 0;
let stopped = false;

it("systemctl start returns when the daemon is ready", async () => {
  systemctl("start", "caissond");
  await client.runtime("Status", {});
});
it("a pod runs", async () => {
  const { image_ref } = await client.image("PullImage", { image: { image: "local.test/busybox:1" } });
  podId = (await client.runtime("RunPodSandbox", { config: pod })).pod_sandbox_id;
  const config = {
    metadata: { name: "main" },
    image: { image: image_ref },
    command: ["/bin/sleep", "10000"],
    log_path: "main.log",
    linux: {},
  };
  containerId = (await client.runtime("CreateContainer", { pod_sandbox_id: podId, config, sandbox_config: pod })).container_id;
  await client.runtime("StartContainer", { container_id: containerId });
  pid = await pidOf();
  assert.ok(alive(pid));
  assert.match(readFileSync(`/proc/${pid}/cgroup`, "utf8"), /\/kubepods\/pod-unit\//);
});
it("systemctl restart leaves the container running", async () => {
  systemctl("restart", "caissond");
  assert.equal(await pidOf(), pid);
  const { exit_code } = await client.runtime("ExecSync", { container_id: containerId, cmd: ["/bin/true"], timeout: 60 });
  assert.equal(exit_code, 0);
});
it("systemctl stop leaves the container running, and a later start finds it", async () => {
  systemctl("stop", "caissond");
  assert.ok(alive(pid));
  assert.equal(execFileSync("systemctl", ["show", "-P", "Result", "caissond"], { encoding: "utf8" }).trim(), "success");
  systemctl("start", "caissond");
  assert.equal(await pidOf(), pid);
});
it("a daemon that is killed comes back by itself", async () => {
  process.kill(Number(systemctl("show", "-P", "MainPID", "caissond")), "SIGKILL");
  await expect.poll(() => pidOf().catch(() => undefined), { interval: 500 }).toBe(pid);
});
it("the pod goes", async () => {
  await client.runtime("StopPodSandbox", { pod_sandbox_id: podId });
  await client.runtime("RemovePodSandbox", { pod_sandbox_id: podId });
  assert.ok(!alive(pid));
  systemctl("stop", "caissond");
  stopped = true;
});
afterAll(() => {
  client.close();
  if (!stopped) console.log(execFileSync("journalctl", ["-u", "caissond", "--no-pager", "-n", "60"], { encoding: "utf8" }));
});
