/** `caisson run`, `create`, `exec` and the rest on real containers from bundles, as callers of OCI runtimes use them. */
import { spawn } from "node:child_process";
import { closeSync, copyFileSync, cpSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Container } from "../../src/core/library/public.ts";
import { addon } from "../../src/native/addon.ts";
import { cgroupDirectory, memoryLimit, onV2 } from "../helpers/cgroup-files.ts";
import { compileFixture } from "../helpers/compile.ts";
import { ContainerCli, command, ended } from "../helpers/container-cli.ts";
import { until } from "../helpers/library-place.ts";

let cli: ContainerCli;
beforeAll(() => {
  cli = new ContainerCli();
});
afterAll(async () => {
  await cli[Symbol.asyncDispose]();
});

const terminal = join(import.meta.dirname, "../fixtures/terminal.py");
const sh = (script: string): string[] => ["sh", "-c", script];

async function running(script = "sleep 1000"): Promise<{ readonly id: string; readonly bundle: string }> {
  const made = cli.bundle(sh(script));
  expect(await cli.run("run", "-d", "-b", made.bundle, made.id)).toMatchObject({ code: 0, err: "" });
  return made;
}

describe("run #command", () => {
  it("ends as the process ends, with its output, and leaves nothing", async () => {
    const { id, bundle } = cli.bundle(sh("echo out; hostname; echo err >&2; exit 7"));
    expect(await cli.run("run", "--bundle", bundle, id)).toEqual({ code: 7, out: "out\ncli\n", err: "err\n" });
    expect(cli.place.leftovers()).toEqual([]);
  });

  it("ends with 128 and the signal when that killed the process", async () => {
    const { id, bundle } = cli.bundle(sh("kill -9 $$; sleep 5"), (spec) => {
      spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== "pid");
    });
    expect((await cli.run("run", "-b", bundle, id)).code).toBe(137);
  });

  it("passes stdin and signals on, and keeps the container when asked", async () => {
    const { id, bundle } = cli.bundle(
      sh("read line; echo got $line; trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"),
    );
    const child = cli.start(["run", "--keep", "-b", bundle, id], ["pipe", "pipe", "pipe"]);
    const result = ended(child);
    let out = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      out += chunk.toString();
      if (out.includes("ready")) child.kill("SIGTERM");
    });
    child.stdin?.write("a line\n");
    expect(await result).toMatchObject({ code: 9, out: "got a line\nready\n" });
    expect(await cli.state(id)).toMatchObject({ status: "stopped", pid: 0 });
    expect((await cli.run("delete", id)).code).toBe(0);
    expect(cli.place.leftovers()).toEqual([]);
  });

  it("gives the process a terminal of the caller's size, and follows its changes", async () => {
    const { id, bundle } = cli.bundle(sh("tty; stty size; read x; stty size; exit 3"), (spec) => {
      spec.process.terminal = true;
    });
    const child = spawn("python3", [terminal, "run", command, "--root", cli.root, "run", "-b", bundle, id], { cwd: "/" });
    const result = ended(child);
    let out = "";
    let resized = false;
    child.stdout.on("data", async (chunk: Buffer) => {
      out += chunk.toString();
      if (!out.includes("33 101") || resized) return;
      resized = true;
      child.stdin.write(`${JSON.stringify({ resize: [20, 70] })}\n`);
      const { init_process_pid: pid } = (await Container.load(cli.root, id)).state();
      // The size of the container's own terminal, from outside.
      await until(() => sizeOf(pid) === "20 70");
      child.stdin.write(`${JSON.stringify({ write: "go\n" })}\n`);
    });
    expect((await result).code).toBe(3);
    // The caller's terminal makes lines of its own of them.
    expect(out.replaceAll("\r", "")).toBe("/dev/pts/0\n33 101\ngo\n20 70\n");
  });

  it("tells why it failed in its log and on stderr, and leaves nothing", async () => {
    const { id, bundle } = cli.bundle(["nothere"]);
    const log = join(cli.place.top, "run.log");
    const result = await cli.run("--log", log, "--log-format=json", "run", "-b", bundle, id);
    expect(result.code).toBe(1);
    expect(result.err).toContain('exec: "nothere": executable file not found in $PATH');
    expect(cli.logLines(log).at(-1)).toMatchObject({ level: "error", msg: expect.stringContaining("executable file not found") });
    expect(cli.place.leftovers()).toEqual([]);
  });

  it("takes the path of a cgroup as systemd's where --systemd-cgroup says so", async () => {
    const { id, bundle } = cli.bundle(sh("true"));
    expect(await cli.run("--systemd-cgroup", "run", "-b", bundle, id)).toMatchObject({
      code: 1,
      err: expect.stringContaining('expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups'),
    });
    expect(existsSync(join(cli.root, id))).toBe(false);
  });

  it("refuses a field of config.json that it does not honour, and a bundle without one", async () => {
    const { id, bundle } = cli.bundle(sh("true"), (spec) => {
      spec.vm = { kernel: { path: "/k" } };
    });
    expect((await cli.run("run", "-b", bundle, id)).err).toContain("config.json: vm cannot be honoured");
    expect((await cli.run("run", "-b", cli.place.rootfs, id)).err).toContain("JSON specification file config.json not found");
  });
});

function sizeOf(pid: number): string {
  const script = `import fcntl,struct,termios;print(*struct.unpack("HHHH",fcntl.ioctl(open("/proc/${pid}/fd/0"),termios.TIOCGWINSZ,b"0"*8))[:2])`;
  return execPython(script);
}

function execPython(script: string): string {
  const { spawnSync } = process.getBuiltinModule("node:child_process");
  return spawnSync("python3", ["-c", script]).stdout.toString().trim();
}

describe("create, start, kill and delete #command", () => {
  it("leads a container step by step, its pid in a file, its stdio the caller's", async () => {
    const { id, bundle } = cli.bundle(sh("echo started; exec sleep 1000"));
    const pidFile = join(cli.place.top, "pid");
    const out = join(cli.place.top, "out");
    const created = cli.start(
      ["create", "--bundle", bundle, "--pid-file", pidFile, id],
      ["ignore", openSync(out, "w"), "inherit"],
    );
    expect((await ended(created)).code).toBe(0);
    const pid = Number(readFileSync(pidFile, "utf8"));
    expect(readFileSync(pidFile, "utf8")).toBe(String(pid));
    expect(await cli.state(id)).toMatchObject({
      ociVersion: "1.3.0",
      id,
      pid,
      status: "created",
      bundle,
      rootfs: cli.place.rootfs,
      annotations: { "test/note": "kept" },
      owner: "root",
    });
    expect(readFileSync(out, "utf8")).toBe("");
    expect((await cli.run("start", id)).code).toBe(0);
    await until(() => readFileSync(out, "utf8") === "started\n");
    expect((await cli.run("start", id)).err).toContain("cannot start an already running container");
    expect((await cli.run("delete", id)).err).toContain(`cannot delete container ${id} that is not stopped: running`);
    expect((await cli.run("kill", id, "0")).code).toBe(0);
    expect((await cli.run("kill", id, "sigKILL")).code).toBe(0);
    await until(async () => (await cli.state(id)).status === "stopped");
    expect((await cli.run("kill", id)).err).toContain("container not running");
    expect((await cli.run("kill", "--all", id, "9")).code).toBe(0);
    expect((await cli.run("delete", id)).code).toBe(0);
    expect((await cli.run("delete", id)).err).toContain("container does not exist");
    expect((await cli.run("delete", "--force", id)).code).toBe(0);
    expect(cli.place.leftovers()).toEqual([]);
  });

  it("deletes one that was only created, by force one that runs or is paused, and what a killed create left", async () => {
    const made = cli.bundle(sh("sleep 1000"));
    await cli.run("create", "-b", made.bundle, made.id);
    expect((await cli.run("delete", made.id)).code).toBe(0);
    const { id } = await running();
    expect((await cli.run("pause", id)).code).toBe(0);
    expect((await cli.run("delete", "-f", id)).code).toBe(0);
    mkdirSync(join(cli.root, "left"));
    expect((await cli.run("delete", "--force", "left")).code).toBe(0);
    expect(existsSync(join(cli.root, "left"))).toBe(false);
    expect((await cli.run("delete", "--force", "../left")).err).toContain("invalid container ID format");
    expect(cli.place.leftovers()).toEqual([]);
  });

  it("sends the terminal to a console socket, which is then the only one to hold it #console-socket", async () => {
    const { id, bundle } = cli.bundle(sh("stty size; read x; stty size; echo got $x; exit 4"), (spec) => {
      spec.process.terminal = true;
      spec.process.consoleSize = { height: 30, width: 90 };
    });
    expect((await cli.run("create", "-b", bundle, id)).err).toContain("cannot allocate tty if runtime will detach");
    // Longer than an address of a socket may be.
    const directory = join(cli.place.top, "d".repeat(120));
    mkdirSync(directory);
    const socket = join(directory, "console");
    expect((await cli.run("create", "-b", bundle, "--console-socket", socket, id)).err).toContain("console socket");
    expect(cli.place.leftovers()).toEqual([]);
    const peer = spawn("python3", [
      "-c",
      `import os,sys;os.chdir(${JSON.stringify(directory)});sys.argv=["t","listen","console"];exec(open(${JSON.stringify(terminal)}).read())`,
    ]);
    const shown = ended(peer);
    let out = "";
    peer.stdout.on("data", (chunk: Buffer) => {
      out += chunk.toString();
    });
    await until(() => out.includes("listening"));
    expect(await cli.run("create", "-b", bundle, "--console-socket", socket, id)).toMatchObject({ code: 0, err: "" });
    await cli.run("start", id);
    await until(() => out.includes("30 90"));
    peer.stdin.write(`${JSON.stringify({ resize: [11, 22] })}\n${JSON.stringify({ write: "word\n" })}\n`);
    expect((await shown).out).toMatch(/11 22\r\ngot word\r\n$/);
    await cli.run("delete", "-f", id);
  });

  it("sends a pidfd of the first process, and of further ones, to who asks for it #pidfd-socket", async () => {
    const { id, bundle } = cli.bundle(sh("exec sleep 1000"));
    const socket = join(cli.place.top, "pidfd");
    const peer = [
      "import array,os,socket,sys",
      "s=socket.socket(socket.AF_UNIX);s.bind(sys.argv[1]);s.listen(1);print('listening',flush=True)",
      "for _ in range(2):",
      "  d,a,_,_=s.accept()[0].recvmsg(64,socket.CMSG_SPACE(4));fd=array.array('i',a[0][2])[0]",
      "  print(d.decode(),[l.split()[1] for l in open(f'/proc/self/fdinfo/{fd}') if l.startswith('Pid:')][0],flush=True)",
    ];
    const child = spawn("python3", ["-c", peer.join("\n"), socket]);
    const told = ended(child);
    await until(() => existsSync(socket));
    expect((await cli.run("run", "-d", "-b", bundle, "--pidfd-socket", socket, id)).code).toBe(0);
    const { pid } = await cli.state(id);
    expect((await cli.run("exec", "-d", "--pidfd-socket", socket, id, "sleep", "1000")).code).toBe(0);
    expect((await told).out).toMatch(new RegExp(`^listening\nstandard ${pid}\nsetns \\d+\n$`));
    await cli.run("delete", "-f", id);
  });

  it("passes further descriptors on, those of socket activation first #preserve-fds", async () => {
    const { id, bundle } = cli.bundle(sh("cat <&3; cat <&4; ls /proc/self/fd | grep -c .; echo $LISTEN_FDS $LISTEN_PID"));
    const [one, two] = ["one", "two"].map((name) => join(cli.place.top, name)) as [string, string];
    writeFileSync(one, "first\n");
    writeFileSync(two, "second\n");
    const files = [openSync(one, "r"), openSync(two, "r")];
    const script = `export LISTEN_FDS=1 LISTEN_PID=$$; exec ${command} --root ${cli.root} run --preserve-fds 1 -b ${bundle} ${id}`;
    const child = spawn("bash", ["-c", script], { stdio: ["ignore", "pipe", "pipe", ...files] });
    // 0, 1, 2, 3, 4 and the directory that ls reads.
    expect(await ended(child)).toEqual({ code: 0, out: "first\nsecond\n6\n1 1\n", err: "" });
    const missing = await ended(cli.start(["run", "--preserve-fds", "1", "-b", bundle, id]));
    expect(missing).toMatchObject({ code: 1, err: expect.stringContaining("descriptor 3 was to be passed on, and is not open") });
  });
});

describe("a service manager that waits for readiness #notify-socket", () => {
  /** What the manager hears: a datagram each. Descriptors that come along are closed, which is how a barrier is passed. */
  function manager(): { readonly heard: string[]; readonly env: NodeJS.ProcessEnv; [Symbol.dispose](): void } {
    const heard: string[] = [];
    const name = `notify-${cli.place.newId()}`;
    const at = openSync(cli.place.top, "r");
    const reader = addon.readPipe(
      addon.bindDatagram(at, name),
      (chunk) => heard.push(chunk.toString()),
      () => {},
    );
    closeSync(at);
    return { heard, env: { NOTIFY_SOCKET: join(cli.place.top, name) }, [Symbol.dispose]: () => reader.close() };
  }
  const inherit = ["ignore", "ignore", "inherit"] as const;
  const notifying = (...said: string[]) =>
    cli.bundle(
      sh(`until [ -e /tmp/go ]; do sleep 0.02; done; notify ${said.map((word) => `'${word}'`).join(" ")}; sleep 1000`),
      (spec) => {
        spec.mounts.push({ destination: "/tmp", type: "tmpfs", source: "tmpfs" });
      },
    );
  const letGo = (id: string) => cli.run("exec", id, "touch", "/tmp/go");
  const pidOf = async (id: string) => (await cli.state(id)).pid;

  beforeAll(() => {
    copyFileSync(compileFixture("notify"), join(cli.place.rootfs, "bin/notify"));
  });

  it("run --detach returns when the container is ready, and the manager watches its process", async () => {
    using host = manager();
    const { id, bundle } = notifying("STATUS=busy", "", "MAINPID=1\nREADY=1\nSTATUS=up");
    const run = cli.start(["run", "-d", "-b", bundle, id], inherit, host.env);
    let isDone = false;
    const done = ended(run).then((end) => {
      isDone = true;
      return end;
    });
    await until(async () => (await cli.run("exec", id, "true")).code === 0);
    expect([isDone, host.heard]).toEqual([false, []]);
    await letGo(id);
    expect(await done).toMatchObject({ code: 0 });
    expect(host.heard).toEqual([`MAINPID=${await pidOf(id)}\nREADY=1`, "BARRIER=1"]);
    const seen = (await cli.run("exec", id, "sh", "-c", "grep -o ' /run/notify .* - ' /proc/self/mountinfo; touch /run/notify/x"))
      .out;
    expect(seen).toMatch(/^ \/run\/notify ro,nosuid,nodev,noexec/);
    expect((await cli.run("delete", "--force", id)).code).toBe(0);
    expect(existsSync(join(cli.root, id))).toBe(false);
  });

  it("start does so for a container that was created for the same", async () => {
    using host = manager();
    const { id, bundle } = notifying("READY=1");
    expect((await ended(cli.start(["create", "-b", bundle, id], inherit, host.env))).code).toBe(0);
    const start = ended(cli.start(["start", id], inherit, host.env));
    await until(async () => (await letGo(id)).code === 0);
    expect((await start).code).toBe(0);
    expect(host.heard).toEqual([`MAINPID=${await pidOf(id)}\nREADY=1`, "BARRIER=1"]);
    await cli.run("delete", "--force", id);
  });

  it("in front of somebody the command stays what is watched, and passes the readiness on", async () => {
    using host = manager();
    const { id, bundle } = cli.bundle(sh("notify READY=1; read x"));
    const run = cli.start(["run", "-b", bundle, id], ["pipe", "pipe", "pipe"], host.env);
    const done = ended(run);
    await until(() => host.heard.length === 2);
    expect(host.heard).toEqual(["READY=1", "BARRIER=1"]);
    run.stdin?.end("\n");
    expect(await done).toMatchObject({ code: 0, err: "" });
  });

  it("hears nothing of a container that ends before, and the container nothing of a manager that does not wait", async () => {
    using host = manager();
    const { id, bundle } = cli.bundle(sh("exit 3"));
    expect((await ended(cli.start(["run", "-d", "-b", bundle, id], inherit, host.env))).code).toBe(0);
    expect(host.heard).toEqual([]);
    await cli.run("delete", id);
    const { id: other, bundle: plain } = cli.bundle(sh("env | grep -c NOTIFY_SOCKET"));
    expect((await cli.run("run", "-b", plain, other)).out).toBe("0\n");
  });
});

describe("exec", () => {
  it("runs further processes: flags first, then whatever the command is, in a paused container later if so said #pause", async () => {
    const { id } = await running();
    expect(
      await cli.run("exec", "-e", "A=1", "--cwd=/tmp", "-u", "1000:1001", id, "sh", "-c", "id -u; id -g; pwd; echo $A; exit 3"),
    ).toEqual({
      code: 3,
      out: "1000\n1001\n/tmp\n1\n",
      err: "",
    });
    expect((await cli.run("exec", "-u", "user", id, "true")).code).toBe(255);
    expect(await cli.run("exec", id, "nothere")).toMatchObject({
      code: 255,
      err: expect.stringContaining('exec: "nothere": executable file not found in $PATH'),
    });
    await cli.run("pause", id);
    expect((await cli.run("exec", id, "true")).err).toContain("cannot exec in a paused container (use --ignore-paused");
    const waiting = cli.start(["exec", "--ignore-paused", id, "sh", "-c", "echo resumed; exit 4"]);
    let isDone = false;
    const done = ended(waiting).then((end) => {
      isDone = true;
      return end;
    });
    // It has found the container paused by then, or will: the answer is the same.
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect([isDone, (await cli.state(id)).status]).toEqual([false, "paused"]);
    await cli.run("resume", id);
    expect(await done).toEqual({ code: 4, out: "resumed\n", err: "" });
    await cli.run("kill", id, "KILL");
    await until(async () => (await cli.state(id)).status === "stopped");
    expect(await cli.run("exec", id, "true")).toMatchObject({
      code: 255,
      err: expect.stringContaining("cannot exec in a stopped container"),
    });
    await cli.run("delete", id);
  });

  it("takes a process from a file, detached, with a pid file, and it outlives the command", async () => {
    const { id } = await running();
    const file = join(cli.place.top, "process.json");
    const pidFile = join(cli.place.top, "exec.pid");
    writeFileSync(file, JSON.stringify({ args: ["sleep", "2000"], env: ["PATH=/bin"], cwd: "/", user: { uid: 0, gid: 0 } }));
    expect((await cli.run("exec", "--process", file, "--detach", "--pid-file", pidFile, id)).code).toBe(0);
    const pid = Number(readFileSync(pidFile, "utf8"));
    expect(JSON.parse((await cli.run("ps", "--format", "json", id)).out)).toContain(pid);
    const { out } = await cli.run("ps", id, "-o", "pid,args");
    expect(out).toMatch(new RegExp(`${pid} sleep 2000$`, "m"));
    expect(out.trim().split("\n")).toHaveLength(3);
    await cli.run("delete", "-f", id);
  });

  it("starts it in a cgroup below the container's own that exists, and nowhere else #sub-cgroup", async () => {
    const { id } = await running();
    mkdirSync(join(cgroupDirectory("pids", `${cli.place.cgroup}/${id}`), "below"));
    expect((await cli.run("exec", "--cgroup", "below", id, "cat", "/proc/self/cgroup")).out).toMatch(
      new RegExp(`:${onV2 ? "" : "pids"}:.*/${id}/below$`, "m"),
    );
    expect((await cli.run("exec", "--cgroup", "missing", id, "true")).code).toBe(255);
    expect((await cli.run("exec", "--cgroup", "../../..", id, "true")).code).toBe(255);
    await cli.run("delete", "-f", id);
  });

  it("takes ids as numbers, gives nothing inheritable, and no hold on the caller's terminal (CVE-2026-30892, CVE-2022-29162, class-terminal-injection)", async () => {
    const { id } = await running();
    expect((await cli.run("exec", "-u", "1", id, "id", "-u")).out).toBe("1\n");
    for (const user of ["1:", ":1", "4294967295", "0x1"])
      expect((await cli.run("exec", "-u", user, id, "id", "-u")).out, user).toBe("");
    expect((await cli.run("exec", "--user=-1", id, "id", "-u")).out).toBe("");
    const { out } = await cli.run("exec", "--cap", "CAP_NET_RAW", id, "grep", "-E", "Cap(Inh|Amb|Eff)", "/proc/self/status");
    expect(out).toMatch(/CapInh:\t0{16}\nCapEff:\t0+2000\nCapAmb:\t0{16}/);
    copyFileSync(compileFixture("attacker"), join(cli.place.rootfs, "bin/attacker"));
    const child = spawn("python3", [terminal, "run", command, "--root", cli.root, "exec", id, "attacker", "session"]);
    expect((await ended(child)).out.replaceAll("\r", "")).toBe("isatty 1\ntiocsti 1\nleader 1\n");
    await cli.run("delete", "-f", id);
  });

  it("gives a terminal that is the caller's", async () => {
    const { id } = await running();
    const child = spawn("python3", [
      terminal,
      "run",
      command,
      "--root",
      cli.root,
      "exec",
      "-t",
      id,
      "sh",
      "-c",
      "tty; stty size; exit 6",
    ]);
    expect(await ended(child)).toMatchObject({ code: 6, out: "/dev/pts/0\r\r\n33 101\r\r\n" });
    await cli.run("delete", "-f", id);
  });
});

describe("what containers are and use", () => {
  it("lists them, and names what cannot be read", async () => {
    const { id, bundle } = await running();
    mkdirSync(join(cli.root, "broken"));
    const listed = await cli.run("list", "--format=json");
    expect(JSON.parse(listed.out)).toMatchObject([{ id, status: "running", bundle }]);
    expect(listed.err).toContain("broken: container does not exist");
    expect((await cli.run("list", "-q")).out).toBe(`${id}\n`);
    await cli.run("delete", "-f", "broken");
    await cli.run("delete", "-f", id);
    expect((await cli.run("list", "-f", "json")).out).toBe("null\n");
    expect((await ended(cli.start(["--root", "/nonexistent", "list"]))).code).toBe(1);
  });

  it("changes limits from flags and from a document, all or none", async () => {
    const { id } = await running();
    const limit = () => memoryLimit(`${cli.place.cgroup}/${id}`);
    expect(await cli.run("update", "--memory", "64m", "--pids-limit", "50", id)).toMatchObject({ code: 0, err: "" });
    expect(limit()).toBe(String(64 << 20));
    const child = cli.start(["update", "--resources=-", id], ["pipe", "pipe", "pipe"]);
    child.stdin?.end(JSON.stringify({ memory: { limit: 96 << 20 }, devices: [{ allow: true }] }));
    expect((await ended(child)).code).toBe(0);
    expect(limit()).toBe(String(96 << 20));
    expect((await cli.run("update", "--memory", "1x", id)).err).toContain("is no size");
    const { data } = JSON.parse((await cli.run("events", "--stats", id)).out) as {
      data: Record<string, Record<string, unknown>>;
    };
    expect(data).toMatchObject({ memory: { usage: { limit: 96 << 20 } }, pids: { current: 1, limit: 50 } });
    expect((await cli.run("stats", id)).out).toContain('"type":"stats"');
    await cli.run("delete", "-f", id);
  });

  it("follows a container's events until it ends", async () => {
    const { id } = await running();
    const child = cli.start(["events", "--interval", "100ms", id]);
    const result = ended(child);
    let seen = 0;
    child.stdout?.on("data", () => {
      if (++seen === 2) void cli.run("kill", id, "KILL");
    });
    const { code, out } = await result;
    expect(code).toBe(0);
    expect(out.trim().split("\n").length).toBeGreaterThan(1);
    expect((await cli.run("events", id)).err).toContain(`container with id ${id} is not running`);
    await cli.run("delete", id);
  });

  it("writes a config.json to begin with, which runs (CVE-2015-3630)", async () => {
    const { id, bundle } = cli.bundle([]);
    expect((await cli.run("spec", "-b", bundle)).err).toContain("File config.json exists. Remove it first");
    const fresh = join(cli.place.top, "fresh");
    mkdirSync(fresh);
    expect((await cli.run("spec", "-b", fresh)).code).toBe(0);
    const spec = JSON.parse(readFileSync(join(fresh, "config.json"), "utf8"));
    spec.root.path = cli.place.rootfs;
    spec.process = { ...spec.process, terminal: false, args: ["sh", "-c", "hostname; touch /x || echo read-only"] };
    spec.linux.cgroupsPath = `${cli.place.cgroup}/${id}`;
    writeFileSync(join(fresh, "config.json"), JSON.stringify(spec));
    expect((await cli.run("run", "-b", fresh, id)).out).toBe("caisson\nread-only\n");
    // CVE-2015-3630: what tells of the host, or changes it, is covered without anybody asking.
    expect(spec.linux.maskedPaths).toEqual(
      expect.arrayContaining(["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]),
    );
    expect(spec.linux.readonlyPaths.toSorted()).toEqual([
      "/proc/bus",
      "/proc/fs",
      "/proc/irq",
      "/proc/sys",
      "/proc/sysrq-trigger",
    ]);
  });

  it("prints what would be done for a bundle, and was done for a container, and does nothing of it #plan", async () => {
    const { id, bundle } = cli.bundle(sh("exec sleep 1000"), (spec) => {
      spec.process.noNewPrivileges = true;
      spec.linux.seccomp = { defaultAction: "SCMP_ACT_ALLOW" };
    });
    const planned = await cli.run("plan", bundle);
    expect(planned).toMatchObject({ code: 0, err: "" });
    const names = planned.out.split("\n").map((line) => line.trim().split(/\s+/)[1] ?? "");
    const order = ["with", "clean-start", "open-tree", "pivot", "stdio", "hostname", "no-new-privs", "seccomp", "park", "exec"];
    expect(names.filter((name, at) => order.includes(name) && names.indexOf(name) === at)).toEqual(order);
    expect(cli.place.leftovers()).toEqual([]);
    await cli.run("run", "-d", "-b", bundle, id);
    expect((await cli.run("plan", id)).out).toBe(planned.out);
    await cli.run("delete", "-f", id);
  });

  it("saves a container, which another command starts again where it was", async () => {
    const script = "i=0; while :; do i=$((i+1)); echo $i > /dev/count; sleep 0.05; done";
    const { id, bundle } = await running(script);
    const count = (pid: unknown) => Number(readFileSync(`/proc/${pid}/root/dev/count`, "utf8"));
    const { pid } = await cli.state(id);
    await until(() => existsSync(`/proc/${pid}/root/dev/count`) && count(pid) > 3);
    const images = join(cli.place.top, "images");
    expect(await cli.run("checkpoint", "--image-path", images, id)).toMatchObject({ code: 0, err: "" });
    expect((await cli.run("state", id)).err).toContain("container does not exist");
    const pidFile = join(cli.place.top, "restored.pid");
    const restored = await cli.run("restore", "-d", "--pid-file", pidFile, "--image-path", images, "-b", bundle, id);
    expect(restored).toMatchObject({ code: 0, err: "" });
    const now = Number(readFileSync(pidFile, "utf8"));
    expect(await cli.state(id)).toMatchObject({ status: "running", pid: now });
    expect(count(now)).toBeGreaterThan(3);
    const then = count(now);
    await until(() => count(now) > then);
    expect((await cli.run("checkpoint", "--manage-cgroups-mode", "none", id)).err).toContain("Invalid manage-cgroups-mode value");
    await cli.run("delete", "-f", id);
  });

  it("says what it can do, and nothing that it would refuse #features", async () => {
    const features = JSON.parse((await cli.run("features")).out);
    expect(features).toMatchObject({ ociVersionMax: "1.3.0", linux: { seccomp: { enabled: true }, cgroup: { v1: true } } });
    const { id, bundle } = cli.bundle(sh("true"));
    for (const hook of ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]) {
      const spec = { ...cli.spec(id, ["true"]), hooks: { [hook]: [{ path: "/bin/true" }] } };
      writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
      const { code } = await cli.run("run", "-b", bundle, id);
      expect([hook, code === 0]).toEqual([hook, features.hooks.includes(hook)]);
    }
  });
});

describe("checkpoint and restore #checkpoint", () => {
  it("saves a container, shows what was saved, and goes on from it", async () => {
    const { id, bundle } = await running("i=0; while :; do i=$((i+1)); echo $i > /dev/count; sleep 0.02; done");
    const images = join(bundle, "images");
    const count = async (of: string): Promise<number> => Number((await cli.run("exec", of, "cat", "/dev/count")).out);
    await until(async () => (await count(id)) > 2);
    expect(await cli.run("checkpoint", "--image-path", images, id)).toMatchObject({ code: 0, err: "" });
    const shown = await cli.run("checkpoint", "inspect", images);
    expect(shown.out).toMatch(/MiB of images/);
    expect(shown.out).toMatch(/frozen by CRIU for [\d.]+ ms/);
    expect(shown.out).toMatch(/^1 +0 +1 +sh$/m);
    expect(shown.out).toMatch(/^ {2}\/bin\/busybox \(\d+ bytes\)$/m);
    expect(shown.out).toMatch(/^ {2}\/dev\/pts devpts$/m);
    const pod = join(cli.place.top, "pod");
    mkdirSync(join(pod, "container-0"), { recursive: true });
    cpSync(images, join(pod, "container-0/checkpoint"), { recursive: true });
    writeFileSync(join(pod, "pod.dump"), JSON.stringify({ id: "p", containers: [{ name: "c", directory: "container-0" }] }));
    expect(JSON.parse((await cli.run("checkpoint", "inspect", "--json", pod)).out)).toMatchObject({
      pod: "p",
      containers: [{ name: "c", processes: expect.arrayContaining([expect.objectContaining({ pid: 1, name: "sh" })]) }],
    });
    expect(await cli.run("restore", "-d", "-b", bundle, "--image-path", images, id)).toMatchObject({ code: 0, err: "" });
    const then = await count(id);
    await until(async () => (await count(id)) > then);
    expect((await cli.run("checkpoint", "inspect", bundle)).err).toContain("holds no checkpoint");
    expect((await cli.run("checkpoint", "--lazy-pages", "--image-path", join(bundle, "more"), id)).err).toContain(
      "lazyPages needs",
    );
    expect((await cli.run("delete", "--force", id)).code).toBe(0);
  });
});
