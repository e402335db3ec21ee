/** caisson.v1.ContainerService on a daemon, with real containers; the library and the command line on the same ones. */
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Container } from "../../src/core/library/public.ts";
import {
  type ContainerEventsResponse,
  ContainerProcess,
  type ContainerStatsResponse,
} from "../../src/gen/caisson/v1/container.ts";
import { ContainerCli, ended } from "../helpers/container-cli.ts";
import { ContainerClient, collect } from "../helpers/container-client.ts";
import { Daemon } from "../helpers/daemon.ts";
import { startActor } from "../helpers/library-actor.ts";
import { until } from "../helpers/library-place.ts";

let daemon: Daemon;
let cli: ContainerCli;
let client: ContainerClient;

beforeAll(async () => {
  [daemon, cli] = [await Daemon.start(), new ContainerCli()];
  client = new ContainerClient(daemon.socket);
});
afterAll(async () => {
  for (const { id } of (await client.call(client.stub.list, {})).containers) await end(id);
  expect(cli.place.leftovers()).toEqual([]);
  client.close();
  await cli[Symbol.asyncDispose]();
  await daemon[Symbol.asyncDispose]();
});

const root = () => join(daemon.state, "library");
const process = (script: string, more: Partial<ContainerProcess> = {}) =>
  ContainerProcess.fromPartial({ args: ["sh", "-c", script], env: ["PATH=/bin"], ...more });

async function create(): Promise<string> {
  const id = cli.place.newId();
  const ociConfig = JSON.stringify(cli.spec(id, ["true"]));
  await client.call(client.stub.create, { id, ociConfig, bundle: cli.place.top, config: "" });
  return id;
}

async function run(script: string, more: { terminal?: boolean; stdin?: boolean; stdinOnce?: boolean } = {}): Promise<string> {
  const id = await create();
  const { terminal = false, stdin = false, stdinOnce = false } = more;
  await client.call(client.stub.run, { id, process: process(script, { terminal }), stdin, stdinOnce });
  return id;
}

async function end(id: string): Promise<void> {
  await client.call(client.stub.resume, { id }).catch(() => {});
  await client.call(client.stub.signal, { id, signal: "KILL" }).catch(() => {});
  await client.call(client.stub.wait, { id }).catch(() => {});
  await client.call(client.stub.destroy, { id });
}

const statusOf = async (id: string) => (await client.call(client.stub.status, { id })).status;

describe("life of a container", () => {
  it("goes by calls, and ends as its process ends #service", async () => {
    const id = await create();
    expect(await statusOf(id)).toBe("stopped");
    const start = { id, process: process("exit 5"), stdin: false, stdinOnce: false };
    const { pid } = await client.call(client.stub.start, start);
    expect(await statusOf(id)).toBe("created");
    await client.call(client.stub.release, { id });
    expect((await client.call(client.stub.wait, { id })).exit).toEqual({ exitCode: 5, signal: 0, known: true, oomKilled: false });
    const { state, ociState } = await client.call(client.stub.state, { id });
    expect(JSON.parse(state)).toMatchObject({ id, init_process_pid: Number(pid) });
    expect(JSON.parse(ociState)).toMatchObject({ id, status: "stopped", annotations: { "test/note": "kept" } });
    await client.call(client.stub.destroy, { id });
    await client.call(client.stub.destroy, { id });
    expect(existsSync(join(root(), id))).toBe(false);
  });

  it("is made of the library's own terms as well #service", async () => {
    const id = cli.place.newId();
    const config = JSON.stringify(cli.place.config(id));
    await client.call(client.stub.create, { id, config, ociConfig: "", bundle: "" });
    const oci = { args: ["sh", "-c", "exit 4"], env: ["PATH=/bin"], cwd: "/", user: { uid: 1000, gid: 1001 } };
    const described = ContainerProcess.fromPartial({ ociProcess: JSON.stringify(oci) });
    await client.call(client.stub.run, { id, process: described, stdin: false, stdinOnce: false });
    expect((await client.call(client.stub.wait, { id })).exit?.exitCode).toBe(4);
    await end(id);
  });

  it("says what is wrong with the right code", async () => {
    const id = await create();
    const both = { id: "x", ociConfig: "{}", config: "{}", bundle: "/" };
    for (const [attempt, code, text] of [
      [client.call(client.stub.status, { id: "none" }), status.NOT_FOUND, "container does not exist"],
      [client.call(client.stub.status, { id: "../x" }), status.INVALID_ARGUMENT, "invalid container ID format"],
      [client.call(client.stub.create, { ...both, config: "" }), status.INVALID_ARGUMENT, "ociVersion"],
      [client.call(client.stub.create, both), status.INVALID_ARGUMENT, "exactly one of them"],
      [
        client.call(client.stub.create, { id, ociConfig: JSON.stringify(cli.spec(id, ["true"])), bundle: "/", config: "" }),
        status.ALREADY_EXISTS,
        "container with given ID already exists",
      ],
      [client.call(client.stub.pause, { id }), status.FAILED_PRECONDITION, "container not running"],
      [client.call(client.stub.signal, { id, signal: "NONE" }), status.INVALID_ARGUMENT, "unknown signal"],
      [
        client.call(client.stub.restore, { id, images: undefined, process: undefined, tcpClose: false }),
        status.INVALID_ARGUMENT,
        "process is missing",
      ],
    ] as const) {
      await expect(attempt).rejects.toMatchObject({ code, details: expect.stringContaining(text) });
    }
    const talk = client.exec(id, process("true"));
    await expect(talk.ended).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    await end(id);
  });

  it("pauses, resumes, changes limits and tells what is used #service", async () => {
    const id = await run("sleep 1000");
    await client.call(client.stub.pause, { id });
    expect(await statusOf(id)).toBe("paused");
    await client.call(client.stub.resume, { id });
    await client.call(client.stub.set, { id, resources: JSON.stringify({ memory: { limit: 64 << 20 }, pids: { limit: 30 } }) });
    expect((await client.call(client.stub.processes, { id })).pids).toHaveLength(1);
    const [stats] = await collect<ContainerStatsResponse>(client.stub.stats({ id, intervalMs: 0 }));
    expect(stats).toMatchObject({ memoryLimit: BigInt(64 << 20), pids: 1n, pidsLimit: 30n });
    const stream = client.stub.stats({ id, intervalMs: 20 });
    let seen = 0;
    for await (const _ of stream as AsyncIterable<ContainerStatsResponse>) if (++seen === 3) void end(id);
    expect(seen).toBeGreaterThanOrEqual(3);
  });
});

describe("exec #service", () => {
  it("has stdin, stdout, stderr and an exit code", async () => {
    const id = await run("sleep 1000");
    const talk = client.exec(id, process("read a; echo out $a; echo err >&2; cat; exit 6", { user: "user" }), { stdin: true });
    expect(await talk.started).toBeGreaterThan(1n);
    talk.say({ stdin: Buffer.from("one\n") });
    await talk.shows("out one");
    talk.say({ stdin: Buffer.from("rest") });
    talk.say({ closeStdin: true });
    expect(await talk.ended).toMatchObject({ exitCode: 6, known: true });
    expect([talk.out, talk.err]).toEqual(["out one\nrest", "err\n"]);
    await end(id);
  });

  it("has a terminal that can be resized, takes signals, and ends although others hold its output", async () => {
    const id = await run("sleep 1000");
    const terminal = client.exec(
      id,
      process("stty size; read x; stty size; exit 2", { terminal: true, size: { rows: 9, columns: 40 } }),
    );
    await terminal.shows("9 40");
    terminal.say({ resize: { rows: 12, columns: 50 } });
    terminal.say({ stdin: Buffer.from("go\n") });
    expect(await terminal.ended).toMatchObject({ exitCode: 2 });
    expect(terminal.out).toMatch(/12 50\r\n$/);
    const signalled = client.exec(id, process("echo up; exec sleep 1000"));
    await signalled.shows("up");
    signalled.say({ signal: "TERM" });
    expect(await signalled.ended).toMatchObject({ exitCode: 143, signal: 15 });
    const held = client.exec(id, process("sleep 1000 & echo done"));
    expect(await held.ended).toMatchObject({ exitCode: 0 });
    expect(held.out).toBe("done\n");
    await end(id);
  });

  it("passes a lot of output to a slow reader, all of it", async () => {
    const id = await run("sleep 1000");
    const talk = client.exec(id, process("head -c 8000000 /dev/zero; echo end"));
    talk.call.pause();
    await until(() => talk.call.readableLength > 0 || talk.out.length > 0);
    talk.call.resume();
    expect(await talk.ended).toMatchObject({ exitCode: 0 });
    expect(talk.out.length).toBe(8_000_004);
    await end(id);
  });

  it("kills what its caller leaves behind, and lets go of what is detached", async () => {
    const id = await run("sleep 1000");
    const talk = client.exec(id, process("sleep 2000 & exec sleep 3000"));
    const pid = await talk.started;
    talk.call.cancel();
    await expect(talk.ended).rejects.toMatchObject({ code: status.CANCELLED });
    await until(async () => !(await client.call(client.stub.processes, { id })).pids.includes(pid));
    await until(async () => (await client.call(client.stub.processes, { id })).pids.length === 1);
    const detached = client.exec(id, process("exec sleep 4000"), { detach: true });
    const stays = await detached.started;
    expect(await detached.ended).toBeUndefined();
    expect((await client.call(client.stub.processes, { id })).pids).toContain(stays);
    await end(id);
  });
});

describe("attach #service", () => {
  it("misses nothing of a process that waits for its release", async () => {
    const id = await create();
    await client.call(client.stub.start, {
      id,
      process: process("echo first; echo bad >&2; exit 3"),
      stdin: false,
      stdinOnce: false,
    });
    const talk = client.attach(id, { stderr: true });
    await talk.started;
    await client.call(client.stub.release, { id });
    expect(await talk.ended).toMatchObject({ exitCode: 3 });
    expect([talk.out, talk.err]).toEqual(["first\n", "bad\n"]);
    await end(id);
  });

  it("joins several callers to one input, whose end is that of the first when so asked", async () => {
    const id = await run("cat; echo over", { stdin: true, stdinOnce: true });
    const [one, two] = [client.attach(id, { stdin: true }), client.attach(id, { stdin: true })];
    await Promise.all([one.started, two.started]);
    one.say({ stdin: Buffer.from("a\n") });
    await two.shows("a\n");
    two.say({ stdin: Buffer.from("b\n") });
    await one.shows("b\n");
    one.say({ closeStdin: true });
    expect(await two.ended).toMatchObject({ exitCode: 0 });
    expect(two.out).toBe("a\nb\nover\n");
    await one.ended;
    await end(id);
  });

  it("goes on with a terminal after the daemon was killed, as does the container", async () => {
    const id = await run("while read x; do echo got $x; stty size; done", { terminal: true });
    const before = client.attach(id, { stdin: true });
    await before.started;
    before.say({ stdin: Buffer.from("one\n") });
    await before.shows("got one");
    await daemon.kill();
    await before.ended.catch(() => {});
    client.close();
    await daemon.launch();
    client = new ContainerClient(daemon.socket);
    expect(await statusOf(id)).toBe("running");
    const after = client.attach(id, { stdin: true });
    await after.started;
    after.say({ resize: { rows: 7, columns: 77 } });
    after.say({ stdin: Buffer.from("two\n") });
    await after.shows("got two");
    await after.shows("7 77");
    await client.call(client.stub.signal, { id, signal: "KILL" });
    expect(await after.ended).toMatchObject({ exitCode: 137, signal: 9 });
    await end(id);
  });

  it("is refused where the stdio is elsewhere", async () => {
    const made = cli.bundle(["sleep", "1000"]);
    expect((await cli.run("--root", root(), "run", "-d", "-b", made.bundle, made.id)).code).toBe(0);
    const talk = client.attach(made.id);
    await expect(talk.ended).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringContaining("elsewhere"),
    });
    await end(made.id);
  });
});

describe("events #service #oom-events #pressure-events", () => {
  it("tells of exits, also of containers that are made later, and of those that have ended", async () => {
    const first = await run("exit 1");
    await client.call(client.stub.wait, { id: first });
    const stream = client.stub.events({ ids: [], memoryPressure: "" });
    const messages: ContainerEventsResponse[] = [];
    stream.on("data", (message: ContainerEventsResponse) => messages.push(message));
    stream.on("error", () => {});
    const exitOf = (id: string) => messages.find((one) => one.id === id)?.exit?.exitCode;
    await until(() => exitOf(first) === 1);
    const second = await run("exit 2");
    await until(() => exitOf(second) === 2);
    const made = cli.bundle(["sh", "-c", "exit 3"]);
    await cli.run("--root", root(), "run", "--keep", "-b", made.bundle, made.id);
    await until(() => exitOf(made.id) === 3);
    expect(messages.filter(({ id }) => id === first)).toHaveLength(1);
    stream.cancel();
    for (const id of [first, second, made.id]) await end(id);
  });

  it("tells of OOM kills and of memory pressure of named ones, and ends with them", async () => {
    const id = await create();
    await client.call(client.stub.start, { id, process: process("sleep 1000"), stdin: false, stdinOnce: false });
    await client.call(client.stub.set, { id, resources: JSON.stringify({ memory: { limit: 20 << 20, swap: 20 << 20 } }) });
    const stream = client.stub.events({ ids: [id], memoryPressure: "low" });
    const all = collect<ContainerEventsResponse>(stream);
    await once(stream, "data");
    await client.call(client.stub.release, { id });
    const hungry = client.exec(id, process("x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; while :; do x=$x$x; done"));
    await hungry.ended;
    const [stats] = await collect<ContainerStatsResponse>(client.stub.stats({ id, intervalMs: 0 }));
    expect(stats?.oomKills).toBeGreaterThan(0n);
    await client.call(client.stub.signal, { id, signal: "KILL" });
    const messages = await all;
    expect(messages[0]).toMatchObject({ id: "" });
    expect(messages.some(({ oom }) => (oom?.count ?? 0n) > 0n)).toBe(true);
    expect(messages.some(({ memoryPressure }) => memoryPressure === "low")).toBe(true);
    expect(messages.at(-1)?.exit).toMatchObject({ exitCode: 137 });
    await end(id);
  });
});

describe("others who lead the same containers", () => {
  it("sees what the command line has made, and the command line what it has made", async () => {
    const ours = await run("sleep 1000");
    const theirs = cli.bundle(["sleep", "1000"]);
    await cli.run("--root", root(), "run", "-d", "-b", theirs.bundle, theirs.id);
    const { containers } = await client.call(client.stub.list, {});
    expect(containers.map(({ id, status: is }) => [id, is]).toSorted()).toEqual(
      [
        [ours, "running"],
        [theirs.id, "running"],
      ].toSorted(),
    );
    expect((await cli.run("--root", root(), "exec", theirs.id, "hostname")).out).toBe("cli\n");
    expect((await cli.run("--root", root(), "delete", "-f", ours)).code).toBe(0);
    await expect(client.call(client.stub.state, { id: ours })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await end(theirs.id);
  });

  it("lets one of two that start the same container at the same time do it, and tells the other why not", async () => {
    const id = await create();
    const steps = [{ do: "run", process: { args: ["sleep", "1000"], env: ["PATH=/bin"], init: true } }];
    using actor = startActor({ stateDir: root(), id, steps });
    const ours = client.call(client.stub.run, { id, process: process("sleep 1000"), stdin: false, stdinOnce: false }).then(
      () => null,
      (error: { details: string }) => error.details,
    );
    const results = [await ours, (await actor.all()).at(-1)?.error ?? null];
    expect(results.toSorted()).toEqual(["container already has init process", null].toSorted());
    expect((await client.call(client.stub.processes, { id })).pids).toHaveLength(1);
    await end(id);
  });

  it("waits while somebody else changes the container", async () => {
    const id = await run("sleep 1000");
    const holder = cli.start(["events", id], ["ignore", "pipe", "pipe"]);
    holder.kill();
    await ended(holder);
    const { spawn } = globalThis.process.getBuiltinModule("node:child_process");
    const lock = spawn("flock", [join(root(), id), "-c", "echo held; read x"], { stdio: ["pipe", "pipe", "inherit"] });
    await once(lock.stdout, "data");
    let paused = false;
    const pausing = client.call(client.stub.pause, { id }).then(() => {
      paused = true;
    });
    expect(await statusOf(id)).toBe("running");
    expect(paused).toBe(false);
    lock.stdin.end("go\n");
    await pausing;
    expect(await statusOf(id)).toBe("paused");
    await end(id);
  });

  it("is nothing that CRI knows of, also after a restart of the daemon, and nothing that cannot be read spoils the list", async () => {
    const id = await run("sleep 1000");
    mkdirSync(join(root(), "not-a-container"));
    await daemon.stop();
    client.close();
    await daemon.launch();
    client = new ContainerClient(daemon.socket);
    expect((await daemon.client.runtime("ListContainers", {})).containers).toEqual([]);
    expect((await daemon.client.runtime("ListPodSandbox", {})).items).toEqual([]);
    expect((await daemon.client.runtime("ListContainerStats", {})).stats).toEqual([]);
    const using = await Container.load(root(), id);
    expect(await using.status()).toBe("running");
    using[Symbol.dispose]();
    expect((await client.call(client.stub.list, {})).containers.map((one) => one.id)).toEqual([id]);
    await end(id);
    expect(readdirSync(root())).toEqual(["not-a-container"]);
    expect(readFileSync(daemon.logFile, "utf8")).not.toMatch(/unexpected/i);
  });
});
