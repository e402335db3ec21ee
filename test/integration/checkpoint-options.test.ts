/** What checkpoint and restore can be told, by the library and by the command's flags, and what they say of what cannot be saved. */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findCriu } from "../../src/core/criu/criu-program.ts";
import { type Container, Process } from "../../src/core/library/public.ts";
import { addon } from "../../src/native/addon.ts";
import { ContainerCli } from "../helpers/container-cli.ts";
import { freePort } from "../helpers/free-port.ts";
import { shell, until } from "../helpers/library-place.ts";

let cli: ContainerCli;
let images = 0;
const fromHost = ["/usr", "/lib", "/lib64"];
const newImages = (): string => join(cli.place.top, `images${images++}`);
const outside = (): string => join(cli.place.top, "outside");
const binds = () => [
  ...fromHost.map((path) => ({ source: path, destination: path, options: ["rbind", "ro"] })),
  { source: outside(), destination: outside(), options: ["rbind"] },
];
const mounts = () => [
  ...(cli.place.config("x").mounts ?? []),
  ...binds().map(({ options, ...mount }) => ({ ...mount, device: "bind", flags: options })),
];
let server: ChildProcess;
beforeAll(async () => {
  cli = new ContainerCli();
  for (const path of fromHost) mkdirSync(join(cli.place.rootfs, path), { recursive: true });
  mkdirSync(outside());
  // Both kinds of socket, and what comes by the second.
  server = spawn(
    "python3",
    [
      "-uc",
      "import socket, os; at=os.getcwd(); a=socket.socket(socket.AF_UNIX); a.bind(at + '/s'); a.listen(); b=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); b.bind(at + '/d')\nwhile 1: print(b.recv(99).decode(), file=open('heard', 'a'))",
    ],
    { cwd: outside(), stdio: "inherit" },
  );
  await until(() => existsSync(join(outside(), "d")));
});
afterAll(async () => {
  server.kill();
  await cli[Symbol.asyncDispose]();
});

const counting = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.02; done";
const pidOf = (container: Container): number => container.state().init_process_pid;
const countFile = (container: Container): string => `/proc/${pidOf(container)}/root/dev/shm/count`;
async function goesOn(container: Container): Promise<void> {
  await until(() => existsSync(countFile(container)));
  const then = readFileSync(countFile(container), "utf8");
  await until(() => readFileSync(countFile(container), "utf8") !== then);
}
async function counter(): Promise<Container> {
  const container = await cli.place.create();
  await container.run(shell(counting));
  await goesOn(container);
  return container;
}
async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

/** Python in a container, told what to do line by line. */
const program = `
import sys, os, socket, fcntl, ctypes
libc = ctypes.CDLL(None)
def taken(path):
  try: fcntl.flock(open(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError: return True
for line in sys.stdin:
  try: exec(line); print("done", flush=True)
  except Exception as e: print(repr(e), flush=True)
`;
const python = ["/usr/bin/python3", "-S", "-E", "-c", program];
function talk(write: (line: string) => void, listen: (heard: (chunk: Buffer) => void) => void): (line: string) => Promise<void> {
  let said = "";
  listen((chunk) => {
    said += chunk.toString();
  });
  return async (line) => {
    said = "";
    write(`${line}\n`);
    await until(() => said.includes("\n"));
    expect([line, said.trim()]).toEqual([line, "done"]);
  };
}
const askOf = (process: Process) =>
  talk(
    (line) => process.stdin?.write(line),
    (heard) => process.stdout?.on("data", heard),
  );
/** A command with pipes: Node's own are sockets, which a container would have open to somebody outside. */
function piped(args: string[]): {
  readonly child: ChildProcess;
  readonly ask: (line: string) => Promise<void>;
  readonly hangUp: () => void;
} {
  const [[stdin, to], [from, stdout]] = [addon.pipe(0), addon.pipe(0)];
  const child = cli.start(args, [stdin, stdout, stdout]);
  for (const fd of [stdin, stdout]) addon.close(fd);
  const listen = (heard: (chunk: Buffer) => void) => void addon.readPipe(from, heard, () => {});
  return { child, ask: talk((line) => writeSync(to, line), listen), hangUp: () => addon.close(to) };
}
const tcp = "l=socket.create_server(('127.0.0.1', 7000)); a=socket.create_connection(('127.0.0.1', 7000)); b,_=l.accept()";
const lock = "c=open('/tmp/lock', 'w'); fcntl.flock(c, fcntl.LOCK_EX)";
const linked = "d=open('/tmp/one', 'w'); os.link('/tmp/one', '/tmp/two'); os.unlink('/tmp/one')";
const datagram = () => `e=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); e.connect('${outside()}/d')`;

describe("what cannot be saved", () => {
  it("is named, with its owner, and the container goes on", async () => {
    const container = await cli.place.create({ mounts: mounts() });
    const process = new Process({ args: python, env: ["PATH=/usr/bin"], stdin: "pipe", stdout: "pipe" });
    await container.run(process);
    const ask = askOf(process);
    const descriptor = (link: string) => `.*; descriptor \\d+ of process "python3" is "${link}`;
    for (const [line, message] of [
      [tcp, `Connected TCP socket, consider using --tcp-established option${descriptor("socket:")}`],
      [lock, "file locks are hold by dumping tasks! You can try --file-locks"],
      [linked, `Can't create link remap for /tmp/one${descriptor("/tmp/one \\(deleted\\)")}`],
      [`e=socket.socket(socket.AF_UNIX); e.connect('${outside()}/s')`, `unix: Dangling connection${descriptor("socket:")}`],
      [datagram(), `Unix socket \\d+ without peer${descriptor("socket:")}`],
      ["e=socket.socket(socket.AF_VSOCK)", `Unknown socket collected \\(family 40\\)${descriptor("socket:")}`],
      ["e=os.fdopen(libc.syscall(425, 8, ctypes.create_string_buffer(200)))", descriptor("anon_inode:\\[io_uring\\]")],
      ["e=os.fdopen(libc.syscall(323, 1))", descriptor("anon_inode:\\[userfaultfd\\]")],
      [
        "e=open('/tmp/big', 'w'); e.write('x' * 3000000); e.flush(); os.unlink('/tmp/big')",
        "Can't dump ghost file /tmp/big of 30\\d+ size, increase limit",
      ],
    ] as const) {
      await ask(line);
      await expect(container.checkpoint({ imagesDirectory: newImages() })).rejects.toThrow(new RegExp(message));
      await ask("a=b=c=d=e=l=None");
    }
    await ask("os.unlink('/tmp/two')");
    await end(container);
  });
});

describe("the command's flags", () => {
  it("save connections, locks and linked files, to a page server too, and give them back", async () => {
    const { id, bundle } = cli.bundle(python, (spec) => {
      spec.root = { path: cli.place.rootfs };
      spec.mounts.push(...binds().map((bind) => ({ ...bind, type: "bind" })));
    });
    const { child: first, ask, hangUp } = piped(["run", "-b", bundle, id]);
    for (const line of [tcp, lock, linked, "d.write('kept'); d.flush()"]) await ask(line);
    const [image, work, pages, port] = [newImages(), newImages(), newImages(), await freePort()];
    mkdirSync(pages);
    const pageServer = spawn("criu", ["page-server", "-D", pages, "--port", String(port), "--address", "127.0.0.1"]);
    const taken = new Promise((resolve) => pageServer.once("exit", resolve));
    // CRIU's server takes one connection: a look would be it.
    await until(() => readFileSync("/proc/net/tcp", "utf8").includes(`:${port.toString(16).toUpperCase().padStart(4, "0")} `));
    const both = ["--tcp-established", "--ext-unix-sk", "--file-locks", "--manage-cgroups-mode", "soft", "--empty-ns", "network"];
    const dirs = ["--image-path", image, "--work-path", work];
    const more = ["--link-remap", "--tcp-skip-in-flight", "--page-server", `127.0.0.1:${port}`];
    const over = new Promise((resolve) => first.once("exit", resolve));
    // One that is left running takes its links away again: nothing for a restore.
    expect(await cli.run("checkpoint", ...both, ...dirs, ...more, id)).toMatchObject({ code: 0, err: "" });
    await Promise.all([over, taken]);
    expect(existsSync(join(work, "dump.log"))).toBe(true);
    expect(existsSync(join(image, "dump.log")) || existsSync(join(image, "pages-1.img"))).toBe(false);
    cpSync(pages, image, { recursive: true });

    hangUp();
    const { child: second, ask: askAgain, hangUp: endSecond } = piped(["restore", ...both, ...dirs, "-b", bundle, id]);
    await askAgain("a.send(b'y'); assert b.recv(9) == b'y'");
    await askAgain("assert taken('/tmp/lock')");
    await askAgain("assert open('/proc/self/fd/%d' % d.fileno()).read() == 'kept'");
    endSecond();
    expect(await new Promise((resolve) => second.once("exit", resolve))).toBe(0);
  });

  it("ask for a pre-dump and a parent, drop what is twice, and close connections; what does not fit is refused", async () => {
    const { id, bundle } = cli.bundle(python, (spec) => {
      spec.root = { path: cli.place.rootfs };
      spec.mounts.push(...binds().map((bind) => ({ ...bind, type: "bind" })));
    });
    const { child: first, ask, hangUp } = piped(["run", "-b", bundle, id]);
    const over = new Promise((resolve) => first.once("exit", resolve));
    await ask(tcp);
    const [before, image] = [newImages(), newImages()];
    const save = (...more: string[]) => cli.run("checkpoint", "--image-path", image, "--tcp-established", ...more, id);
    const early = await cli.run("checkpoint", "--pre-dump", "--tcp-established", "--image-path", before, id);
    if (early.code !== 0) expect(early.err).toMatch(/lacks memory tracking \(mem_track\), which a pre-dump needs/);
    expect((await save("--parent-path", before)).err).toContain("parentPath must be relative");
    expect((await save("--parent-path", "../none")).err).toContain("none is no directory");
    await ask("a.send(b'x'); assert b.recv(9) == b'x'");
    const chained = early.code === 0 ? ["--parent-path", `../${basename(before)}`, "--auto-dedup"] : ["--auto-dedup"];
    expect(await save("--shell-job", ...chained)).toMatchObject({ code: 0, err: "" });
    await over;
    hangUp();
    const restoring = (...more: string[]) => ["restore", "--image-path", image, "-b", bundle, "--shell-job", ...more, id];
    expect((await cli.run(...restoring("-d", "--tcp-close", "--tcp-established"))).err).toContain("exclude each other");
    const labelled = await cli.run(...restoring("-d", "--tcp-close", "--lsm-profile", "nonsense:label"));
    expect(labelled.code).not.toBe(0);
    expect((await cli.run("state", id)).err).toContain("container does not exist");
    const { child: second, ask: askAgain, hangUp: end2 } = piped(restoring("--tcp-close", "--auto-dedup"));
    await askAgain("import errno; assert a.connect_ex(('127.0.0.1', 1)) in (errno.ECONNREFUSED, errno.ECONNABORTED)");
    end2();
    expect(await new Promise((resolve) => second.once("exit", resolve))).toBe(0);
  });

  it("leave memory behind until it is fetched", async () => {
    // CRIU's server of lazy pages needs larger pipes than are allowed to everybody: a machine's administrator may allow them.
    const limit = "/proc/sys/fs/pipe-max-size";
    const before = readFileSync(limit, "utf8");
    await using restoring = new AsyncDisposableStack();
    const { id, bundle } = cli.bundle([
      "sh",
      "-c",
      "x=$(busybox seq 30000); i=0; while :; do i=$((i+1)); echo $i $(echo $x | wc -c) > /dev/count; sleep 0.02; done",
    ]);
    expect(await cli.run("run", "-d", "-b", bundle, id)).toMatchObject({ code: 0 });
    const read = async (of: string) => readFileSync(`/proc/${(await cli.state(of)).pid}/root/dev/count`, "utf8").trim();
    const pid = Number((await cli.state(id)).pid);
    await until(() => existsSync(`/proc/${pid}/root/dev/count`));
    const [image, port] = [newImages(), await freePort()];
    const flags = ["--lazy-pages", "--image-path", image];
    const address = ["--page-server", `127.0.0.1:${port}`];
    expect((await cli.run("checkpoint", ...flags, id)).err).toContain("lazyPages needs pageServer");
    restoring.defer(() => writeFileSync(limit, before));
    writeFileSync(limit, "4194304");
    const [from, to] = addon.pipe(0);
    const ready = new Promise<Buffer>((resolve) => addon.readPipe(from, resolve, () => {}));
    const saving = cli.start(["checkpoint", ...flags, ...address, "--status-fd", "3", id], ["ignore", "inherit", "inherit", to]);
    addon.close(to);
    const saved = new Promise((resolve) => saving.once("exit", resolve));
    expect([...(await ready)]).toEqual([0]);
    const server = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", String(port), "-D", image];
    const daemon = spawn("criu", server, { stdio: "inherit" });
    const fetched = new Promise((resolve) => daemon.once("exit", resolve));
    await until(() => existsSync(join(image, "lazy-pages.socket")));
    const { id: copy, bundle: other } = cli.bundle(["sh"]);
    expect(await cli.run("restore", "-d", ...flags, "-b", other, copy)).toMatchObject({ code: 0, err: "" });
    expect(await fetched).toBe(0);
    expect(await saved).toBe(0);
    expect((await cli.run("state", id)).err).toContain("container does not exist");
    const then = await read(copy);
    expect(then).toMatch(/^\d+ \d{6}$/);
    await until(async () => (await read(copy)) !== then);
    expect((await cli.run("delete", "-f", copy)).code).toBe(0);
  });
});

describe("by the library", () => {
  it("memory is saved before the rest where the kernel tracks it, and refused with the feature's name elsewhere", async () => {
    const container = await counter();
    const [first, second] = [newImages(), newImages()];
    const tracks = await container.checkpoint({ imagesDirectory: first, preDump: true }).then(
      () => true,
      (error: Error) => {
        expect(error.message).toMatch(/CRIU [\d.]+ on this kernel lacks memory tracking \(mem_track\), which a pre-dump needs/);
        return false;
      },
    );
    expect(await container.status()).toBe("running");
    const parentPath = `../${basename(first)}`;
    await expect(container.checkpoint({ imagesDirectory: second, parentPath: "../none" })).rejects.toThrow(
      "none is no directory",
    );
    if (tracks) {
      await container.checkpoint({ imagesDirectory: second, parentPath });
      await container.destroy();
      const restored = await cli.place.create();
      await restored.restore(shell("x"), { imagesDirectory: second });
      await goesOn(restored);
      await end(restored);
    } else await end(container);
  });

  it("cgroups are treated in each of the ways that there are", async () => {
    const container = await counter();
    for (const manageCgroupsMode of ["ignore", "soft", "full", "strict"] as const) {
      const imagesDirectory = newImages();
      await container.checkpoint({ imagesDirectory, leaveRunning: true, manageCgroupsMode });
      const id = cli.place.newId();
      const restored = await cli.place.create({}, id);
      const restoring = restored.restore(shell("x"), { imagesDirectory, manageCgroupsMode });
      if (manageCgroupsMode === "strict") {
        await expect(restoring).rejects.toThrow("Use full");
        await restored.destroy();
        continue;
      }
      await restoring;
      const cgroups = readFileSync(`/proc/${pidOf(restored)}/cgroup`, "utf8")
        .trim()
        .split("\n");
      expect(cgroups.filter((line) => !line.endsWith(`${cli.place.cgroup}/${id}`))).toEqual([]);
      await goesOn(restored);
      await end(restored);
    }
    await end(container);
  });

  it("a socket of somebody outside is connected again", async () => {
    const config = { mounts: mounts(), namespaces: (["mnt", "uts", "ipc", "pid"] as const).map((type) => ({ type })) };
    const container = await cli.place.create(config);
    const process = new Process({ args: python, env: ["PATH=/usr/bin"], stdin: "pipe", stdout: "pipe" });
    await container.run(process);
    await askOf(process)(datagram());
    const options = { imagesDirectory: newImages(), externalUnixSockets: true };
    await container.checkpoint(options);
    await container.destroy();
    const restored = await cli.place.create(config);
    const again = new Process({ args: python, env: ["PATH=/usr/bin"], stdin: "pipe", stdout: "pipe" });
    await restored.restore(again, options);
    await askOf(again)("e.send(b'from the restored')");
    await until(() => existsSync(join(outside(), "heard")));
    await end(restored);
  });

  it("a CRIU that is missing, too old or silent is refused by its version", async () => {
    const fake = async (name: string, answer: string) => {
      const path = join(cli.place.top, name);
      writeFileSync(path, `#!/usr/bin/python3\nimport socket\ns = socket.socket(fileno=3)\ns.recv(9999)\n${answer}\n`);
      chmodSync(path, 0o755);
      return await findCriu(path);
    };
    // criu_resp { type: VERSION, success: true, version { major, minor, [gitid], sublevel } }
    const version = (...fields: number[]) => `s.send(bytes([8, 10, 16, 1, 82, ${fields.length}, ${fields.join(", ")}]))`;
    await expect(findCriu("/nowhere/criu")).rejects.toThrow("/nowhere/criu cannot be executed");
    await expect(fake("old", version(8, 3, 16, 15))).rejects.toThrow("is CRIU 3.15; checkpoint and restore need 3.16 or newer");
    await expect(fake("older", "s.send(bytes([8, 0, 16, 0]))")).rejects.toThrow("is older than CRIU 3.0");
    await expect(fake("silent", "")).rejects.toThrow("CRIU ended without an answer");
    expect((await fake("new", version(8, 3, 16, 16))).version).toBe(31_600);
    // Built from sources after 3.15: the next.
    expect((await fake("built", version(8, 3, 16, 15, 26, 1, 120))).version).toBe(31_600);
  });
});
