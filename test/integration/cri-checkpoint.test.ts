/** Checkpoints over CRI, with the CRIU of this machine. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";

let node: CriNode;
let place: string;
beforeAll(async () => {
  node = await CriNode.start();
  node.enableNetwork("caissonck", "10.199.77.0/24");
  for (let ready = false; !ready; ) {
    const { status } = await node.client.runtime("Status", {});
    ready = status.conditions.find((condition: { type: string }) => condition.type === "NetworkReady").status;
  }
  place = mkdtempSync(join(tmpdir(), "caisson-checkpoint-"));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

const counting = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; echo line $i; sleep 0.02; done"];
const count = async (id: string): Promise<number> => Number((await node.exec(id, ["cat", "/tmp/count"])).stdout);
async function goesOn(id: string): Promise<void> {
  const then = await count(id);
  for (let tries = 0; tries < 200; tries++) if ((await count(id)) > then) return;
  throw new Error("it stands still");
}
const podNetwork = { linux: { security_context: { namespace_options: network.pod } } };

describe("CheckpointContainer", () => {
  it("writes the archive that checkpoint tools read, and the container goes on", async () => {
    const config = node.podConfig("ck-one", podNetwork);
    const pod = await node.runPod(config);
    const id = await node.run(
      pod,
      config,
      node.containerConfig("counter", ["sh", "-c", `echo mine > /made; rm /etc/group; ${counting[2]}`]),
    );
    await goesOn(id);
    const location = join(place, "one.tar");
    await node.client.runtime("CheckpointContainer", { container_id: id, location, timeout: 30 });
    await goesOn(id);
    expect(statSync(location).mode & 0o777).toBe(0o600);
    const members = execFileSync("tar", ["-tf", location], { encoding: "utf8" }).split("\n");
    for (const name of [
      "config.dump",
      "spec.dump",
      "status.dump",
      "rootfs-diff.tar",
      "deleted.files",
      "bind.mounts",
      "dump.log",
    ]) {
      expect(members).toContain(name);
    }
    expect(members).toContain("container.log");
    expect(members).toContain("stats-dump");
    expect(members).toContain("checkpoint/inventory.img");
    const read = (name: string): string => execFileSync("tar", ["-xOf", location, name], { encoding: "utf8", stdio: "pipe" });
    expect(JSON.parse(read("config.dump"))).toMatchObject({
      id,
      name: "counter",
      rootfsImageRef: node.imageId,
      runtime: "caisson",
    });
    expect(JSON.parse(read("spec.dump")).process.args[0]).toBe("sh");
    expect(JSON.parse(read("deleted.files"))).toEqual(["/etc/group"]);
    expect(JSON.parse(read("status.dump")).id).toBe(id);
    const diff = execFileSync("tar", ["-tf", "-"], {
      input: execFileSync("tar", ["-xOf", location, "rootfs-diff.tar"], { maxBuffer: 1 << 26 }),
      encoding: "utf8",
    });
    expect(diff.split("\n")).toContain("made");
    expect(readdirSync(place)).toEqual(["one.tar"]);
    expect(readdirSync(join(node.daemon.root, "checkpoints"))).toEqual([]);
    await node.removePod(pod);
  });

  it("refuses what cannot be saved, and leaves nothing", async () => {
    const config = node.podConfig("ck-two");
    const pod = await node.runPod(config);
    const id = await node.create(pod, config, node.containerConfig("sleeper", ["sleep", "1000"]));
    const location = join(place, "two.tar");
    const ask = (more: object) => node.client.runtime("CheckpointContainer", { container_id: id, location, ...more });
    expect((await failure(ask({}))).details).toContain("is created; only a running one can be checkpointed");
    await node.start(id);
    expect(await failure(ask({ timeout: -1 }))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    expect(await failure(ask({ location: "relative" }))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    expect(await failure(ask({ location: "/nowhere/at/all.tar" }))).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    expect(await failure(ask({ container_id: "ffff" }))).toMatchObject({ code: grpcStatus.NOT_FOUND });
    expect(existsSync(location)).toBe(false);
    expect(readFileSync(`/proc/${(await node.info(id)).pid}/status`, "utf8")).toContain("sleep");
    await node.removePod(pod);
  });

  it("leaves no container frozen, and nothing else, when the daemon is killed in the middle", async () => {
    const config = node.podConfig("ck-killed");
    const pod = await node.runPod(config);
    const id = await node.run(pod, config, node.containerConfig("counter", counting));
    await goesOn(id);
    const info = await node.info(id);
    const state = (): string => readFileSync(`/sys/fs/cgroup/freezer${info.cgroupsPath}/freezer.state`, "utf8").trim();
    const counted = (): number => Number(readFileSync(`/proc/${info.pid}/root/tmp/count`, "utf8"));
    const location = join(place, "killed.tar");
    const asked = node.client.runtime("CheckpointContainer", { container_id: id, location }).catch(() => "lost");
    while (state() === "THAWED") await new Promise((resolve) => setImmediate(resolve));
    await node.daemon.kill();
    expect(await asked).toBe("lost");
    while (state() !== "THAWED") await new Promise((resolve) => setTimeout(resolve, 5));
    const then = counted();
    while (counted() === then) await new Promise((resolve) => setTimeout(resolve, 5));
    await node.daemon.launch();
    await goesOn(id);
    expect(existsSync(location)).toBe(false);
    expect(existsSync(join(node.daemon.root, "checkpoints"))).toBe(false);
    await node.removePod(pod);
  });
});
