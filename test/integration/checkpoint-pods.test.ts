/** What containers of a pod share, across CheckpointPod and RestorePod. Real processes go on working. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { RemoteCommandClient } from "../helpers/spdy-client.ts";

let node: CriNode;
let place: string;
beforeAll(async () => {
  place = mkdtempSync(join(tmpdir(), "caisson-checkpoint-pods-"));
  criuIs(`exec ${realCriu} "$@"`);
  node = await CriNode.start({ config: `[checkpoint]\nrestore = true\ncriu = "${criu()}"\n` });
  node.enableNetwork("caissonckp", "10.199.78.0/24");
  await node.networkReady();
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

const realCriu = execFileSync("sh", ["-c", "command -v criu"], { encoding: "utf8" }).trim();
const criu = (): string => join(place, "criu");
/** The same file of one age: the daemon knows its version already. */
function criuIs(script: string): void {
  writeFileSync(criu(), `#!/bin/sh\n${script}\n`);
  chmodSync(criu(), 0o755);
  utimesSync(criu(), 1_700_000_000, 1_700_000_000);
}
const podNetwork = { linux: { security_context: { namespace_options: network.pod } } };
const count = async (id: string): Promise<number> => Number((await node.exec(id, ["cat", "/tmp/count"])).stdout);
async function rises(id: string): Promise<void> {
  const then = await count(id);
  await expect.poll(() => count(id), { timeout: 20_000, interval: 10 }).toBeGreaterThan(then);
}
const ipOf = async (pod: string): Promise<string> =>
  (await node.client.runtime("PodSandboxStatus", { pod_sandbox_id: pod })).status.network.ip;

interface Saved {
  readonly output: string;
  readonly ip: string;
  readonly configs: readonly Message[];
}

/** Runs these, in order, waits until `ready`, saves, and removes the pod. */
async function save(
  name: string,
  configs: readonly Message[],
  ready: (ids: readonly string[]) => Promise<void>,
  more: Message = podNetwork,
): Promise<Saved> {
  const config = node.podConfig(name, more);
  const pod = await node.runPod(config);
  const ids: string[] = [];
  for (const one of configs) ids.push(await node.run(pod, config, one));
  await ready(ids);
  const output = join(place, name);
  mkdirSync(output);
  const ip = await ipOf(pod);
  await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
  await ready(ids);
  await node.removePod(pod);
  return { output, ip, configs };
}

async function restore(
  name: string,
  { output, configs }: Saved,
  more: Message = podNetwork,
  timeoutMs = 60_000,
): Promise<{ pod: string; ids: string[] }> {
  const request = { checkpoint_path: output, config: node.podConfig(name, more), container_configs: configs };
  const reply = await node.client.runtime("RestorePod", request, timeoutMs);
  return { pod: reply.pod_sandbox_id, ids: reply.restored_containers.map((one: Message) => one.container_id) };
}

describe("TCP connections between containers of a pod", () => {
  const started = (names: readonly string[], commands: readonly string[]) =>
    names.map((name, index) => node.containerConfig(name, ["sh", "-c", commands[index] ?? ""]));

  it("go on with what is under way in them, over the loopback device", async () => {
    const checking = '{ if ($1 != NR) exit 3; if (NR % 2000 == 0) { print NR > "/tmp/count"; close("/tmp/count") } }';
    const [reader, writer] = [
      `exec nc -l -p 9000 -e awk '${checking}'`,
      "until nc 127.0.0.1 9000 -e seq 1 1000000000; do sleep 0.05; done",
    ];
    const saved = await save(
      "tcp-loopback",
      started(["reader", "writer"], [reader, writer]),
      async ([id = ""]) => await rises(id),
    );
    const { pod, ids } = await restore("tcp-loopback-2", saved);
    for (const id of ids) await node.start(id);
    const [id = ""] = ids;
    const then = await count(id);
    // More than fits into both queues.
    await expect.poll(() => count(id), { timeout: 30_000, interval: 20 }).toBeGreaterThan(then + 20_000);
    await node.removePod(pod);
  });

  it("go on over the pod's own address, which is another one then; others are closed", async () => {
    const own = "$(ip -4 -o addr show eth0 | awk '{split($4, a, \"/\"); print a[1]}')";
    const answering = "while read n; do echo $n > /tmp/count; echo $((n+1)); done";
    const server = `exec nc -l -p 9000 -e sh -c '${answering}'`;
    const outside = "nc 10.199.78.1 9999 > /tmp/outside; echo closed > /tmp/outside";
    const client = `(${outside}) & until nc ${own} 9000 -e sh -c 'echo 1; ${answering.replace("echo $((", "sleep 0.01; echo $((")}; sleep 1000'; do sleep 0.05; done`;
    const world = createServer({ allowHalfOpen: true }, (socket) => socket.on("error", () => {}).write("hello\n"));
    await new Promise<void>((resolve) => world.listen(9999, "10.199.78.1", resolve));
    const heard = async (id = "") => (await node.exec(id, ["cat", "/tmp/outside"])).stdout;
    const saved = await save("tcp-own", started(["server", "client"], [server, client]), async (ids) => {
      for (const id of ids) await rises(id);
      await expect.poll(() => heard(ids[1])).toBe("hello\n");
    });
    const { pod, ids } = await restore("tcp-own-2", saved);
    expect(await ipOf(pod)).not.toBe(saved.ip);
    for (const id of ids) await node.start(id);
    for (const id of ids) await rises(id);
    await expect.poll(() => heard(ids[1])).toBe("closed\n");
    await node.removePod(pod);
    world.close();
  });
});

const counting = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; echo line $i; sleep 0.02; done"];

describe("one checkpoint", () => {
  it("becomes five pods at once, each with its own address, name, log and cgroup; each is saved again", async () => {
    const saved = await save("seed", [node.containerConfig("counter", counting)], async ([id = ""]) => await rises(id));
    const names = ["clone-a", "clone-b", "clone-c", "clone-d", "clone-e"];
    const clones = await Promise.all(names.map((name) => restore(name, saved)));
    const infos = await Promise.all(
      clones.map(async ({ pod, ids: [id = ""] }, index) => {
        await node.start(id);
        await rises(id);
        const hostname = (await node.exec(id, ["hostname"])).stdout.trim();
        expect(hostname).toBe(names[index]);
        await expect.poll(() => node.log(hostname, "counter")).toMatch(/^stdout F line \d+\n/);
        const { pid, cgroupsPath } = await node.info(id);
        expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain(cgroupsPath);
        return [await ipOf(pod), cgroupsPath];
      }),
    );
    expect(new Set(infos.flat()).size).toBe(10);
    const [{ pod = "", ids = [] } = {}, ...others] = clones;
    await Promise.all(others.map((clone) => node.removePod(clone.pod)));
    const output = join(place, "again");
    mkdirSync(output);
    await node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
    const then = await count(ids[0] ?? "");
    await node.removePod(pod);
    const again = await restore("clone-again", { ...saved, output });
    await node.start(again.ids[0] ?? "");
    await rises(again.ids[0] ?? "");
    await expect.poll(() => count(again.ids[0] ?? "")).toBeGreaterThan(then / 2);
    await node.client.runtime("StopContainer", { container_id: again.ids[0], timeout: 0 });
    expect((await node.status(again.ids[0] ?? "")).exit_code).toBe(137);
    await node.removePod(again.pod);
  });
});

describe("a restored container", () => {
  const answering = (prefix: string) => ["sh", "-c", `while read x; do echo ${prefix} $x; done; echo over; sleep 1000`];
  const configs = () => [
    node.containerConfig("piped", answering("got"), { stdin: true, stdin_once: true }),
    node.containerConfig("terminal", answering("shown"), { stdin: true, tty: true }),
  ];
  const attach = async (id: string, tty: boolean): Promise<RemoteCommandClient> => {
    const request = { container_id: id, stdin: true, stdout: true, stderr: !tty, tty };
    const { url } = await node.client.runtime("Attach", request);
    return await RemoteCommandClient.open(url, ["stdin", "stdout", ...(tty ? ["resize"] : ["stderr"])]);
  };

  /** What is true of a container that is there, whoever made it. */
  async function isWhole(id: string, tty: boolean, prefix: string): Promise<void> {
    const session = await attach(id, tty);
    if (tty) {
      session.of("resize").write('{"Width":91,"Height":33}');
      await expect.poll(async () => (await node.exec(id, ["sh", "-c", "stty size < /proc/1/fd/0"])).stdout).toBe("33 91\n");
    }
    session.of("stdin").write("hello\n");
    await expect.poll(() => session.of("stdout").text()).toContain(`${prefix} hello`);
    session.client.destroy();
    const { stats } = await node.client.runtime("ContainerStats", { container_id: id });
    const listed = await node.client.runtime("ListContainerStats", { filter: { id } });
    for (const one of [stats, listed.stats[0]]) {
      expect(Number(one.memory.working_set_bytes.value)).toBeGreaterThan(0);
      expect(one.cpu.usage_core_nano_seconds).not.toBe(null);
    }
    expect(await node.exec(id, ["sh", "-c", "echo in; echo err >&2; exit 3"])).toEqual({
      stdout: "in\n",
      stderr: "err\n",
      exitCode: 3,
    });
  }

  it("is attached to with its stdin and its terminal, counted and entered; its log begins in its own file", async () => {
    const saved = await save("seed-attach", configs(), async (ids) => {
      for (const id of ids) expect((await node.status(id)).state).toBe("CONTAINER_RUNNING");
    });
    const { pod, ids } = await restore("attached", saved);
    const [piped = "", terminal = ""] = ids;
    expect(await failure(node.client.runtime("Attach", { container_id: piped, stdout: true }))).toMatchObject({
      code: grpcStatus.FAILED_PRECONDITION,
    });
    for (const id of ids) await node.start(id);
    await isWhole(terminal, true, "shown");
    await isWhole(piped, false, "got");
    await expect.poll(() => node.log("attached", "piped")).toBe("stdout F got hello\nstdout F over\n");
    expect(node.log("attached", "terminal")).toMatch(/^stdout F hello\r?\nstdout F shown hello\r?\n$/);
    await node.removePod(pod);
  });

  it("is the same when CreateContainer has made it from an archive", async () => {
    const config = node.podConfig("archived");
    const pod = await node.runPod(config);
    const names = ["piped", "terminal"];
    for (const [index, one] of configs().entries()) {
      const first = await node.run(pod, config, one);
      const location = join(place, `${names[index]}.tar`);
      await node.client.runtime("CheckpointContainer", { container_id: first, location });
      await node.client.runtime("RemoveContainer", { container_id: first });
      const again = { ...one, metadata: { name: names[index], attempt: 1 }, log_path: `${names[index]}/1.log` };
      const id = await node.create(pod, config, { ...again, image: { image: location } });
      expect(await failure(node.client.runtime("Attach", { container_id: id, stdout: true }))).toMatchObject({
        code: grpcStatus.FAILED_PRECONDITION,
      });
      await node.start(id);
      await isWhole(id, index === 1, index === 1 ? "shown" : "got");
    }
    const log = (name: string) => readFileSync(join(node.logs, "archived", name, "1.log"), "utf8").replaceAll(/^\S+ /gm, "");
    await expect.poll(() => log("piped")).toBe("stdout F got hello\nstdout F over\n");
    expect(log("terminal")).toMatch(/^stdout F hello\r?\nstdout F shown hello\r?\n$/);
    await node.removePod(pod);
  });
});

describe("what processes share beside the network", () => {
  const fromNode = {
    mounts: ["/usr", "/lib", "/lib64"].map((path) => ({ host_path: path, container_path: path, readonly: true })),
  };
  const python = (name: string, ...lines: string[]) =>
    node.containerConfig(name, ["/usr/bin/python3", "-ISc", lines.join("\n")], fromNode);
  const counted = "open('/tmp/count.new', 'w').write(str(n)); os.rename('/tmp/count.new', '/tmp/count')";

  it("goes on: a unix connection, shared memory and locks of processes of a container, a socket for those of another", async () => {
    // What each of the two processes adds comes back through all of them.
    const family = python(
      "family",
      "import os, socket, mmap, time, struct, multiprocessing as m",
      "a, b = socket.socketpair(); page = mmap.mmap(-1, 4096); lock = m.Lock()",
      "if os.fork() == 0:",
      "  while 1:",
      "    n = struct.unpack('q', b.recv(8))[0] + 1",
      "    with lock: page[:8] = struct.pack('q', n)",
      "    b.send(struct.pack('q', n))",
      "s = socket.socket(socket.AF_UNIX); s.bind('/dev/shm/served'); s.listen()",
      "if os.fork() == 0:",
      "  while 1: c, _ = s.accept(); c.send(page[:8]); c.close()",
      "n = 0",
      "while 1:",
      "  a.send(struct.pack('q', n)); n = struct.unpack('q', a.recv(8))[0]",
      "  with lock: assert struct.unpack('q', page[:8])[0] == n",
      `  ${counted}; time.sleep(0.01)`,
    );
    // A connection that is open at that moment between two containers could not be saved.
    const connecting =
      "import socket, struct; c = socket.socket(socket.AF_UNIX); c.connect('/dev/shm/served'); print(struct.unpack('q', c.recv(8))[0])";
    const served = async (id = ""): Promise<number> =>
      Number((await node.exec(id, ["/usr/bin/python3", "-ISc", connecting])).stdout);
    const guest = node.containerConfig("guest", counting, fromNode);
    const saved = await save("seed-unix", [family, guest], async ([id = "", other]) => {
      await expect.poll(() => node.exec(id, ["cat", "/tmp/count"]).then((said) => said.exitCode)).toBe(0);
      await rises(id);
      expect(await served(other)).toBeGreaterThan(0);
    });
    const { pod, ids } = await restore("unix", saved);
    for (const id of ids) await node.start(id);
    for (const id of ids) await rises(id);
    expect(await served(ids[1])).toBeGreaterThan(0);
    await node.removePod(pod);
  });

  it("is refused, by its descriptor, where it cannot be saved: a unix connection between containers, which goes on", async () => {
    const speak = (how: string) => [
      "import os, socket, time; s = socket.socket(socket.AF_UNIX); n = 0",
      how,
      "while 1:",
      `  s.send(b'.'); s.recv(1); n += 1; ${counted}; time.sleep(0.01)`,
    ];
    const config = node.podConfig("ck-unix", podNetwork);
    const pod = await node.runPod(config);
    const ids: string[] = [];
    for (const one of [
      python("server", ...speak("s.bind('/dev/shm/met'); s.listen(); s = s.accept()[0]")),
      python("client", ...speak("while s.connect_ex('/dev/shm/met'): time.sleep(0.01)")),
    ]) {
      ids.push(await node.run(pod, config, one));
    }
    const talk = async () => {
      for (const id of ids) {
        await expect.poll(async () => (await node.exec(id, ["cat", "/tmp/count"])).exitCode, { timeout: 20_000 }).toBe(0);
        await rises(id);
      }
    };
    await talk();
    const output = join(place, "ck-unix");
    mkdirSync(output);
    const found = await failure(
      node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids }),
    );
    expect(found.details).toMatch(
      /could not be checkpointed: .*descriptor \d+ of process "python3[^"]*" is "socket:\[\d+\]"; the other end of this unix/,
    );
    expect(readdirSync(output)).toEqual([]);
    await talk();
    await node.removePod(pod);
  });

  it("is refused, by its name, where it cannot be saved: System V objects and message queues of the pod", async () => {
    const config = node.podConfig("ck-ipc", podNetwork);
    const pod = await node.runPod(config);
    const id = await node.run(
      pod,
      config,
      python(
        "holder",
        "import ctypes, os, time; c = ctypes.CDLL(None)",
        "while 1:",
        "  if os.path.exists('/tmp/do'):",
        "    exec(open('/tmp/do').read()); os.unlink('/tmp/do')",
        "  time.sleep(0.005)",
      ),
    );
    const output = join(place, "ck-ipc");
    mkdirSync(output);
    const ask = () => node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: [id] });
    const carryOut = async (line: string) => {
      const script = `echo "$0" > /tmp/do.new; mv /tmp/do.new /tmp/do; while [ -e /tmp/do ]; do sleep 0.01; done`;
      expect(await node.exec(id, ["sh", "-c", script, line])).toMatchObject({ exitCode: 0 });
    };
    for (const [make, remove, said] of [
      ["s = c.shmget(31, 4096, 0o1600)", "c.shmctl(s, 0, None)", "System V shared memory (id 0, key 0x1f)"],
      ["s = c.semget(0, 1, 0o1600)", "c.semctl(s, 0, 0)", "System V semaphores (id 0)"],
      ["s = c.msgget(-2, 0o1600)", "c.msgctl(s, 0, None)", "System V message queues (id 0, key 0xfffffffe)"],
      ["q = c.mq_open(b'/jobs', 66, 0o600, None)", "c.mq_close(q); c.mq_unlink(b'/jobs')", "POSIX message queues (/jobs)"],
    ] as const) {
      await carryOut(make);
      expect(await failure(ask())).toMatchObject({
        code: grpcStatus.FAILED_PRECONDITION,
        details: expect.stringContaining(`its IPC namespace holds ${said}, which CRIU does not save there`),
      });
      expect(readdirSync(output)).toEqual([]);
      await carryOut(remove);
    }
    await ask();
    await node.removePod(pod);
  });
});

describe("what goes wrong", () => {
  const frozen = (cgroupsPath: string): string =>
    readFileSync(`/sys/fs/cgroup/freezer${cgroupsPath}/freezer.state`, "utf8").trim();
  /** One pod with two containers for all of these. */
  const running = async (name: string) => {
    const config = node.podConfig(name);
    const pod = await node.runPod(config);
    const ids: string[] = [];
    for (const one of ["one", "two"]) ids.push(await node.run(pod, config, node.containerConfig(one, counting)));
    for (const id of ids) await rises(id);
    const output = join(place, name);
    mkdirSync(output);
    const ask = () => node.client.runtime("CheckpointPod", { pod_sandbox_id: pod, output_path: output, container_ids: ids });
    return { pod, ids, output, ask };
  };
  const goesOn = async (ids: readonly string[]) => {
    for (const id of ids) expect(frozen((await node.info(id)).cgroupsPath)).toBe("THAWED");
    for (const id of ids) await rises(id);
  };

  /** A CRIU that does nothing, see `sleeping`. */
  const hanging = (): string => `echo $$ > ${place}/criu.pid.new; mv ${place}/criu.pid.new ${place}/criu.pid; exec sleep 1000`;
  /** Its process, once it is there. */
  const sleeping = async (): Promise<number> => {
    const file = join(place, "criu.pid");
    await expect.poll(() => existsSync(file), { timeout: 20_000 }).toBe(true);
    const pid = Number(readFileSync(file, "utf8"));
    rmSync(file);
    return pid;
  };

  it("is said of CRIU, the disk and the time, and leaves neither files nor frozen containers", async () => {
    const { pod, ids, output, ask } = await running("ck-faults");
    const [id = ""] = ids;
    // The daemon knows its version from here on.
    await ask();
    for (const name of readdirSync(output)) rmSync(join(output, name), { recursive: true });
    const refused = async (code: number, text: RegExp) => {
      for (const asked of [
        ask,
        () => node.client.runtime("CheckpointContainer", { container_id: id, location: join(output, "x.tar") }),
      ]) {
        const found = await failure(asked());
        expect(found.details).toMatch(text);
        expect(found.code).toBe(code);
        expect(readdirSync(output)).toEqual([]);
      }
      await goesOn(ids);
    };
    chmodSync(criu(), 0o600);
    await refused(grpcStatus.FAILED_PRECONDITION, /not possible: .*criu cannot be executed/);
    criuIs("kill -9 $$");
    await refused(grpcStatus.INTERNAL, /container [0-9a-f]+: CRIU was killed in the middle/);
    criuIs("exec sleep 1000");
    const late = node.client.runtime("CheckpointContainer", { container_id: id, location: join(output, "x.tar"), timeout: 1 });
    expect(await failure(late)).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED });
    expect(readdirSync(output)).toEqual([]);
    const asked = { pod_sandbox_id: pod, output_path: output, container_ids: ids };
    expect(await failure(node.client.runtime("CheckpointPod", asked, 500))).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED });
    await expect.poll(() => readdirSync(output), { timeout: 20_000 }).toEqual([]);
    await goesOn(ids);
    criuIs(`exec ${realCriu} "$@"`);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "caisson-full", output]);
    try {
      await refused(grpcStatus.RESOURCE_EXHAUSTED, /No space left|Wrote only/);
    } finally {
      execFileSync("umount", [output]);
    }
    await goesOn(ids);
    await node.removePod(pod);
  });

  it("ends the pod when its helper is killed in the middle, and leaves no files", async () => {
    const { pod, ids, output, ask } = await running("ck-helper");
    criuIs("exec sleep 1000");
    const asked = failure(ask());
    while (!existsSync(join(output, "container-0/checkpoint"))) await new Promise((resolve) => setTimeout(resolve, 2));
    const { info } = await node.client.runtime("ContainerStatus", { container_id: ids[0], verbose: true });
    const { pid } = JSON.parse(info.info);
    const shim = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
    expect(readFileSync(`/proc/${shim}/comm`, "utf8")).toMatch(/^caisson/);
    process.kill(shim, "SIGKILL");
    expect((await asked).details).not.toBe("");
    criuIs(`exec ${realCriu} "$@"`);
    for (const id of ids) expect(await node.exited(id)).toMatchObject({ exit_code: 255, reason: "Unknown" });
    expect(readdirSync(output)).toEqual([]);
    await node.removePod(pod);
  });

  it("is taken away when the daemon is killed in the middle: what lies in the caller's directory, and the freeze", async () => {
    const { pod, ids, output, ask } = await running("ck-daemon");
    const paths = await Promise.all(ids.map(async (id) => (await node.info(id)).cgroupsPath as string));
    const asked = ask().catch(() => "lost");
    while (!existsSync(join(output, "container-1"))) await new Promise((resolve) => setImmediate(resolve));
    writeFileSync(join(output, "of the caller"), "");
    await node.daemon.kill();
    expect(await asked).toBe("lost");
    await expect.poll(() => paths.map(frozen)).toEqual(["THAWED", "THAWED"]);
    await node.daemon.launch();
    expect(readdirSync(output)).toEqual(["of the caller"]);
    await goesOn(ids);
    await node.removePod(pod);
  });

  it("takes back a restore whose CRIU is killed, which runs out of time, or whose helper is killed", async () => {
    const wanted = ["one", "two"].map((name) => node.containerConfig(name, counting));
    const saved = await save("restore-faults", wanted, async (ids) => {
      for (const id of ids) await rises(id);
    });
    const listed = async () => {
      const { items } = await node.client.runtime("ListPodSandbox", {});
      const { containers } = await node.client.runtime("ListContainers", {});
      return [...items, ...containers].map(({ metadata, state }) => `${metadata.name} ${state}`);
    };
    const before = await listed();
    const containers = readdirSync(join(node.daemon.root, "containers"));
    const left = () => expect.poll(listed, { timeout: 20_000 }).toEqual(before);

    criuIs("kill -9 $$");
    expect(await failure(restore("faults", saved))).toMatchObject({
      code: grpcStatus.INTERNAL,
      details: expect.stringMatching(/container [0-9a-f]+: CRIU was killed in the middle/),
    });
    await left();

    criuIs(hanging());
    const killed = failure(restore("faults", saved));
    process.kill(await sleeping(), "SIGKILL");
    expect((await killed).details).toContain("CRIU was killed in the middle");
    await left();

    const helpless = failure(restore("faults", saved));
    const status = readFileSync(`/proc/${await sleeping()}/status`, "utf8");
    process.kill(Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]), "SIGKILL");
    expect((await helpless).details).not.toBe("");
    await left();

    const late = failure(restore("faults", saved, podNetwork, 4000));
    const pid = await sleeping();
    expect(await late).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED });
    await left();
    expect(existsSync(`/proc/${pid}`)).toBe(false);

    expect(readdirSync(join(node.daemon.root, "containers"))).toEqual(containers);
    criuIs(`exec ${realCriu} "$@"`);
    const { pod, ids } = await restore("faults", saved);
    for (const id of ids) await node.start(id);
    for (const id of ids) await rises(id);
    await node.removePod(pod);
  });

  it("takes back a container from an archive whose CRIU or helper is killed, which runs out of time, or whose daemon is killed", async () => {
    const config = node.podConfig("ck-taken-back");
    const pod = await node.runPod(config);
    const first = await node.run(pod, config, node.containerConfig("counter", counting));
    await rises(first);
    const location = join(place, "taken-back.tar");
    await node.client.runtime("CheckpointContainer", { container_id: first, location });
    await node.client.runtime("RemoveContainer", { container_id: first });
    const containers = readdirSync(join(node.daemon.root, "containers"));
    const again = (within = pod, timeoutMs = 60_000) =>
      node.client.runtime(
        "CreateContainer",
        {
          pod_sandbox_id: within,
          config: { ...node.containerConfig("again", counting), image: { image: location } },
          sandbox_config: config,
        },
        timeoutMs,
      );
    const unpacked = join(node.daemon.root, "checkpoints");
    const left = () => [
      ...readdirSync(join(node.daemon.root, "containers")),
      ...(existsSync(unpacked) ? readdirSync(unpacked) : []),
    ];
    const nothing = () => expect.poll(left, { timeout: 20_000 }).toEqual(containers);
    criuIs(hanging());
    const killed = failure(again());
    process.kill(await sleeping(), "SIGKILL");
    expect(await killed).toMatchObject({
      code: grpcStatus.INTERNAL,
      details: expect.stringContaining("CRIU was killed in the middle"),
    });
    await nothing();

    const late = failure(again(pod, 4000));
    const pid = await sleeping();
    expect(await late).toMatchObject({ code: grpcStatus.DEADLINE_EXCEEDED });
    await nothing();
    await expect.poll(() => existsSync(`/proc/${pid}`), { timeout: 20_000 }).toBe(false);

    const helpless = failure(again());
    const status = readFileSync(`/proc/${await sleeping()}/status`, "utf8");
    process.kill(Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]), "SIGKILL");
    expect((await helpless).details).not.toBe("");
    await node.removePod(pod);
    await nothing();

    const other = await node.runPod(config);
    const lost = again(other).catch(() => "lost");
    const orphan = await sleeping();
    await node.daemon.kill();
    expect(await lost).toBe("lost");
    await node.daemon.launch();
    await expect.poll(() => existsSync(`/proc/${orphan}`), { timeout: 20_000 }).toBe(false);
    const { containers: listed } = await node.client.runtime("ListContainers", { filter: { pod_sandbox_id: other } });
    for (const { id, state } of listed) {
      expect(state).toBe("CONTAINER_EXITED");
      await node.client.runtime("RemoveContainer", { container_id: id });
    }
    await nothing();

    criuIs(`exec ${realCriu} "$@"`);
    const { container_id } = await again(other);
    await node.start(container_id);
    await rises(container_id);
    await node.removePod(other);
  });
});
