/** Checkpoints over CRI, with the CRIU of this machine. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cgroupDirectory, isThawed } from "../helpers/cgroup-files.ts";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { type TarEntry, tar } from "../helpers/tar.ts";

let node: CriNode;
let place: string;
beforeAll(async () => {
  node = await CriNode.start({
    config: "[checkpoint]\nrestore = true\n[image]\nmax_layer_entries = 1500\nmax_layer_bytes = 67108864\n",
  });
  node.enableNetwork("caissonck", "10.199.77.0/24");
  await node.networkReady();
  place = mkdtempSync(join(tmpdir(), "caisson-checkpoint-"));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

const counting = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; echo line $i; sleep 0.02; done"];
/** The shell empties the file before it writes. */
async function count(id: string): Promise<number> {
  for (;;) {
    const { stdout, exitCode } = await node.exec(id, ["cat", "/tmp/count"]);
    if (stdout !== "" || exitCode !== 0) return Number(stdout);
  }
}
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
    const freezer = cgroupDirectory("freezer", info.cgroupsPath);
    const counted = (): number => Number(readFileSync(`/proc/${info.pid}/root/tmp/count`, "utf8"));
    const location = join(place, "killed.tar");
    const asked = node.client.runtime("CheckpointContainer", { container_id: id, location }).catch(() => "lost");
    while (isThawed(freezer)) await new Promise((resolve) => setImmediate(resolve));
    await node.daemon.kill();
    expect(await asked).toBe("lost");
    while (!isThawed(freezer)) await new Promise((resolve) => setTimeout(resolve, 5));
    const then = counted();
    while (counted() === then) await new Promise((resolve) => setTimeout(resolve, 5));
    await node.daemon.launch();
    await goesOn(id);
    expect(existsSync(location)).toBe(false);
    expect(existsSync(join(node.daemon.root, "checkpoints"))).toBe(false);
    await node.removePod(pod);
  });
});

describe("CheckpointPod and RestorePod", () => {
  it("saves two containers at one moment; a new pod has them, with their files, when they are started", async () => {
    const config = node.podConfig("ck-pod", podNetwork);
    const pod = await node.runPod(config);
    const volume = (owner: string): string => {
      const path = join(place, owner, "volumes/kubernetes.io~empty-dir/scratch");
      mkdirSync(path, { recursive: true });
      return path;
    };
    const mounts = (owner: string) => ({ mounts: [{ container_path: "/scratch", host_path: volume(owner) }] });
    const writer =
      "echo kept > /scratch/file; exec 5<>/scratch/open; echo shared > /dev/shm/word; echo mine > /made; rm /etc/group;";
    const commands = { writer: ["sh", "-c", `${writer} ${counting[2]}`], reader: counting };
    const configs = (owner: string) =>
      Object.entries(commands).map(([name, command]) => node.containerConfig(name, command, mounts(owner)));
    const ids: string[] = [];
    for (const one of configs("first")) ids.push(await node.run(pod, config, one));
    for (const id of ids) await goesOn(id);
    const output = join(place, "pod");
    mkdirSync(output);
    await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
    for (const id of ids) await goesOn(id);
    const then = await Promise.all(ids.map(count));
    await node.removePod(pod);

    const next = node.podConfig("ck-next", podNetwork);
    const reply = await node.client.runtime("RestorePod", {
      checkpoint_path: output,
      config: next,
      container_configs: configs("second"),
    });
    expect(reply.restored_containers.map(({ name }: { name: string }) => name).toSorted()).toEqual(["reader", "writer"]);
    const [first, second] = reply.restored_containers.map(({ container_id }: { container_id: string }) => container_id);
    expect((await node.status(first)).state).toBe("CONTAINER_CREATED");
    const { pid } = await node.info(first);
    const held = readFileSync(`/proc/${pid}/root/tmp/count`, "utf8");
    await node.start(second);
    await goesOn(second);
    expect(readFileSync(`/proc/${pid}/root/tmp/count`, "utf8")).toBe(held);
    await node.start(first);
    await goesOn(first);
    expect(await count(first)).toBeGreaterThan(3);
    expect(await count(first)).toBeLessThan((then[0] ?? 0) + 200);
    const said = await node.exec(first, ["sh", "-c", "cat /scratch/file /dev/shm/word /made; ls /etc/group; hostname"]);
    expect(said.stdout).toBe("kept\nshared\nmine\nck-next\n");
    expect(readFileSync(join(place, "second/volumes/kubernetes.io~empty-dir/scratch/file"), "utf8")).toBe("kept\n");
    expect(node.log("ck-next", "writer")).toMatch(/^stdout F line \d+\n/);
    await node.client.runtime("StopContainer", { container_id: first, timeout: 0 });
    expect((await node.status(first)).exit_code).toBe(137);
    await node.removePod(reply.pod_sandbox_id);
  });

  it("takes a shared PID namespace along, with the same process ids", async () => {
    const shared = { linux: { security_context: { namespace_options: { network: "NODE", pid: "POD", ipc: "POD" } } } };
    const config = node.podConfig("ck-pids", shared);
    const pod = await node.runPod(config);
    const wanted = ["a", "b"].map((name) =>
      node.containerConfig(name, counting, { linux: { security_context: { namespace_options: { pid: "POD" } } } }),
    );
    const ids: string[] = [];
    for (const one of wanted) ids.push(await node.run(pod, config, one));
    for (const id of ids) await goesOn(id);
    const inner = async (id: string) =>
      /NSpid:\s+\d+\s+(\d+)/.exec(readFileSync(`/proc/${(await node.info(id)).pid}/status`, "utf8"))?.[1];
    const before = await Promise.all(ids.map(inner));
    const output = join(place, "pids");
    mkdirSync(output);
    await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
    await node.removePod(pod);
    const reply = await node.client.runtime("RestorePod", {
      checkpoint_path: output,
      config: node.podConfig("ck-pids", shared),
      container_configs: wanted,
    });
    const made: string[] = reply.restored_containers.map(({ container_id }: { container_id: string }) => container_id);
    for (const id of made) await node.start(id);
    for (const id of made) await goesOn(id);
    expect(await Promise.all(made.map(inner))).toEqual(before);
    await node.removePod(reply.pod_sandbox_id);
  });

  it("leaves nothing that lies, and nothing behind, when the daemon is killed in the middle of a restore", async () => {
    const config = node.podConfig("ck-cut");
    const pod = await node.runPod(config);
    const wanted = ["one", "two"].map((name) => node.containerConfig(name, counting));
    const ids: string[] = [];
    for (const one of wanted) ids.push(await node.run(pod, config, one));
    for (const id of ids) await goesOn(id);
    const output = join(place, "cut");
    mkdirSync(output);
    await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
    await node.removePod(pod);
    const restore = () =>
      node.client.runtime("RestorePod", { checkpoint_path: output, config: node.podConfig("ck-cut"), container_configs: wanted });
    for (const fault of ["after:pod.record-ready", "before:container.shim-create", "after:container.shim-create"]) {
      node.daemon.arm(`kill:${fault}`);
      await failure(restore());
      await expect.poll(() => node.daemon.running).toBe(false);
      node.daemon.arm("");
      await node.daemon.launch();
      const { items } = await node.client.runtime("ListPodSandbox", {});
      const { containers } = await node.client.runtime("ListContainers", {});
      // What was cut off was never released: nothing of it may have run, whatever is listed.
      for (const { id, state } of containers) {
        expect(state, fault).toBe("CONTAINER_CREATED");
        expect((await node.status(id)).started_at).toBe("0");
      }
      for (const { id } of items) await node.removePod(id);
      expect((await node.client.runtime("ListContainers", {})).containers).toEqual([]);
    }
    const { pod_sandbox_id } = await restore();
    await node.removePod(pod_sandbox_id);
  });

  it("makes many pods of one checkpoint, and refuses what does not fit", async () => {
    const config = node.podConfig("ck-seed");
    const pod = await node.runPod(config);
    const id = await node.run(pod, config, node.containerConfig("counter", counting));
    await goesOn(id);
    const output = join(place, "seed");
    mkdirSync(output);
    const save = (more: object) =>
      node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: [id], ...more });
    for (const [more, text] of [
      [{ options: { speed: "high" } }, 'option "speed" is not known'],
      [{ container_ids: [] }, "container_ids is empty"],
      [{ container_ids: [id, id] }, "names one twice"],
      [{ output_path: place }, "is not empty"],
    ] as const) {
      expect((await failure(save(more))).details).toContain(text);
    }
    await save({});
    await node.removePod(pod);
    const restore = (name: string, more: object = {}) =>
      node.client.runtime("RestorePod", {
        checkpoint_path: output,
        config: node.podConfig(name),
        container_configs: [node.containerConfig("counter", counting)],
        ...more,
      });
    const clones = await Promise.all(["ck-a", "ck-b", "ck-c"].map((name) => restore(name)));
    await Promise.all(
      clones.map(async ({ restored_containers: [one] }) => {
        await node.start(one.container_id);
        await goesOn(one.container_id);
      }),
    );
    await Promise.all(clones.map(({ pod_sandbox_id }) => node.removePod(pod_sandbox_id)));
    for (const [changed, text] of [
      [node.containerConfig("other", counting), "the checkpoint is of counter"],
      [node.containerConfig("counter", ["sleep", "1"]), "another command"],
      [node.containerConfig("counter", counting, { envs: [{ key: "A", value: Buffer.from("b") }] }), "another environment"],
      [node.containerConfig("counter", counting, { linux: { security_context: { run_as_user: { value: 5 } } } }), "another user"],
      [node.containerConfig("counter", counting, { linux: { security_context: { no_new_privs: true } } }), "no_new_privs"],
      [
        node.containerConfig("counter", counting, {
          linux: { security_context: { capabilities: { drop_capabilities: ["ALL"] } } },
        }),
        "is not held by the container's seccomp profile",
      ],
      [
        node.containerConfig("counter", counting, {
          linux: { security_context: { seccomp: { profile_type: "Unconfined" }, capabilities: { drop_capabilities: ["ALL"] } } },
        }),
        "more capabilities",
      ],
    ] as const) {
      expect((await failure(restore("ck-refused", { container_configs: [changed] }))).details).toContain(text);
    }
    const left = await node.client.runtime("ListPodSandbox", {});
    expect(left.items.filter((item: { metadata: { name: string } }) => item.metadata.name === "ck-refused")).toEqual([]);
  });
});

describe("CreateContainer from an archive", () => {
  it("restores it, and refuses links and changed images in it", async () => {
    const config = node.podConfig("ck-archive");
    const pod = await node.runPod(config);
    const id = await node.run(pod, config, node.containerConfig("counter", counting));
    await goesOn(id);
    const location = join(place, "archive.tar");
    await node.client.runtime("CheckpointContainer", { container_id: id, location });
    const create = (archive: string, name: string) =>
      node.create(pod, config, { ...node.containerConfig(name, counting), image: { image: archive } });
    const restored = await create(location, "again");
    await node.start(restored);
    await goesOn(restored);
    expect((await node.status(restored)).image_id).toBe(node.imageId);

    const changed = join(place, "changed");
    const attack = async (script: string): Promise<string> => {
      rmSync(changed, { recursive: true, force: true });
      mkdirSync(changed);
      execFileSync("tar", ["-xf", location, "-C", changed]);
      execFileSync("sh", ["-c", script], { cwd: changed });
      const archive = join(place, "hostile.tar");
      execFileSync("tar", ["-cf", archive, "-C", changed, "."]);
      return (await failure(create(archive, "hostile"))).details;
    };
    expect(await attack("rm checkpoint/pages-1.img; ln -s /etc/shadow checkpoint/pages-1.img")).toContain(
      "pages-1.img is a link",
    );
    expect(await attack("ln -sf /etc/passwd config.dump")).toContain("config.dump is a link");
    expect(await attack("rm -r checkpoint; ln -s /etc checkpoint")).toContain("checkpoint is a link");
    expect(await attack(`sed -i 's/sha256:[0-9a-f]*/sha256:${"0".repeat(64)}/' config.dump`)).toContain("is not on this node");
    expect(await attack("sed -i 's/sleep/sleeq/' spec.dump")).toContain("another command");
    expect(await attack("truncate -s 100 checkpoint/pages-1.img")).toContain("pages-1.img is damaged");
    expect(await attack("printf x > checkpoint/seccomp.img")).toContain("seccomp.img is damaged");
    expect(await attack("echo '[\"../../../etc/hosts\"]' > deleted.files; echo no > rootfs-diff.tar")).not.toBe("");
    writeFileSync(join(place, "noise.tar"), "noise");
    expect((await failure(create(join(place, "noise.tar"), "noise"))).details).not.toBe("");
    expect(existsSync(join(node.daemon.root, "checkpoints")) ? readdirSync(join(node.daemon.root, "checkpoints")) : []).toEqual(
      [],
    );
    await node.removePod(pod);
  });

  describe("that is hostile", () => {
    let pod: string;
    let config: Message;
    let whole: Buffer;
    let wholeEnd: number;
    beforeAll(async () => {
      config = node.podConfig("ck-hostile");
      pod = await node.runPod(config);
      const id = await node.run(pod, config, node.containerConfig("counter", counting));
      await goesOn(id);
      const location = join(place, "whole.tar");
      await node.client.runtime("CheckpointContainer", { container_id: id, location });
      whole = readFileSync(location);
      // Zeros at the end of the last member's last block may be cut: they are filled up again.
      wholeEnd = Math.ceil((whole.findLastIndex((byte) => byte !== 0) + 1) / 512) * 512;
      writeFileSync(join(place, "outside"), "of the node");
    });
    afterAll(async () => await node.removePod(pod));

    const outside = () => join(place, "outside");
    const up = "../".repeat(16);
    const end = 1024;
    const hostile = (name: string): TarEntry => ({ name, content: "hostile" });
    const preceded = (...entries: TarEntry[]) => Buffer.concat([tar(entries).subarray(0, -end), whole]);
    /** Of a name that comes twice the last one counts. */
    const followed = (...entries: TarEntry[]) => Buffer.concat([whole.subarray(0, wholeEnd), tar(entries)]);
    /** In the container's files. */
    const changes = (...entries: TarEntry[]) => followed({ name: "rootfs-diff.tar", content: tar(entries) });
    const document = (name: string, change: (was: Message) => Message) => {
      const was = JSON.parse(execFileSync("tar", ["-xO", name], { input: whole, maxBuffer: 1 << 26 }).toString());
      return followed({ name, content: JSON.stringify(change(was)) });
    };
    const refused: readonly (readonly [string, () => Buffer, RegExp])[] = [
      [
        "a hard link to a file of the node",
        () => preceded({ name: "x", type: "1", link: outside() }),
        /target .* does not exist/,
      ],
      ["a hard link upwards", () => preceded({ name: "x", type: "1", link: up + outside() }), /target .* does not exist/],
      [
        "a hard link between images",
        () => followed({ name: "checkpoint/x.img", type: "1", link: "checkpoint/inventory.img" }),
        /is a link/,
      ],
      [
        "a hard link upwards in its changes",
        () => changes({ name: "x", type: "1", link: up + outside() }),
        /rootfs-diff.tar: .*target .* does not exist/,
      ],
      ["a link to a directory of the node", () => preceded({ name: "l", type: "2", link: place }), /l is a link/],
      ["a link and a file behind it", () => preceded({ name: "l", type: "2", link: place }, hostile("l/outside")), /l is a link/],
      ["a link instead of the images", () => followed({ name: "checkpoint", type: "2", link: place }), /checkpoint is a link/],
      ["a device instead of an image", () => preceded({ name: "checkpoint/x.img", type: "3", major: 1, minor: 8 }), /x.img is a/],
      ["a block device", () => preceded({ name: "disk", type: "4", major: 8, minor: 0 }), /disk is a/],
      ["a pipe", () => preceded({ name: "checkpoint/x.img", type: "6" }), /x.img is a/],
      ["a damaged document that comes a second time", () => followed(hostile("config.dump")), /config.dump is damaged/],
      ["another inventory", () => followed(hostile("checkpoint/inventory.img")), /could not be restored: .*inventory.img/],
      [
        "too many entries",
        () => preceded(...Array.from({ length: 1501 }, (_, n) => ({ name: `n${n}` }))),
        /more than 1500 entries/,
      ],
      [
        "too many bytes",
        () => gzipSync(preceded({ name: "zeros", content: Buffer.alloc(70 << 20) }), { level: 1 }),
        /larger than \d+ bytes/,
      ],
      ["a size that is a lie", () => tar([{ name: "zeros", content: "x", size: 1 << 20 }]), /ends in the middle of a file/],
      [
        "annotations of absurd size",
        () => document("spec.dump", (spec) => ({ ...spec, annotations: { a: "x".repeat(9 << 20) } })),
        /spec.dump is damaged/,
      ],
      [
        "more names to be removed than there can be",
        () => document("deleted.files", () => Array.from({ length: 100_001 }, (_, n) => `/n${n}`)),
        /deleted.files is damaged/,
      ],
      ["a removal of everything", () => document("deleted.files", () => ["/a/../.."]), /which is no path/],
    ];
    const create = (name: string, archive: Buffer): Promise<string> => {
      const path = join(place, "hostile.tar");
      writeFileSync(path, archive);
      return node.create(pod, config, { ...node.containerConfig(name, counting), image: { image: path } });
    };
    const nothingStays = async (containers: number) => {
      expect(readFileSync(outside(), "utf8")).toBe("of the node");
      expect(readdirSync(join(node.daemon.root, "checkpoints")).filter((name) => name.startsWith("restore-"))).toEqual([]);
      expect(readdirSync(join(node.daemon.root, "containers"))).toHaveLength(containers);
      const listed = await node.client.runtime("ListContainers", { filter: { pod_sandbox_id: pod } });
      expect(listed.containers).toHaveLength(containers);
    };
    it.each(refused)("%s: refused, and nothing stays", async (name, make, said) => {
      const found = await failure(create(name.replaceAll(" ", "-"), make()));
      expect(found.details).toMatch(said);
      await nothingStays(1);
    });

    it("paths that are absolute or lead upwards, and links in the container's files, stay inside", async () => {
      for (const [name, archive] of Object.entries({
        absolute: preceded(hostile(outside())),
        upwards: preceded(hostile(up + outside())),
        "upwards-in-changes": changes(hostile(up + outside())),
        "links-in-changes": changes({ name: "l", type: "2", link: place }, hostile("l/outside")),
      })) {
        const id = await create(name, archive);
        await nothingStays(2);
        await node.client.runtime("RemoveContainer", { container_id: id });
      }
    });
  });
});
