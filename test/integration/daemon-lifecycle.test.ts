/** Start and end of the daemon as a process: what a service manager and clients see of it. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { failure, grpcStatus } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { Daemon } from "../helpers/daemon.ts";

const top = join(import.meta.dirname, "../..");
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Line {
  readonly msg: string;
  readonly level: string;
}
const lines = (daemon: Daemon): Line[] =>
  daemon
    .log()
    .split("\n")
    .filter((text) => text.startsWith("{"))
    .map((text) => JSON.parse(text) as Line);

function caisson(daemon: Daemon, ...args: string[]): string {
  return execFileSync(join(top, "scripts/caisson"), ["--socket", daemon.socket, ...args], { encoding: "utf8" });
}

describe("the daemon", () => {
  let daemon: Daemon;
  beforeEach(async () => {
    daemon = await Daemon.start();
  });
  afterEach(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  it("answers, is closed to others, and ends on SIGTERM with 0 and without its socket", async () => {
    expect(await daemon.client.runtime("Version", { version: "0.1.0" })).toMatchObject({
      version: "0.1.0",
      runtime_name: "caisson",
      runtime_api_version: "v1",
    });
    expect(statSync(daemon.socket).mode & 0o777).toBe(0o600);
    expect(statSync(join(daemon.root, "caisson.db")).mode & 0o777).toBe(0o600);
    const startedAt = Date.now();
    process.kill(daemon.pid, "SIGTERM");
    expect(await daemon.exited()).toBe(0);
    expect(Date.now() - startedAt).toBeLessThan(4000);
    expect(existsSync(daemon.socket)).toBe(false);
    expect(existsSync(join(daemon.root, "caisson.db-wal"))).toBe(false);
    expect(lines(daemon).filter(({ level }) => ["error", "fatal"].includes(level))).toEqual([]);
  });

  it("takes the socket over from one that was killed", async () => {
    await daemon.kill("SIGKILL");
    expect(existsSync(daemon.socket)).toBe(true);
    await daemon.launch();
    expect(await daemon.client.runtime("Version", {})).toMatchObject({ runtime_name: "caisson" });
  });

  it("can be told to end at any moment of its start", async () => {
    await daemon.stop();
    for (const ms of [0, 40, 80, 120, 160, 200, 240, 280, 320]) {
      await daemon.launch({}, false);
      await sleep(ms);
      await daemon.kill("SIGTERM");
      expect(existsSync(daemon.socket), `socket after ${ms} ms`).toBe(false);
    }
    await daemon.launch();
  });

  it("tells the service manager when it is ready and when it ends, and hands that right to nobody", async () => {
    await daemon.stop();
    const socket = join(daemon.base, "notify");
    const script = `import socket
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(${JSON.stringify(socket)}); print("up",flush=True)
while True: print(s.recv(500).decode(),flush=True)`;
    const manager = spawn("python3", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    let heard = "";
    manager.stdout.on("data", (data: Buffer) => {
      heard += data.toString();
    });
    while (!heard.includes("up")) await sleep(5);
    await daemon.launch({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: "200000" }, false);
    while (!heard.includes("READY=1")) await sleep(1);
    // Ready means that the first call after it is answered.
    expect(await daemon.client.runtime("Status", {}, 2000)).toBeDefined();
    while (!heard.includes("WATCHDOG=1")) await sleep(5);
    await daemon.stop();
    while (!heard.includes("STOPPING=1")) await sleep(5);
    expect(heard.indexOf("READY=1")).toBeLessThan(heard.indexOf("STOPPING=1"));
    manager.kill("SIGKILL");
    await daemon.launch();
  });

  it("keeps compiled code below its root, where nobody else can write", () => {
    expect(readdirSync(join(daemon.root, "compile-cache")).length).toBeGreaterThan(0);
    expect(statSync(join(daemon.root, "compile-cache")).mode & 0o022).toBe(0);
  });
});

it("complains in Status, and in doctor, of a mount namespace that is not process 1's", () => {
  const module = join(top, "src/core/mount-namespace.ts");
  const program = `import { mountNamespaceLimitations } from ${JSON.stringify(module)}; console.log(mountNamespaceLimitations().join());`;
  const script = '"$@"; echo ---; unshare --mount "$@"; :';
  const inside = ["--mount", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c", script, "sh"];
  const out = spawnSync("unshare", [...inside, process.execPath, "--input-type=module", "--eval", program], { encoding: "utf8" });
  expect(out.stdout).toMatch(/^\n---\nthe daemon runs in a mount namespace of its own: .*\n$/);
});

describe("wrong usage", () => {
  const run = (...args: string[]) => spawnSync(join(top, "scripts/caissond"), args, { encoding: "utf8" });

  it("is refused with a sentence and 64", () => {
    expect(run("--rooot", "/x")).toMatchObject({ status: 64, stderr: expect.stringContaining("--rooot") });
    expect(run("--config", "/nonexistent")).toMatchObject({
      status: 64,
      stderr: "caissond: configuration file /nonexistent does not exist\n",
    });
    expect(run("--log-level", "loud")).toMatchObject({ status: 64, stderr: expect.stringContaining("--log-level: ") });
    expect(run("--root", "relative")).toMatchObject({ status: 64, stderr: expect.stringContaining("must be an absolute path") });
  });

  it("help, version and every configuration key are shown without starting anything", () => {
    expect(run("--help").stdout).toMatch(/--root DIR[\s\S]*--listen SOCKET/);
    expect(run("--version").stdout).toMatch(/^caissond \d+\.\d+\.\d+\n$/);
    expect(run("--print-config").stdout).toMatch(/^\[runtime\]$[\s\S]*^absent_mount_sources = "create"$/m);
  });
});

describe("with a pod", () => {
  let node: CriNode;
  beforeAll(async () => {
    node = await CriNode.start({ config: '[runtime]\nmax_log_line = 256\nabsent_mount_sources = "refuse"\n' });
  });
  afterAll(async () => {
    await node[Symbol.asyncDispose]();
  });

  it("lets a call under way end before it goes, and containers go on without it", async () => {
    const config = node.podConfig("stays");
    const podId = await node.runPod(config);
    const id = await node.run(podId, config, node.containerConfig("main", ["sleep", "1000"]));
    const { pid } = await node.info(id);
    const slow = node.exec(id, ["/bin/sh", "-c", "sleep 1; echo done"]);
    await sleep(300);
    process.kill(node.daemon.pid, "SIGTERM");
    await sleep(100);
    expect(await failure(node.client.runtime("Version", {}, 500))).toMatchObject({ code: grpcStatus.UNAVAILABLE });
    expect((await slow).stdout).toBe("done\n");
    expect(await node.daemon.exited()).toBe(0);
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toBe("sleep\u00001000\u0000");
    await node.daemon.launch();
    expect((await node.status(id)).state).toBe("CONTAINER_RUNNING");
    expect((await node.info(id)).pid).toBe(pid);
    await node.removePod(podId);
  });

  it("does what its configuration says", async () => {
    const config = node.podConfig("configured");
    const podId = await node.runPod(config);
    const long = ["/bin/sh", "-c", "head -c 600 /dev/zero | tr '\\0' x; echo"];
    await node.exited(await node.run(podId, config, node.containerConfig("main", long)));
    const pieces = node.log("configured", "main").trimEnd().split("\n");
    expect(pieces).toEqual([`stdout P ${"x".repeat(256)}`, `stdout P ${"x".repeat(256)}`, `stdout F ${"x".repeat(88)}`]);
    const mounts = [{ container_path: "/m", host_path: join(node.daemon.base, "missing") }];
    const refused = await failure(node.create(podId, config, node.containerConfig("mounting", ["true"], { mounts })));
    expect(refused.details).toContain("missing");
    expect(existsSync(join(node.daemon.base, "missing"))).toBe(false);
    const { info } = await node.client.runtime("Status", { verbose: true });
    expect(JSON.parse(info.config)).toMatchObject({ runtime: { maxLogLine: 256 }, rootDir: node.daemon.root });
    await node.removePod(podId);
  });

  it("remembers what happened, also after the pod is gone", async () => {
    const config = node.podConfig("told");
    const podId = await node.runPod(config);
    const id = await node.run(podId, config, node.containerConfig("main", ["true"]));
    await node.exited(id);
    expect(caisson(node.daemon, "ps", "-a")).toContain(id.slice(0, 13));
    expect(caisson(node.daemon, "pods")).toContain(podId.slice(0, 13));
    expect(caisson(node.daemon, "plan", id)).toMatch(/ exec +path="true"/);
    expect(JSON.parse(caisson(node.daemon, "inspect", id)).container).toMatchObject({ id, reason: "Completed" });
    await node.removePod(podId);
    const timeline = caisson(node.daemon, "timeline", id.slice(0, 20));
    for (const kind of ["created", "started", "stopped", "deleted"]) expect(timeline).toContain(kind);
  });
});
