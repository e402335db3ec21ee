/** AppArmor, for real: the VM's kernel enforces it. Cases of suite.ts. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

type Test = (name: string, work: () => Promise<void>) => Promise<void>;

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

export async function apparmorTests(test: Test): Promise<void> {
  execFileSync("apparmor_parser", ["-Kr"], { input: profile });
  await using place = new LibraryPlace();

  await test("AppArmor: first and further processes run under the profile, and are refused what it denies", async () => {
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

  await test("AppArmor: the profile holds in user namespaces too", async () => {
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

  await test("AppArmor: a profile that is not loaded fails the start by name, and leaves nothing", async () => {
    const container = await place.create({ apparmorProfile: "not-loaded" });
    await assert.rejects(container.run(shell("true")), /AppArmor profile not-loaded/);
    await container.destroy();
    assert.deepEqual(place.leftovers(), []);
  });
}
