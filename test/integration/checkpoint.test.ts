/** Checkpoint and restore of library containers by the CRIU of this machine. */
import { cpSync, existsSync, mkdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { whileFrozen } from "../../src/core/criu/hold.ts";
import { connectContainerShim } from "../../src/core/library/container-shim.ts";
import {
  allowedDevices,
  type CheckpointOptions,
  type Config,
  type Container,
  RuntimeError,
} from "../../src/core/library/public.ts";
import { addon } from "../../src/native/addon.ts";
import { isFrozen, isThawed, memoryLimit, onV2 } from "../helpers/cgroup-files.ts";
import { startActor } from "../helpers/library-actor.ts";
import { LibraryPlace, output, shell, until } from "../helpers/library-place.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  expect(place.leftovers().filter((path) => !path.endsWith("/caisson-library"))).toEqual([]);
  await place[Symbol.asyncDispose]();
});

async function end(container: Container): Promise<void> {
  if ((await container.status()) === "paused") await container.resume();
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

let images = 0;
const newImages = (): string => join(place.top, `images${images++}`);
const counting = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; echo $i; sleep 0.02; done";
const pidOf = (container: Container): number => container.state().init_process_pid;
const count = (container: Container): number => Number(readFileSync(`/proc/${pidOf(container)}/root/dev/shm/count`, "utf8"));
/** Its number rises, so it runs. */
async function goesOn(container: Container): Promise<void> {
  const then = count(container);
  await until(() => count(container) > then);
}
async function counter(changes: Partial<Config> = {}): Promise<Container> {
  const container = await place.create(changes);
  await container.run(shell(counting));
  await until(() => existsSync(`/proc/${pidOf(container)}/root/dev/shm/count`) && count(container) > 2);
  return container;
}
async function restored(imagesDirectory: string, changes: Partial<Config> = {}): Promise<Container> {
  const container = await place.create(changes);
  await container.restore(shell("what it was"), { imagesDirectory });
  return container;
}
const mountsOf = (container: Container): string[] =>
  readFileSync(`/proc/${pidOf(container)}/mountinfo`, "utf8")
    .replaceAll(container.id, "ID")
    .trim()
    .split("\n")
    .map((line) => line.split(" "))
    .map(([, , , root, at, options, ...rest]) => [root, at, options, rest[rest.indexOf("-") + 1]].join(" "))
    .toSorted();
function linkOf(container: Container, fd: number): string {
  try {
    return readlinkSync(`/proc/${pidOf(container)}/fd/${fd}`);
  } catch {
    return "";
  }
}
const freezerOf = (container: Container): string => container.state().cgroup_paths[onV2 ? "" : "freezer"] ?? "";
const criuOf = (container: Container): number => {
  const { pid } = JSON.parse(readFileSync(join(place.stateDir, container.id, "shim.json"), "utf8")) as { pid: number };
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
  return Number(children.find((child) => readFileSync(`/proc/${child}/comm`, "utf8").startsWith("criu")));
};

describe("a checkpoint #checkpoint", () => {
  it("of a container whose root is made of layers goes on in the same layers #overlay-root", async () => {
    const top = join(place.top, "layered");
    const [layer, upper, work] = [join(top, "layer"), join(top, "upper"), join(top, "work")];
    mkdirSync(layer, { recursive: true });
    writeFileSync(join(layer, "lower"), "lower");
    const changes: Partial<Config> = { overlay: { layers: [layer], upper, work } };
    const first = await place.create(changes);
    await first.run(shell(`exec 7>> /written; cat /lower >&7; ${counting}`));
    await until(() => existsSync(`/proc/${pidOf(first)}/root/dev/shm/count`) && count(first) > 2);
    const mounts = mountsOf(first);
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const second = await restored(imagesDirectory, changes);
    await goesOn(second);
    expect(linkOf(second, 7)).toBe("/written");
    expect(await output(second, "cat /written; echo more >> /written")).toBe("lower");
    expect(mountsOf(second)).toEqual(mounts);
    await end(second);
    expect(readFileSync(join(upper, "written"), "utf8")).toBe("lowermore\n");
  });

  it("lets the container go on, and another one goes on from there, is entered, counted and saved again", async () => {
    const first = await place.create();
    const process = shell(counting, { stdout: "pipe" });
    await first.run(process);
    process.stdout?.resume();
    await until(() => existsSync(`/proc/${pidOf(first)}/root/dev/shm/count`) && count(first) > 3);
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory, leaveRunning: true });
    expect(await first.status()).toBe("running");
    const then = count(first);
    await goesOn(first);
    await end(first);

    const second = await place.create();
    const again = shell("what it was", { stdout: "pipe" });
    await second.restore(again, { imagesDirectory });
    const lines: string[] = [];
    again.stdout?.on("data", (chunk: Buffer) => lines.push(...chunk.toString().split("\n")));
    expect(await second.status()).toBe("running");
    await until(() => lines.length > 0);
    expect(Number(lines[0])).toBeGreaterThan(3);
    expect(Number(lines[0])).toBeLessThan(then + 20);
    expect(await output(second, "hostname; cat /proc/1/comm; ps | wc -l")).toMatch(/^library\nsh\n/);
    expect((await second.stats()).cgroup.cpuUsageNs).toBeGreaterThan(0n);
    const more = newImages();
    await second.checkpoint({ imagesDirectory: more });
    expect(await second.status()).toBe("stopped");
    await second.destroy();
    const third = await restored(more);
    await goesOn(third);
    expect(count(third)).toBeGreaterThan(then);
    await end(third);
  });

  it("gives back masks, read-only paths, binds, limits and namespaces as they are configured", async () => {
    const shared = join(place.top, "shared");
    mkdirSync(shared, { recursive: true });
    writeFileSync(join(shared, "file"), "from the host");
    const changes = (id: string): Partial<Config> => ({
      namespaces: [{ type: "mnt" }, { type: "uts" }, { type: "ipc" }, { type: "pid" }, { type: "net" }, { type: "cgroup" }],
      cgroups: { path: `${place.cgroup}/${id}`, resources: { devices: allowedDevices, memory: { limit: 64 << 20 } } },
      maskPaths: ["/proc/timer_list", "/sys/firmware", "/proc/acpi"],
      readonlyPaths: ["/proc/sys", "/proc/bus"],
      mounts: [
        ...(place.config(id).mounts ?? []),
        { source: "mqueue", destination: "/dev/mqueue", device: "mqueue", flags: [] },
        { source: "cgroup", destination: "/sys/fs/cgroup", device: "cgroup", flags: ["ro"] },
        { source: shared, destination: "/data/shared", device: "bind", flags: ["bind", "ro"] },
        { source: join(shared, "file"), destination: "/etc/file", device: "bind", flags: ["bind"] },
        { source: "tmpfs", destination: "/tmp", device: "tmpfs", flags: [] },
      ],
    });
    const id = place.newId();
    const first = await place.create(changes(id), id);
    await first.run(shell(`echo content > /tmp/mine; chmod 600 /tmp/mine; ${counting}`));
    await until(() => existsSync(`/proc/${pidOf(first)}/root/dev/shm/count`));
    const before = mountsOf(first);
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const nextId = place.newId();
    const second = await place.create(changes(nextId), nextId);
    await second.restore(shell("what it was"), { imagesDirectory });
    expect(mountsOf(second)).toEqual(before);
    expect(await output(second, "cat /tmp/mine /data/shared/file; stat -c %a /tmp/mine")).toBe("content\nfrom the host600");
    expect(await output(second, "echo x > /data/shared/new || echo refused")).toContain("refused");
    expect(memoryLimit(`${place.cgroup}/${nextId}`)).toBe(`${64 << 20}`);
    expect(readFileSync(`/proc/${pidOf(second)}/cgroup`, "utf8")).toContain(`${place.cgroup}/${nextId}`);
    expect(await output(second, "cat /proc/self/cgroup")).not.toContain(nextId);
    await end(second);
  });

  it("keeps a listening socket, a deleted file that is open, and clocks", async () => {
    const first = await place.create();
    const script = "exec 3<>/tmp/gone; echo kept >&3; rm /tmp/gone; while :; do sleep 0.05; done";
    await first.run(shell(script));
    await until(() => linkOf(first, 3).includes("(deleted)"));
    const uptime = await output(first, "cat /proc/uptime");
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const second = await restored(imagesDirectory);
    expect(readFileSync(`/proc/${pidOf(second)}/fd/3`, "utf8")).toBe("kept\n");
    expect(Number((await output(second, "cat /proc/uptime")).split(" ")[0])).toBeGreaterThanOrEqual(Number(uptime.split(" ")[0]));
    await end(second);
  });

  it("reconnects a terminal", async () => {
    const first = await place.create();
    const process = shell("stty -echo; while read line; do echo got $line; done", { terminal: true });
    await first.run(process);
    const imagesDirectory = newImages();
    const heard: string[] = [];
    process.console?.on("data", (chunk: Buffer) => heard.push(chunk.toString()));
    process.console?.write("one\n");
    await until(() => heard.join("").includes("got one"));
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const second = await place.create();
    const again = shell("what it was", { terminal: true });
    await second.restore(again, { imagesDirectory });
    const then: string[] = [];
    again.console?.on("data", (chunk: Buffer) => then.push(chunk.toString()));
    again.console?.write("two\n");
    await until(() => then.join("").includes("got two"));
    await end(second);
  });

  it("restores a process whose end is its own", async () => {
    const first = await place.create();
    await first.run(shell("trap 'exit 7' TERM; while :; do sleep 0.02; done"));
    await output(first, "true");
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory });
    expect(await first.wait()).toMatchObject({ signal: 9 });
    await first.destroy();
    const second = await restored(imagesDirectory);
    await second.signal("TERM");
    expect(await second.wait()).toEqual({ exitCode: 7, signal: 0, known: true, oomKilled: false });
    await second.destroy();
  });

  it("leaves a paused container paused", async () => {
    // CRIU cannot freeze the root of a cgroup namespace that it works in on v2: we do.
    const types = ["mnt", "uts", "ipc", "pid", "net", "cgroup"] as const;
    const container = await counter({ namespaces: types.map((type) => ({ type })) });
    await container.checkpoint({ imagesDirectory: newImages(), leaveRunning: true });
    await goesOn(container);
    await container.pause();
    await container.checkpoint({ imagesDirectory: newImages(), leaveRunning: true });
    expect(await container.status()).toBe("paused");
    expect(isFrozen(freezerOf(container))).toBe(true);
    await container.resume();
    await goesOn(container);
    await end(container);
  });

  it("tells its steps in order, and gives up when one is refused", async () => {
    const container = await counter();
    const steps: string[] = [];
    await container.checkpoint({ imagesDirectory: newImages(), leaveRunning: true, onStep: (step) => void steps.push(step) });
    expect(steps).toEqual(["pre-dump", "query-ext-files", "post-dump"]);
    const refused = container.checkpoint({
      imagesDirectory: newImages(),
      leaveRunning: true,
      onStep: (step) => {
        if (step === "post-dump") throw new RuntimeError("aborted", "not now");
      },
    });
    await expect(refused).rejects.toThrow("not now");
    await goesOn(container);
    await end(container);
  });
});

describe("what cannot be done", () => {
  it("names the resource that cannot be saved, and the container goes on", async () => {
    const container = await place.create();
    const socket = addon.seqpacketPair(
      () => {},
      () => {},
    );
    await container.run(shell(counting, { stdin: socket.otherEnd }));
    addon.close(socket.otherEnd);
    await until(() => existsSync(`/proc/${pidOf(container)}/root/dev/shm/count`));
    await expect(container.checkpoint({ imagesDirectory: newImages() })).rejects.toThrow(
      /could not be checkpointed: unix: Unix socket \d+ not found; descriptor 0 of process "sh" is "socket:/,
    );
    await goesOn(container);
    socket.close();
    await end(container);
  });

  it("refuses what is not there or does not fit", async () => {
    const container = await counter();
    const imagesDirectory = newImages();
    const refusals: readonly (readonly [Partial<CheckpointOptions>, string])[] = [
      [{ imagesDirectory: "" }, "invalid directory to save checkpoint"],
      [{ parentPath: "/absolute" }, "parentPath must be relative"],
      [{ pageServer: { address: "", port: 1 } }, "pageServer needs an address and a port"],
      [{ lazyPages: true }, "lazyPages needs pageServer"],
    ];
    for (const [option, message] of refusals) {
      await expect(container.checkpoint({ imagesDirectory, leaveRunning: true, ...option })).rejects.toThrow(message);
    }
    await goesOn(container);
    await end(container);
    const stopped = await place.create();
    await expect(stopped.checkpoint({ imagesDirectory })).rejects.toThrow("Container cannot be checkpointed in stopped state");
    await expect(stopped.restore(shell("x"), { imagesDirectory })).rejects.toThrow("holds no checkpoint");
    await stopped.destroy();
  });

  it("leaves nothing of a restore from truncated images", async () => {
    const first = await counter();
    const imagesDirectory = newImages();
    await first.checkpoint({ imagesDirectory });
    await first.destroy();
    const others = newImages();
    cpSync(imagesDirectory, others, { recursive: true });
    truncateSync(join(imagesDirectory, "pages-1.img"), 4096);
    truncateSync(join(others, "mm-1.img"), 40);
    const second = await place.create();
    await expect(second.restore(shell("x"), { imagesDirectory })).rejects.toThrow(/pages-1.img is damaged: it has 4096 bytes/);
    await expect(second.restore(shell("x"), { imagesDirectory: others })).rejects.toThrow(/could not be restored: .*log: /);
    expect(await second.status()).toBe("stopped");
    expect(await second.processes()).toEqual([]);
    writeFileSync(join(imagesDirectory, "caisson.json"), "{");
    await expect(second.restore(shell("x"), { imagesDirectory })).rejects.toThrow("caisson.json is damaged");
    await second.destroy();
  });
});

describe("a container is never left frozen", () => {
  it("though CRIU is killed in the middle", async () => {
    const container = await counter();
    const failed = container.checkpoint({
      imagesDirectory: newImages(),
      leaveRunning: true,
      onStep: (step) => void (step === "query-ext-files" && process.kill(criuOf(container), "SIGKILL")),
    });
    await expect(failed).rejects.toThrow();
    await goesOn(container);
    expect(isThawed(freezerOf(container))).toBe(true);
    await end(container);
  });

  it("though whoever checkpoints is killed in the middle", async () => {
    const container = await counter();
    using actor = startActor({
      stateDir: place.stateDir,
      id: container.id,
      steps: [{ do: "checkpoint", options: { imagesDirectory: newImages(), leaveRunning: true }, dieAt: "query-ext-files" }],
    });
    expect(await actor.next()).toBe(undefined);
    await until(() => isThawed(freezerOf(container)));
    await goesOn(container);
    await end(container);
  });

  it("though its helper is killed in the middle, and no longer than it was said", async () => {
    const container = await counter();
    const directory = join(place.stateDir, container.id);
    const freezer = freezerOf(container);
    const link = await connectContainerShim(directory, container.state().caisson.shim_id, AbortSignal.timeout(5000));
    const shim = await link?.shim();
    if (shim === undefined) throw new Error("no helper");
    const late = whileFrozen(shim, [freezer], onV2 ? 5000 : 300, async () => {
      expect(isFrozen(freezerOf(container))).toBe(true);
      await until(() => isThawed(freezerOf(container)));
    });
    await expect(late).rejects.toThrow("frozen cgroups were let go");
    await goesOn(container);
    const killed = whileFrozen(shim, [freezer], 60_000, async () => {
      expect(isFrozen(freezerOf(container))).toBe(true);
      process.kill(shim.process.pid, "SIGKILL");
      await until(() => isThawed(freezerOf(container)));
    });
    await killed.catch(() => {});
    await goesOn(container);
    await end(container);
  });

  it.each(["cgroup", "net"] as const)("but a container paused before is paused again (%s namespace)", async (more) => {
    const container = await counter({ namespaces: (["mnt", "uts", "ipc", "pid", more] as const).map((type) => ({ type })) });
    const directory = join(place.stateDir, container.id);
    const pausedAgain = async () => {
      await until(() => isFrozen(freezerOf(container)));
      const then = count(container);
      await sleep(200);
      expect(count(container)).toBe(then);
      // The guard looks more than once.
      await until(async () => {
        if ((await container.status()) === "paused") await container.resume();
        return count(container) > then;
      });
      await container.pause();
    };
    await container.pause();
    const ended = container.checkpoint({
      imagesDirectory: newImages(),
      leaveRunning: true,
      onStep: (step) => void (step === "query-ext-files" && process.kill(criuOf(container), "SIGKILL")),
    });
    await expect(ended).rejects.toThrow();
    await pausedAgain();
    const checkpoint = { imagesDirectory: newImages(), leaveRunning: true };
    using actor = startActor({
      stateDir: place.stateDir,
      id: container.id,
      steps: [{ do: "checkpoint", options: checkpoint, dieAt: "query-ext-files" }],
    });
    expect(await actor.next()).toBe(undefined);
    await until(() => actor.child.signalCode === "SIGKILL");
    await pausedAgain();
    const { pid } = JSON.parse(readFileSync(join(directory, "shim.json"), "utf8")) as { pid: number };
    const without = container.checkpoint({
      imagesDirectory: newImages(),
      leaveRunning: true,
      onStep: (step) => void (step === "query-ext-files" && process.kill(pid, "SIGKILL")),
    });
    await expect(without).rejects.toThrow();
    await pausedAgain();
    await end(container);
  });
});
