/** AppArmor, for real: the VM's kernel enforces it. Cases of pods.test.ts. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterAll, it } from "vitest";
import type { CriNode } from "../helpers/cri-node.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

/** Everything but the directory /data. */
const profile = `profile caisson-vm-test flags=(attach_disconnected) {
  file,
  capability,
  network,
  mount,
  signal,
  deny /data/** rwklx,
  deny /data/ rwklx,
}
`;

const forever = ["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.2; done"];

export function apparmorCases(node: CriNode): void {
  execFileSync("apparmor_parser", ["-Kr"], { input: profile });
  const place = new LibraryPlace();
  afterAll(async () => await place[Symbol.asyncDispose]());

  it("AppArmor: first and further processes run under the profile, and are refused what it denies #apparmor", async () => {
    const container = await place.sleeping({ apparmorProfile: "caisson-vm-test" });
    const { init_process_pid: pid } = container.state();
    assert.equal(readFileSync(`/proc/${pid}/attr/apparmor/current`, "utf8").trim(), "caisson-vm-test (enforce)");
    assert.equal(await output(container, "cat /proc/self/attr/current"), "caisson-vm-test (enforce)");
    assert.equal(await output(container, "cat /proc/self/attr/current", { noNewPrivileges: true }), "caisson-vm-test (enforce)");
    await assert.rejects(output(container, "ls /data"), /Permission denied/);
    assert.match(await output(container, "ls /"), /data/);
    assert.equal(await output(container, "cat /proc/self/attr/current", { apparmorProfile: "unconfined" }), "unconfined");
    await container.signal("KILL");
    await container.wait();
    await container.destroy();
  });

  it("AppArmor: the profile holds in user namespaces too #apparmor", async () => {
    const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    const container = await place.sleeping({
      apparmorProfile: "caisson-vm-test",
      namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "ipc" }, { type: "pid" }, { type: "net" }, { type: "user" }],
      uidMappings: ids,
      gidMappings: ids,
    });
    assert.equal(await output(container, "cat /proc/self/attr/current"), "caisson-vm-test (enforce)");
    await container.signal("KILL");
    await container.wait();
    await container.destroy();
  });

  it("AppArmor: pods have the default profile, the one that they name, or none when they say so", async () => {
    const pod = node.podConfig("labels");
    const podId = await node.runPod(pod);
    const labelOf = async (name: string, security: object) => {
      const config = node.containerConfig(name, forever, { linux: { security_context: security } });
      const id = await node.run(podId, pod, config);
      const { pid } = await node.info(id);
      const exec = await node.exec(
        id,
        ["/bin/sh", "-c", "cat /proc/self/attr/current; mount -t tmpfs x /mnt; echo b > /proc/sysrq-trigger"],
        30,
      );
      const first = readFileSync(`/proc/${pid}/attr/apparmor/current`, "utf8").trim();
      return { first, exec: exec.stdout.trim(), errors: exec.stderr };
    };
    const byDefault = await labelOf("default", {});
    assert.equal(byDefault.first, "caisson-default (enforce)");
    assert.equal(byDefault.exec, "caisson-default (enforce)");
    const typed = await labelOf("typed", { apparmor: { profile_type: 0 } });
    assert.equal(typed.first, "caisson-default (enforce)");
    const named = await labelOf("named", {
      apparmor: { profile_type: 2, localhost_ref: "caisson-vm-test" },
      apparmor_profile: "unconfined",
    });
    assert.equal(named.exec, "caisson-vm-test (enforce)");
    const old = await labelOf("old", { apparmor_profile: "localhost/caisson-vm-test" });
    assert.equal(old.first, "caisson-vm-test (enforce)");
    const none = await labelOf("none", { apparmor: { profile_type: 1 } });
    assert.equal(none.first, "unconfined");
    await assert.rejects(
      labelOf("missing", { apparmor_profile: "localhost/not-there" }),
      /"not-there" is not loaded on this node/,
    );
    await node.removePod(podId);
  });

  it("AppArmor: a profile that is not loaded fails the start by name, and leaves nothing #apparmor", async () => {
    const container = await place.create({ apparmorProfile: "not-loaded" });
    await assert.rejects(container.run(shell("true")), /AppArmor profile not-loaded/);
    await container.destroy();
    assert.deepEqual(place.leftovers(), []);
  });
}
