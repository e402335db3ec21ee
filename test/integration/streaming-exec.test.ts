/** Exec through the streaming server, over SPDY as kubectl, crictl and the kubelet speak it. */
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { parseStatus, RemoteCommandClient, SpdyClient, UpgradeRefused } from "../helpers/spdy-client.ts";

let node: CriNode;
let machine: Inventory;
let podId: string;
let pod: Message;
let container: string;

beforeAll(async () => {
  machine = takeInventory();
  node = await CriNode.start();
  pod = node.podConfig("streaming");
  podId = await node.runPod(pod);
  container = await node.run(podId, pod, node.containerConfig("main", ["/bin/sleep", "1000"]));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(machine);
});

const outputs = { stdout: true, stderr: true };
const urlOf = async (cmd: readonly string[], more: object = outputs): Promise<string> =>
  (await node.client.runtime("Exec", { container_id: container, cmd, ...more })).url;
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const refusal = async (attempt: Promise<unknown>): Promise<UpgradeRefused> => {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UpgradeRefused);
  return error as UpgradeRefused;
};
/** Whether a process with these arguments lives in the container. */
const lives = async (...args: readonly string[]): Promise<boolean> =>
  (await node.exec(container, ["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])).stdout.includes(args.join(" "));
const daemonFds = (): number => readdirSync(`/proc/${node.daemon.pid}/fd`).length;
const shimPid = (): number => Number(JSON.parse(readFileSync(`${node.daemon.state}/pods/${podId}/shim.json`, "utf8")).pid);
const shimFds = (): number => readdirSync(`/proc/${shimPid()}/fd`).length;
/** Of user and system time, a hundred a second. */
const daemonCpuTicks = (): number => {
  const fields = readFileSync(`/proc/${node.daemon.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
};
const rssKb = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
const daemonRssKb = (): number => rssKb(node.daemon.pid);

describe("exec over SPDY", () => {
  it("copies both outputs and reports success", async () => {
    const session = await RemoteCommandClient.open(await urlOf(sh("echo out; echo err >&2")), ["stdout", "stderr"]);
    expect(await session.ending()).toMatchObject({ status: "Success", exitCode: 0 });
    expect(session.of("stdout").text()).toBe("out\n");
    expect(session.of("stderr").text()).toBe("err\n");
    await session.client.closed();
    expect(session.client.goaway?.status).toBe(0);
  });

  it.each([
    ["exit 1", 1],
    ["exit 255", 255],
    ["kill -9 $$", 137],
  ])("reports how %s ended", async (script, exitCode) => {
    const session = await RemoteCommandClient.open(await urlOf(sh(script)), ["stdout", "stderr"]);
    expect(await session.ending()).toMatchObject({ status: "Failure", exitCode });
  });

  it("tells on the error stream that a command cannot be executed", async () => {
    const session = await RemoteCommandClient.open(await urlOf(["/no/such"]), ["stdout", "stderr"]);
    const { status, exitCode, message } = await session.ending();
    expect({ status, exitCode }).toEqual({ status: "Failure", exitCode: -1 });
    expect(message).toContain("/no/such");
    expect(message).toContain("no such file or directory");
  });

  it("ends the command's stdin with the client's, and passes every byte", async () => {
    const url = await urlOf(["/bin/cat"], { stdin: true, stdout: true });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout"]);
    const sent = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 256));
    session.of("stdin").end(sent);
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").bytes().equals(sent)).toBe(true);
  });

  it("goes on when the command does not read what the client sends", async () => {
    const url = await urlOf(sh("exec <&-; echo done"), { stdin: true, stdout: true });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout"]);
    for (let i = 0; i < 64; i++) session.of("stdin").write(Buffer.alloc(16 << 10));
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toBe("done\n");
  });

  it("needs none of the outputs", async () => {
    const url = await urlOf(sh("cat >/dev/null; echo nowhere; echo nowhere >&2; exit 4"), { stdin: true });
    const session = await RemoteCommandClient.open(url, ["stdin"]);
    session.of("stdin").end("x");
    expect(await session.ending()).toMatchObject({ exitCode: 4 });
  });

  it("delivers all output before the status, however much there is", async () => {
    const session = await RemoteCommandClient.open(await urlOf(sh("head -c 10485760 /dev/urandom; head -c 1000 /dev/zero >&2")), [
      "stdout",
      "stderr",
    ]);
    let atStatus = 0;
    void session
      .of("error")
      .ended()
      .then(() => {
        atStatus = session.of("stdout").received;
      });
    session.of("stdout").onData = () => {};
    await session.ending();
    expect(atStatus).toBe(10 << 20);
    expect(session.of("stderr").received).toBe(1000);
  });

  it("does not wait for what a command leaves behind", async () => {
    const session = await RemoteCommandClient.open(await urlOf(sh("echo quick; sleep 4711 &")), ["stdout", "stderr"]);
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toBe("quick\n");
    await node.exec(container, sh("kill $(pidof sleep | tr ' ' '\\n' | sort -n | tail -1) || true"));
  });

  it("echoes pings of the client", async () => {
    const session = await RemoteCommandClient.open(await urlOf(["/bin/cat"], { stdin: true, stdout: true }), ["stdin", "stdout"]);
    await session.client.ping(1);
    await session.client.ping(7);
    await expect.poll(() => session.client.pings).toEqual([1, 7]);
    session.of("stdin").end();
    await session.ending();
  });

  it("starts nothing before all streams are there, in any order, and no stream's data comes before its reply", async () => {
    const client = await SpdyClient.connect(await urlOf(sh("echo out")));
    const stderr = await client.stream({ streamtype: "stderr" });
    const stdout = await client.stream({ streamtype: "stdout" });
    await sleep(200);
    expect(stdout.received).toBe(0);
    const error = await client.stream({ streamtype: "error" });
    expect(parseStatus(await error.ended()).status).toBe("Success");
    expect([stdout.text(), stdout.lost, stderr.lost, error.lost]).toEqual(["out\n", 0, 0, 0]);
  });

  it("refuses streams that the request does not have, and takes no type twice", async () => {
    const client = await SpdyClient.connect(await urlOf(["/bin/true"]));
    for (const type of ["stdin", "resize", "nonsense"]) {
      const stream = await client.stream({ streamtype: type });
      await stream.answered();
      expect(stream.reset, type).toBe(3);
    }
    await (await client.stream({ streamtype: "error" })).answered();
    const twice = await client.stream({ streamtype: "error" });
    await twice.answered();
    expect(twice.reset).toBe(3);
    const old = await client.stream({ streamtype: "stdout" }, 3);
    await old.answered();
    expect(old.reset).toBe(1);
    client.destroy();
  });
});

describe("a terminal", () => {
  const interactive = { tty: true, stdin: true, stdout: true };

  it("has the size that the client told before, and later ones", async () => {
    const url = await urlOf(
      sh("stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"),
      interactive,
    );
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout", "resize"]);
    const resize = (columns: number, rows: number) =>
      session.of("resize").write(JSON.stringify({ Width: columns, Height: rows }));
    await expect.poll(() => session.of("stdout").text()).toContain("ready");
    resize(0, 7);
    session.of("resize").write('{"Width":132,');
    session.of("resize").write('"Height":50}\n');
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toMatch(/50 132\r\n$/);
  });

  it("is one: keys are echoed, programs find it, interrupts reach the command", async () => {
    const session = await RemoteCommandClient.open(
      await urlOf(sh("tty; echo $TERM; trap 'echo interrupted; exit 3' INT; read x; echo got $x; sleep 100"), interactive),
      ["stdin", "stdout", "resize"],
    );
    await expect.poll(() => session.of("stdout").text()).toContain("xterm");
    session.of("stdin").write("typed\r");
    await expect.poll(() => session.of("stdout").text()).toContain("got typed");
    session.of("stdin").write("\x03");
    expect(await session.ending()).toMatchObject({ exitCode: 3 });
    expect(session.of("stdout").text()).toMatch(/^\/dev\/pts\/\d+\r\nxterm\r\ntyped\r\ngot typed\r\n\^C.*interrupted\r\n$/s);
  });

  it("does not swallow what was written last", async () => {
    for (let round = 0; round < 5; round++) {
      const url = await urlOf(sh("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"), { tty: true, stdout: true });
      const session = await RemoteCommandClient.open(url, ["stdout", "resize"]);
      await session.ending();
      expect(session.of("stdout").text().endsWith("line 1999\r\n")).toBe(true);
    }
  });
});

describe("negotiation", () => {
  it.each([
    [["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"], "v4.channel.k8s.io"],
    [["v9.channel.k8s.io", "V3.channel.k8s.io", "v4.channel.k8s.io"], "v3.channel.k8s.io"],
  ])("takes the first of %j that it speaks", async (protocols, chosen) => {
    const client = await SpdyClient.connect(await urlOf(["/bin/true"]), { protocols });
    expect(client.protocol).toBe(chosen);
    client.destroy();
  });

  it.each(["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])(
    "says in %s what went wrong as text, and else nothing",
    async (protocol) => {
      const failed = await RemoteCommandClient.open(await urlOf(sh("exit 3")), ["stdout", "stderr"], { protocols: [protocol] });
      expect(await failed.of("error").ended()).toContain("exit code 3");
      const fine = await RemoteCommandClient.open(await urlOf(sh("exit 0")), ["stdout", "stderr"], { protocols: [protocol] });
      expect(await fine.of("error").ended()).toBe("");
    },
  );

  it("answers 403 with what it speaks, 400 without a protocol, 404 without a token of that kind", async () => {
    const strange = await refusal(SpdyClient.connect(await urlOf(["/bin/true"]), { protocols: ["v5.channel.k8s.io"] }));
    expect(strange.status).toBe(403);
    expect(strange.headers["x-accepted-stream-protocol-versions"]).toContain("v4.channel.k8s.io");
    expect((await refusal(SpdyClient.connect(await urlOf(["/bin/true"]), { protocols: [] }))).status).toBe(400);
    expect((await refusal(SpdyClient.connect((await urlOf(["/bin/true"])).replace("/exec/", "/attach/")))).status).toBe(404);
    expect((await refusal(SpdyClient.connect((await urlOf(["/bin/true"])).replace(/.$/, "")))).status).toBe(404);
    expect((await fetch(await urlOf(["/bin/true"]))).status).toBe(400);
  });

  it("takes GET as well as POST, and bytes that come with the request's head", async () => {
    const session = await RemoteCommandClient.open(await urlOf(["/bin/true"]), ["stdout", "stderr"], { method: "GET" });
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    const ping = "\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x05";
    const url = new URL(await urlOf(["/bin/true"]));
    const socket = connect(Number(url.port), url.hostname);
    const head = ["Host: localhost", "Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];
    socket.write(`POST ${url.pathname} HTTP/1.1\r\n${head.join("\r\n")}\r\n\r\n${ping}`, "latin1");
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk.toString("latin1");
    });
    await expect.poll(() => answer.endsWith(`\r\n\r\n${ping}`)).toBe(true);
    expect(answer).toMatch(/^HTTP\/1\.1 101 /);
    socket.destroy();
  });

  it("gives out absolute URLs with a token that is good once", async () => {
    const url = await urlOf(["/bin/true"]);
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/exec\/[\w-]{22,}$/);
    (await SpdyClient.connect(url)).destroy();
    expect((await refusal(SpdyClient.connect(url))).status).toBe(404);
    expect(node.daemon.log()).not.toContain(url.slice(url.lastIndexOf("/") + 1));
  });
});

describe("requests", () => {
  it.each([
    ["an empty id", { container_id: "", cmd: ["true"], stdout: true }, "INVALID_ARGUMENT", /names no container/],
    ["a terminal with stderr", { cmd: ["true"], tty: true, stdout: true, stderr: true }, "INVALID_ARGUMENT", /tty and stderr/],
    ["no stream", { cmd: ["true"] }, "INVALID_ARGUMENT", /stdin, stdout and stderr/],
    ["no command", { cmd: [], stdout: true }, "INVALID_ARGUMENT", /no command/],
    ["an unknown container", { container_id: "f".repeat(64), cmd: ["true"], stdout: true }, "NOT_FOUND", /does not exist/],
  ] as const)("with %s are refused", async (_what, request, code, text) => {
    const { code: got, details } = await failure(node.client.runtime("Exec", { container_id: container, ...request }));
    expect(got).toBe(grpcStatus[code]);
    expect(details).toMatch(text);
  });

  it("for a container that does not run are refused, also when it has ended since", async () => {
    const created = await node.create(podId, pod, node.containerConfig("parked", ["/bin/sleep", "1000"]));
    const request = { container_id: created, cmd: ["true"], ...outputs };
    expect(await failure(node.client.runtime("Exec", request))).toMatchObject({ code: grpcStatus.FAILED_PRECONDITION });
    await node.start(created);
    const { url } = await node.client.runtime("Exec", request);
    await node.client.runtime("StopContainer", { container_id: created, timeout: 0 });
    const session = await RemoteCommandClient.open(url, ["stdout", "stderr"]);
    expect((await session.ending()).message).toContain("not running");
  });
});

describe("clients that go away", () => {
  it("leave their command to its own end: its input ends, its output is dropped", async () => {
    const script =
      "echo up; cat >/dev/null; dd if=/dev/zero bs=65536 count=32 2>/dev/null; echo err >&2; echo survived > /tmp/fate";
    const url = await urlOf(sh(script), { stdin: true, stdout: true, stderr: true });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout", "stderr"]);
    session.of("stdin").write("x");
    await expect.poll(() => session.of("stdout").text()).toBe("up\n");
    session.client.destroy();
    await expect
      .poll(async () => (await node.exec(container, sh("cat /tmp/fate"))).stdout, { timeout: 20_000 })
      .toBe("survived\n");
  });

  it("leave a command on a terminal alone", async () => {
    const before = daemonFds();
    const script = "echo up; while [ ! -e /tmp/go ]; do echo line; sleep 0.05; done; echo over > /tmp/terminal-fate";
    const session = await RemoteCommandClient.open(await urlOf(sh(script), { tty: true, stdin: true, stdout: true }), [
      "stdin",
      "stdout",
      "resize",
    ]);
    await expect.poll(() => session.of("stdout").text()).toContain("up");
    session.client.destroy();
    await sleep(200);
    await node.exec(container, sh("touch /tmp/go"));
    await expect.poll(async () => (await node.exec(container, sh("cat /tmp/terminal-fate"))).stdout).toBe("over\n");
    await expect.poll(daemonFds).toBeLessThanOrEqual(before);
    expect((await node.exec(container, sh("ls /dev/pts"))).stdout.trim()).toBe("ptmx");
  });

  it("do not keep the daemon busy with output that nobody gets", async () => {
    const url = await urlOf(sh("exec -a flood yes"), { stdout: true });
    const session = await RemoteCommandClient.open(url, ["stdout"]);
    await expect.poll(() => session.of("stdout").received).toBeGreaterThan(1 << 20);
    session.client.destroy();
    await expect.poll(async () => await lives("flood")).toBe(true);
    const before = daemonCpuTicks();
    await sleep(1000);
    const busy = (daemonCpuTicks() - before) / 100;
    await node.exec(container, sh("kill $(pidof yes flood)"));
    expect(busy).toBeLessThan(0.5);
  });

  it("leave nothing in the daemon and its helper, a hundred times", async () => {
    const before = { daemon: daemonFds(), shim: shimFds() };
    for (let round = 0; round < 10; round++) {
      await Promise.all(
        Array.from({ length: 10 }, async (_, i) => {
          const tty = i % 2 === 0;
          const url = await urlOf(sh("read marker; echo $marker; read y"), { tty, stdin: true, stdout: true });
          const session = await RemoteCommandClient.open(url, ["stdin", "stdout", ...(tty ? ["resize"] : [])]);
          session.of("stdin").write("x\n");
          await expect.poll(() => session.of("stdout").text()).toContain("x");
          // A terminal has no end of its own.
          if (tty) session.of("stdin").write("y\n");
          session.client.destroy();
        }),
      );
    }
    await expect.poll(async () => await lives("marker"), { timeout: 20_000 }).toBe(false);
    await expect
      .poll(() => [daemonFds() <= before.daemon + 2, shimFds() <= before.shim], { timeout: 10_000 })
      .toEqual([true, true]);
  });
});

describe("load", () => {
  it("carries a hundred sessions at once", async () => {
    const endings = await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const url = await urlOf(["/bin/cat"], { stdin: true, stdout: true });
        const session = await RemoteCommandClient.open(url, ["stdin", "stdout"]);
        session.of("stdin").end(`${i} `.repeat(5000));
        const { exitCode } = await session.ending();
        return exitCode === 0 && session.of("stdout").text() === `${i} `.repeat(5000);
      }),
    );
    expect(endings.filter((fine) => fine).length).toBe(100);
  });

  it("carries 1 GiB without loss", { timeout: 300_000 }, async () => {
    // A prime number of random bytes again and again: whatever is lost, doubled or exchanged shifts all that follows.
    const block = randomBytes(999_983);
    const [blocks, each] = [1074, 100];
    const filler = await RemoteCommandClient.open(await urlOf(sh("cat > /tmp/block"), { stdin: true }), ["stdin"]);
    filler.of("stdin").end(block);
    await filler.ending();
    const names = "/tmp/block ".repeat(each);
    const script = `i=0; while [ $i -lt ${Math.floor(blocks / each)} ]; do cat ${names}; i=$((i+1)); done; cat ${"/tmp/block ".repeat(blocks % each)}`;
    const session = await RemoteCommandClient.open(await urlOf(sh(script), { stdout: true }), ["stdout"]);
    const stdout = session.of("stdout");
    let different = 0;
    stdout.onData = (chunk) => {
      for (let at = 0; at < chunk.length; ) {
        const from = (stdout.received - chunk.length + at) % block.length;
        const size = Math.min(chunk.length - at, block.length - from);
        if (chunk.compare(block, from, from + size, at, at + size) !== 0) different++;
        at += size;
      }
    };
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect({ received: stdout.received, different }).toEqual({ received: blocks * block.length, different: 0 });
    expect(stdout.received).toBeGreaterThan(2 ** 30);
  });

  it("does not grow the daemon or the helper when a client does not read", async () => {
    const session = await RemoteCommandClient.open(await urlOf(["/bin/yes"], { stdout: true }), ["stdout"]);
    session.of("stdout").onData = () => {};
    await expect.poll(() => session.of("stdout").received).toBeGreaterThan(8 << 20);
    session.client.socket.pause();
    await sleep(300);
    const before = [daemonRssKb(), rssKb(shimPid())] as const;
    await sleep(1500);
    expect(daemonRssKb()).toBeLessThan(before[0] + 32 * 1024);
    expect(rssKb(shimPid())).toBeLessThanOrEqual(before[1] + 64);
    const received = session.of("stdout").received;
    session.client.socket.resume();
    await expect.poll(() => session.of("stdout").received).toBeGreaterThan(received + (8 << 20));
    await node.exec(container, sh("kill $(pidof yes)"));
    expect(await session.ending()).toMatchObject({ exitCode: 143 });
  });

  it("takes input at the pace of the command", async () => {
    const url = await urlOf(sh("sleep 2; wc -c"), { stdin: true, stdout: true });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout"]);
    const rss = daemonRssKb();
    const chunk = Buffer.alloc(256 << 10);
    for (let i = 0; i < 256; i++) session.of("stdin").write(chunk);
    session.of("stdin").end();
    await sleep(1500);
    expect(daemonRssKb()).toBeLessThan(rss + 32 * 1024);
    await session.ending();
    expect(session.of("stdout").text().trim()).toBe(String(64 << 20));
  });
});
