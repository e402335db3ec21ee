/** Containers of the library on this machine: their life, whoever leads it. */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allowedDevices, Container } from "../../src/core/library/public.ts";
import { cgroupDirectory, memoryLimit, onV2, readCgroup } from "../helpers/cgroup-files.ts";
import { startActor } from "../helpers/library-actor.ts";
import { initOutput, LibraryPlace, output, shell, until } from "../helpers/library-place.ts";
import { isRunning } from "../helpers/process-state.ts";

let place: LibraryPlace;
beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

describe("life of a container", () => {
  it("is stopped, created, running and stopped, and leaves nothing #states #destroy", async () => {
    const container = await place.create();
    expect(await container.status()).toBe("stopped");
    const first = shell("exit 5");
    expect(() => first.pid).toThrow("invalid process");
    await container.start(first);
    expect(await container.status()).toBe("created");
    expect((await container.ociState()).pid).toBe(first.pid);
    await container.exec();
    expect(await first.wait()).toEqual({ exitCode: 5, signal: 0, known: true, oomKilled: false });
    expect(await container.status()).toBe("stopped");
    expect(await container.ociState()).not.toHaveProperty("pid");
    await container.destroy();
    await container.destroy();
    expect(place.leftovers()).toEqual([]);
  });

  it("waits fully set up before exec(): nothing of it has run #start-run", async () => {
    const container = await place.create();
    await container.start(shell("echo ran > /dev/shm/mark; sleep 1000"));
    const { init_process_pid: pid } = container.state();
    expect(existsSync(`/proc/${pid}/root/dev/shm/mark`)).toBe(false);
    await container.exec();
    await until(() => existsSync(`/proc/${pid}/root/dev/shm/mark`));
    await expect(container.exec()).rejects.toThrow("cannot start an already running container");
    await end(container);
  });

  it("leaves no cgroup above containers that were there at the same time, whichever ends last #cgroup-removal", async () => {
    const first = await place.sleeping();
    const second = await place.sleeping();
    const third = await place.sleeping();
    for (const container of [first, third, second]) await end(container);
    expect(place.leftovers()).toEqual([]);
  });

  it("destroys one that was only created #destroy", async () => {
    const container = await place.create();
    await container.start(shell("sleep 1000"));
    await container.destroy();
    expect(place.leftovers()).toEqual([]);
  });

  it("keeps a state.json that says what it is, in a directory of its own #state-json", async () => {
    const container = await place.sleeping();
    const directory = join(place.stateDir, container.id);
    expect(statSync(place.stateDir).mode & 0o777).toBe(0o700);
    expect(statSync(directory).mode & 0o777).toBe(0o711);
    const state = JSON.parse(readFileSync(join(directory, "state.json"), "utf8"));
    expect(state).toMatchObject({ id: container.id, rootless: false, config: { hostname: "library" } });
    expect(state.namespace_paths.NEWPID).toBe(`/proc/${state.init_process_pid}/ns/pid`);
    expect(state.cgroup_paths[onV2 ? "" : "memory"]).toBe(cgroupDirectory("memory", `${place.cgroup}/${container.id}`));
    expect(state.external_descriptors).toHaveLength(3);
    await end(container);
  });
});

describe("errors that callers match", () => {
  it("refuses ids #create-load", async () => {
    for (const id of ["", ".", "..", "a/b", "a b", "ä"]) {
      await expect(Container.create(place.stateDir, id, place.config("x"))).rejects.toThrow("invalid container ID format");
    }
  });

  it("knows what exists and what does not #create-load", async () => {
    const container = await place.create();
    await expect(place.create({}, container.id)).rejects.toThrow("container with given ID already exists");
    await container.destroy();
    await expect(Container.load(place.stateDir, container.id)).rejects.toThrow("container does not exist");
  });

  it("takes over what a killed create left", async () => {
    const id = place.newId();
    mkdirSync(join(place.stateDir, id), { recursive: true });
    const container = await place.create({}, id);
    await container.destroy();
  });

  it("says what a container is not #states", async () => {
    const container = await place.create();
    for (const act of [() => container.pause(), () => container.signal("TERM"), () => container.exec(shell("true"))]) {
      await expect(act()).rejects.toThrow("container not running");
    }
    await container.run(shell("sleep 1000"));
    await expect(container.resume()).rejects.toThrow("container not paused");
    await expect(container.destroy()).rejects.toThrow("container still running");
    await expect(container.start(shell("true", { init: true }))).rejects.toThrow("container already has init process");
    await end(container);
  });

  it("refuses a cgroup that is in use #cgroup-refusals", async () => {
    const container = await place.sleeping();
    const { cgroups } = container.config();
    await expect(place.create({ ...(cgroups === undefined ? {} : { cgroups }) })).rejects.toThrow(
      "container's cgroup is not empty: 1 process(es) found",
    );
    await end(container);
  });

  it("names a command that is not there #environment", async () => {
    const container = await place.create();
    await expect(container.run(shell("", { args: ["nothere"] }))).rejects.toThrow(
      'exec: "nothere": executable file not found in $PATH',
    );
    await until(async () => (await container.status()) === "stopped");
    await container.destroy();
    expect(place.leftovers()).toEqual([]);
  });
});

describe("several processes that lead it", () => {
  it("is loaded, looked at, ended and taken away by another one #state-json #create-load", async () => {
    const container = await place.sleeping();
    const steps = [{ do: "status" }, { do: "signal", signal: "KILL" }, { do: "wait" }, { do: "status" }, { do: "destroy" }];
    using actor = startActor({ stateDir: place.stateDir, id: container.id, steps });
    expect((await actor.all()).map(({ result, error }) => error ?? result)).toEqual([
      "running",
      null,
      { exitCode: 137, signal: 9, known: true, oomKilled: false },
      "stopped",
      null,
    ]);
    expect((await container.wait().catch((error: Error) => error.message)) as unknown).toBe("container does not exist");
    expect(place.leftovers()).toEqual([]);
  });

  it("outlives a maker that is killed, with its further processes #state-json", async () => {
    const id = place.newId();
    const sleeper = { args: ["sleep", "1000"], env: ["PATH=/bin"] };
    const steps = [
      { do: "run", process: sleeper },
      { do: "exec", process: { ...sleeper, args: ["sleep", "2000"] } },
    ];
    using actor = startActor({ stateDir: place.stateDir, id, config: place.config(id), steps, stay: true });
    expect(await actor.next()).toEqual({ did: "run", result: null });
    expect(await actor.next()).toEqual({ did: "exec", result: null });
    const gone = new Promise((resolve) => actor.child.once("exit", resolve));
    actor.child.kill("SIGKILL");
    await gone;
    const container = await Container.load(place.stateDir, id);
    expect(await container.status()).toBe("running");
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await container.processes()).toHaveLength(2);
    expect(await output(container, "hostname")).toBe("library");
    await end(container);
    expect(place.leftovers()).toEqual([]);
  });

  it("is started by one of two that try at the same time #two-callers", async () => {
    const container = await place.create();
    const steps = [{ do: "run", process: { args: ["sleep", "1000"], env: ["PATH=/bin"], init: true } }];
    const task = { stateDir: place.stateDir, id: container.id, steps };
    using one = startActor(task);
    using two = startActor(task);
    const told = (await Promise.all([one.all(), two.all()])).flat();
    expect(told.filter(({ did }) => did === "run")).toHaveLength(1);
    expect(told.filter(({ error }) => error === "container already has init process")).toHaveLength(1);
    await end(container);
  });

  it("takes up a start that was killed half-way", async () => {
    const id = place.newId();
    const steps = [{ do: "start", process: { args: ["sleep", "1000"], env: ["PATH=/bin"] } }];
    using actor = startActor({ stateDir: place.stateDir, id, config: place.config(id), steps, stay: true });
    expect(await actor.next()).toEqual({ did: "start", result: null });
    const gone = new Promise((resolve) => actor.child.once("exit", resolve));
    actor.child.kill("SIGKILL");
    await gone;
    // As if it had been killed before it could write down what it has started.
    const file = join(place.stateDir, id, "state.json");
    const state = JSON.parse(readFileSync(file, "utf8"));
    writeFileSync(file, JSON.stringify({ ...state, init_process_pid: 0, init_process_start: 0 }));
    const container = await Container.load(place.stateDir, id);
    expect(await container.status()).toBe("stopped");
    await container.run(shell("sleep 1000"));
    expect(existsSync(`/proc/${state.init_process_pid}/exe`)).toBe(false);
    expect(await container.processes()).toHaveLength(1);
    await end(container);
    expect(place.leftovers()).toEqual([]);
  });

  it("can still be ended when its helper was killed", async () => {
    const container = await place.sleeping();
    const shim = JSON.parse(readFileSync(join(place.stateDir, container.id, "shim.json"), "utf8"));
    process.kill(shim.pid, "SIGKILL");
    expect(await container.wait()).toEqual({ exitCode: 255, signal: 0, known: false, oomKilled: undefined });
    expect(await container.status()).toBe("running");
    await expect(container.exec(shell("true"))).rejects.toThrow("the helper of container");
    await container.signal("KILL");
    await until(async () => (await container.status()) === "stopped");
    await container.destroy();
    expect(place.leftovers()).toEqual([]);
  });

  it("tells everybody how it ended, also who asks later #wait", async () => {
    const container = await place.create();
    await container.run(shell("exit 3"));
    await container.wait();
    const later = await Container.load(place.stateDir, container.id);
    expect((await later.wait()).exitCode).toBe(3);
    await later.destroy();
  });
});

describe("control", () => {
  it("pauses and resumes #pause", async () => {
    const container = await place.create();
    await container.run(shell("i=0; while true; do i=$((i+1)); echo $i > /dev/shm/count; done"));
    const file = `/proc/${container.state().init_process_pid}/root/dev/shm/count`;
    const count = () => readFileSync(file, "utf8");
    await until(() => existsSync(file));
    await container.pause();
    expect(await container.status()).toBe("paused");
    const before = count();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(count()).toBe(before);
    await expect(container.pause()).rejects.toThrow("container not running");
    await expect(container.destroy()).rejects.toThrow("container paused");
    await expect(container.exec(shell("true"))).rejects.toThrow("container paused");
    await container.resume();
    await until(() => count() !== before);
    await container.pause();
    await end(container);
    expect(place.leftovers()).toEqual([]);
  });

  it("changes limits, all or none, and keeps what it changed #set #memory #pids", async () => {
    const container = await place.sleeping();
    const limits = (limit: number, pids: number) => ({
      ...container.config(),
      cgroups: { ...container.config().cgroups, resources: { memory: { limit }, pids: { limit: pids } } },
    });
    const path = `${place.cgroup}/${container.id}`;
    const inForce = () => [memoryLimit(path), readCgroup(path, "pids", "pids.max", "pids.max")];
    await container.set(limits(64 << 20, 50));
    expect(inForce()).toEqual([String(64 << 20), "50"]);
    await expect(container.set(limits(4096, 60))).rejects.toThrow("unable to set the memory limit");
    expect(inForce()).toEqual([String(64 << 20), "50"]);
    expect((await Container.load(place.stateDir, container.id)).config().cgroups?.resources?.pids?.limit).toBe(50);
    await expect(container.set({ ...container.config(), hostname: "other" })).rejects.toThrow("only cgroups.resources");
    await end(container);
    await expect(container.set(place.config(container.id))).rejects.toThrow("container does not exist");
  });

  it("counts processes and what they use #processes #stats-memory #stats-cpu #stats-pids", async () => {
    const container = await place.sleeping();
    await container.exec(shell("sleep 1000"));
    expect(await container.processes()).toHaveLength(2);
    const { cgroup, interfaces } = await container.stats();
    expect([cgroup.processes, cgroup.oomKills, interfaces]).toEqual([2n, 0n, []]);
    expect(cgroup.processCount).toBe(2n);
    expect(cgroup.memoryUsage).toBeGreaterThan(0n);
    expect(cgroup.cpuUsageNs).toBeGreaterThan(0n);
    await end(container);
  });

  it("delivers signals to the first process #signal", async () => {
    const container = await place.create();
    const process = shell("trap 'exit 9' USR1; echo ready; while true; do sleep 0.05; done", { stdout: "pipe" });
    await container.run(process);
    await new Promise((resolve) => process.stdout?.once("data", resolve));
    await container.signal("usr1");
    expect((await process.wait()).exitCode).toBe(9);
    await expect(container.signal("NOSUCH")).rejects.toThrow('unknown signal "NOSUCH"');
    await container.destroy();
  });

  it("kills everybody where no PID namespace does #kill-all #ns-host", async () => {
    const container = await place.create({ namespaces: [{ type: "mnt" }, { type: "uts" }] });
    await container.run(shell("sleep 1000 & sleep 2000 & wait"));
    await until(async () => (await container.processes()).length === 3);
    const pids = await container.processes();
    await end(container);
    // A dead one stays until somebody reaps it.
    for (const pid of pids) await until(() => !isRunning(Number(pid)));
    expect(place.leftovers()).toEqual([]);
  });

  it("tells of kills for want of memory #oom-events #stats-oom", async () => {
    const container = await place.create({
      cgroups: {
        path: `${place.cgroup}/oom`,
        resources: { memory: { limit: 16 << 20, swap: 16 << 20 }, devices: allowedDevices },
      },
    });
    await container.start(shell("x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done"));
    const kills = await container.notifyOOM();
    await container.exec();
    const first = await kills.next();
    expect(first.value?.count).toBeGreaterThan(0n);
    expect(await container.wait()).toMatchObject({ exitCode: 137, signal: 9, oomKilled: true });
    for await (const _ of kills);
    await container.destroy();
  });

  it("tells of memory pressure on cgroup v1, and refuses to on v2 #pressure-events", async () => {
    const container = await place.sleeping({
      cgroups: { path: `${place.cgroup}/pressure`, resources: { memory: { limit: 16 << 20 }, devices: allowedDevices } },
      mounts: [...(place.config("x").mounts ?? []), { destination: "/data", device: "bind", source: place.top, flags: ["bind"] }],
    });
    expect(() => container.notifyMemoryPressure("much" as "low")).toThrow("not known");
    if (onV2) {
      expect(() => container.notifyMemoryPressure("low")).toThrow("need the memory controller of cgroup v1");
      return await end(container);
    }
    const pressure = container.notifyMemoryPressure("low");
    // Page cache up to the limit, again and again.
    await container.exec(shell("while true; do dd if=/dev/zero of=/data/filler bs=1M count=40; done"));
    expect((await pressure.next()).value).toBe("low");
    await end(container);
    for await (const _ of pressure);
  });
});

describe("processes", () => {
  it("reads and writes streams, one process beside the other #stdio #exec #user #environment", async () => {
    const container = await place.sleeping();
    const copy = shell("cat; echo done >&2; exit 4", { stdin: "pipe", stdout: "pipe", stderr: "pipe" });
    await container.exec(copy);
    copy.stdin?.end("hello");
    const [out, err] = await Promise.all([copy.stdout?.toArray(), copy.stderr?.toArray()]);
    expect([String(out), String(err)]).toEqual(["hello", "done\n"]);
    expect((await copy.wait()).exitCode).toBe(4);
    expect(await output(container, "echo $HOME; id -u; id -G; pwd", { user: "user", cwd: "/data" })).toBe(
      "/home/user\n1000\n1001 2000\n/data",
    );
    await expect(container.exec(shell("true", { user: "nobody" }))).rejects.toThrow('unable to find user "nobody"');
    await end(container);
  });

  it("shows only stdio to the process #stdio #clean-start", async () => {
    const container = await place.create();
    // The fourth is the listing's own.
    expect(await initOutput(container, "ls /proc/self/fd")).toBe("0\n1\n2\n3");
    await container.destroy();
  });

  it("has a terminal that can be resized #console", async () => {
    const container = await place.create();
    const process = shell("", { args: ["sh"], terminal: true, consoleSize: { rows: 30, cols: 90 } });
    await container.run(process);
    let seen = "";
    process.console?.on("data", (chunk: Buffer) => {
      seen += chunk.toString();
    });
    process.console?.write("stty size; tty\n");
    await until(() => seen.includes("30 90") && /\/dev\/(console|pts\/0)/.test(seen));
    process.resize({ rows: 11, cols: 22 });
    process.console?.write("stty size; exit 6\n");
    expect((await process.wait()).exitCode).toBe(6);
    await until(() => seen.includes("11 22"));
    await container.destroy();
  });

  it("gives a further process a terminal of its own #console #exec", async () => {
    const container = await place.sleeping();
    const process = shell("", { args: ["sh", "-c", "tty; read x; echo got $x"], terminal: true });
    await container.exec(process);
    process.console?.write("line\n");
    const seen = String(await process.console?.toArray());
    expect(seen).toContain("/dev/pts/");
    expect(seen).toContain("got line");
    expect((await process.wait()).exitCode).toBe(0);
    await end(container);
  });

  it("takes signals one by one #signal #wait", async () => {
    const container = await place.sleeping();
    const process = shell("sleep 1000");
    await container.exec(process);
    await process.signal("TERM");
    expect(await process.wait()).toMatchObject({ exitCode: 143, signal: 15 });
    await expect(process.signal("TERM")).rejects.toThrow("container not running");
    const killed = shell("sleep 1000 & sleep 1000");
    await container.exec(killed);
    await killed.signal("KILL");
    expect((await killed.wait()).signal).toBe(9);
    expect(await container.processes()).toHaveLength(1);
    await end(container);
  });
});
