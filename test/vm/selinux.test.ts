/** SELinux labels, for real: Debian's policy, permissive (it has no types for containers). In a boot of its own. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, it } from "vitest";
import { type Container, Process } from "../../src/core/library/public.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

execFileSync("mount", ["-t", "selinuxfs", "selinuxfs", "/sys/fs/selinux"]);
execFileSync("load_policy", ["-i"]);
const place = new LibraryPlace();
afterAll(async () => await place[Symbol.asyncDispose]());
const label = "user_u:user_r:user_t:s0";
const mountLabel = "system_u:object_r:tmp_t:s0";
const labelOf = (pid: number): string => readFileSync(`/proc/${pid}/attr/current`, "latin1").replace(/\0/g, "").trim();
const labelOfFile = (path: string): string => execFileSync("stat", ["-c", "%C", path], { encoding: "utf8" }).trim();
const end = async (container: Container): Promise<void> => {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
};

it("SELinux: first and further processes have the label, file systems that are mounted the mount label #selinux", async () => {
  const container = await place.sleeping({ selinuxLabel: label, mountLabel });
  const { init_process_pid: pid } = container.state();
  assert.equal(labelOf(pid), label);
  assert.equal((await output(container, "cat /proc/self/attr/current")).replace(/\0/g, ""), label);
  const other = new Process({ args: ["sleep", "1000"], env: ["PATH=/bin"], selinuxLabel: "staff_u:staff_r:staff_t:s0" });
  await container.exec(other);
  assert.equal(labelOf(other.pid), "staff_u:staff_r:staff_t:s0");
  for (const path of ["/dev", "/dev/shm", "/dev/pts"]) assert.equal(labelOfFile(`/proc/${pid}/root${path}`), mountLabel);
  assert.notEqual(labelOfFile(`/proc/${pid}/root/proc`), mountLabel);
  await end(container);
});

it("SELinux: the label holds with no_new_privs and in a user namespace #selinux", async () => {
  const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
  const types = ["mnt", "uts", "ipc", "pid", "net", "user"] as const;
  const container = await place.sleeping({
    selinuxLabel: label,
    noNewPrivileges: false,
    namespaces: types.map((type) => ({ type })),
    uidMappings: ids,
    gidMappings: ids,
  });
  assert.equal(labelOf(container.state().init_process_pid), label);
  await end(container);
});

it("SELinux: a label that the policy does not know fails the start by name, and leaves nothing", async () => {
  const container = await place.create({ selinuxLabel: "system_u:system_r:nothing_t:s0" });
  await assert.rejects(container.run(shell("true")), /SELinux label system_u:system_r:nothing_t:s0/);
  await container.destroy();
  assert.deepEqual(place.leftovers(), []);
});

it("SELinux: a pod's container has the label of its options, or of its sandbox's; volumes get the files' one", async () => {
  // The policy has no types for containers; which ones to take is said in its own file.
  const policy = /^SELINUXTYPE=(\w+)/m.exec(readFileSync("/etc/selinux/config", "utf8"))?.[1];
  writeFileSync(`/etc/selinux/${policy}/contexts/lxc_contexts`, `process = "${label}"\nfile = "${mountLabel}"\n`);
  await using node = await CriNode.start();
  const options = { user: "user_u", role: "user_r", type: "user_t", level: "s0" };
  const pod = node.podConfig("labels", {
    linux: { security_context: { selinux_options: { ...options, user: "staff_u", role: "staff_r", type: "staff_t" } } },
  });
  const podId = await node.runPod(pod);
  const forever = ["/bin/sh", "-c", "while :; do sleep 0.2; done"];
  const own = await node.run(
    podId,
    pod,
    node.containerConfig("own", forever, { linux: { security_context: { selinux_options: options } } }),
  );
  assert.equal(labelOf((await node.info(own)).pid), label);
  assert.equal((await node.exec(own, ["/bin/cat", "/proc/self/attr/current"], 30)).stdout.replace(/\0/g, ""), label);
  const shared = await node.run(podId, pod, node.containerConfig("shared", forever));
  assert.equal(labelOf((await node.info(shared)).pid), "staff_u:staff_r:staff_t:s0");
  const strange = { linux: { security_context: { selinux_options: { type: "nothing_t" } } } };
  await assert.rejects(
    node.run(podId, pod, node.containerConfig("strange", forever, strange)),
    /is not known to this node's policy/,
  );
  // A volume that asks for it is the container's to read; the node's own trees keep their labels.
  const volume = mkdtempSync("/tmp/caisson-volume-");
  writeFileSync(join(volume, "file"), "x");
  const mounted = (host_path: string) => ({
    mounts: [{ host_path, container_path: "/v", selinux_relabel: true }],
    linux: { security_context: { selinux_options: options } },
  });
  const relabelled = await node.run(podId, pod, node.containerConfig("volume", forever, mounted(volume)));
  assert.equal((await node.info(relabelled)).runtimeSpec.linux.mountLabel, mountLabel);
  for (const path of [volume, join(volume, "file")]) assert.equal(labelOfFile(path), mountLabel);
  await assert.rejects(node.run(podId, pod, node.containerConfig("usr", forever, mounted("/usr"))), /keeps its label/);
  await node.removePod(podId);
  rmSync(volume, { recursive: true });
});
