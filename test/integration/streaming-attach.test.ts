/** Attach through the streaming server: clients joined to the stdio of a container's own process. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { RemoteCommandClient } from "../helpers/spdy-client.ts";

let node: CriNode;
let machine: Inventory;
let podId: string;
let pod: Message;
let names = 0;

beforeAll(async () => {
  machine = takeInventory();
  node = await CriNode.start();
  pod = node.podConfig("attach");
  podId = await node.runPod(pod);
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(machine);
});

const outputs = { stdout: true, stderr: true };
const everything = { stdin: true, ...outputs };
const interactive = { tty: true, stdin: true, stdout: true };
const run = async (script: string, more: object = {}): Promise<{ id: string; name: string }> => {
  const name = `c${++names}`;
  return { id: await node.run(podId, pod, node.containerConfig(name, ["/bin/sh", "-c", script], more)), name };
};
const attach = async (id: string, wanted: Readonly<Record<string, boolean>> = outputs): Promise<RemoteCommandClient> => {
  const { url } = await node.client.runtime("Attach", { container_id: id, ...wanted });
  const { tty, ...streams } = wanted;
  const types = [...Object.keys(streams), ...(tty === true ? ["resize"] : [])];
  return await RemoteCommandClient.open(url, types);
};
const stop = async (id: string): Promise<void> => {
  await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
};
const textOf = (session: RemoteCommandClient, type = "stdout") => expect.poll(() => session.of(type).text());
const shimPid = (): number => Number(JSON.parse(readFileSync(`${node.daemon.state}/pods/${podId}/shim.json`, "utf8")).pid);
const fdsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
const rssKb = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
/** Output comes to a client once the container's helper has its pipes; `ticking` scripts show when. */
const joined = async (...sessions: readonly RemoteCommandClient[]): Promise<void> => {
  for (const session of sessions) await expect.poll(() => session.of("stdout").text()).toContain("tick");
};
const ticking = "while [ ! -e /go ]; do echo tick; sleep 0.02; done; echo; echo go; ";
const afterTicks = (session: RemoteCommandClient): string => session.of("stdout").text().split("\ngo\n")[1] ?? "";
const go = async (id: string): Promise<void> => void (await node.exec(id, ["/bin/touch", "/go"]));
const echoLines = "while read line; do echo out $line; echo err $line >&2; done";

describe("attach", () => {
  it("joins a client to a container that runs: its input, both its outputs, what it says from then on", async () => {
    const { id, name } = await run(`echo before; ${echoLines}`, { stdin: true });
    await expect.poll(() => node.log("attach", name)).toContain("before");
    const session = await attach(id, everything);
    session.of("stdin").write("one\n");
    await textOf(session).toBe("out one\n");
    await textOf(session, "stderr").toBe("err one\n");
    expect(node.log("attach", name)).toContain("stdout F out one\n");
    session.client.destroy();
    await stop(id);
  });

  it("leaves the container's input open when a client's has ended, for the next one", async () => {
    const { id } = await run(echoLines, { stdin: true });
    const first = await attach(id, everything);
    first.of("stdin").end("first\n");
    await textOf(first).toBe("out first\n");
    const second = await attach(id, everything);
    second.of("stdin").write("second\n");
    await textOf(second).toBe("out second\n");
    await textOf(first).toBe("out first\nout second\n");
    second.client.destroy();
    const third = await attach(id, everything);
    third.of("stdin").write("third\n");
    await textOf(third).toBe("out third\n");
    for (const session of [first, third]) session.client.destroy();
    await stop(id);
  });

  it("ends the container's input for good with the first client's where stdin_once says so", async () => {
    const { id } = await run("cat; exit 3", { stdin: true, stdin_once: true });
    const session = await attach(id, everything);
    const sent = Buffer.alloc(300_000, "abc\n");
    session.of("stdin").end(sent);
    expect(await session.ending()).toMatchObject({ status: "Success" });
    expect(session.of("stdout").bytes().equals(sent)).toBe(true);
    expect(await node.exited(id)).toMatchObject({ exit_code: 3 });
  });

  it("does the same when that client vanishes", async () => {
    const { id } = await run("echo up >&2; cat; exit 4", { stdin: true, stdin_once: true });
    const session = await attach(id, everything);
    session.of("stdin").write("x\n");
    await textOf(session).toBe("x\n");
    session.client.destroy();
    expect(await node.exited(id)).toMatchObject({ exit_code: 4 });
  });

  it("drops input for a container that takes none", async () => {
    const { id } = await run(`cat; ${ticking}sleep 1000`);
    const session = await attach(id, everything);
    await joined(session);
    for (let i = 0; i < 64; i++) session.of("stdin").write(Buffer.alloc(16 << 10));
    session.of("stdin").end();
    await go(id);
    await textOf(session).toContain("\ngo\n");
    session.client.destroy();
    await stop(id);
  });

  it("ends with the client's input when no output was asked for", async () => {
    const { id, name } = await run(echoLines, { stdin: true });
    const session = await attach(id, { stdin: true });
    session.of("stdin").end("quiet\n");
    expect(await session.ending()).toMatchObject({ status: "Success" });
    await expect.poll(() => node.log("attach", name)).toContain("out quiet");
    await stop(id);
  });

  it("gives every client a copy, and one that leaves takes nothing from the others", async () => {
    const { id } = await run(`${ticking}i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done`);
    const sessions = await Promise.all(Array.from({ length: 8 }, () => attach(id)));
    await joined(...sessions);
    sessions.pop()?.client.destroy();
    await go(id);
    const expected = Array.from({ length: 500 }, (_, i) => `line ${i}\n`).join("");
    for (const session of sessions) {
      expect(await session.ending()).toMatchObject({ status: "Success" });
      expect(afterTicks(session)).toBe(expected);
    }
  });

  it("refuses more clients than the helper serves, and takes new ones when others have left", async () => {
    const { id } = await run(`${ticking}sleep 1000`);
    const sessions: RemoteCommandClient[] = [];
    for (let i = 0; i < 16; i++) sessions.push(await attach(id));
    await joined(...sessions);
    const { message } = await (await attach(id)).ending();
    expect(message).toContain("as many attached clients as it can have");
    for (const session of sessions) session.client.destroy();
    const later = await attach(id);
    await joined(later);
    later.client.destroy();
    await stop(id);
  });

  it.each([0, 7, 137])("ends with success when the container has ended, with whatever code (%i)", async (code) => {
    const { id } = await run(code === 137 ? "read x; kill -9 $$" : `read x; echo bye; exit ${code}`, { stdin: true });
    const session = await attach(id, everything);
    session.of("stdin").write("go\n");
    expect(await session.ending()).toMatchObject({ status: "Success", message: "" });
    await session.client.closed();
  });

  it("passes what a container says last, however short it lives on", async () => {
    for (let round = 0; round < 10; round++) {
      const { id } = await run("read x; i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done", { stdin: true });
      const session = await attach(id, everything);
      session.of("stdin").write("go\n");
      expect(await session.ending()).toMatchObject({ status: "Success" });
      expect(session.of("stdout").text().endsWith("line 199\n")).toBe(true);
    }
  });

  it("carries much without loss to clients that read, also where they are slower than the container", async () => {
    const { id } = await run(`${ticking}dd if=/dev/zero bs=65536 count=512 2>/dev/null`);
    const sessions = [await attach(id), await attach(id)] as const;
    await joined(...sessions);
    const zeros = sessions.map((session) => {
      const count = { bytes: 0 };
      session.of("stdout").onData = (chunk) => {
        const first = chunk.indexOf(0);
        if (first >= 0) count.bytes += chunk.length - first;
      };
      return count;
    });
    const slow = sessions[1].client.socket;
    const breaks = setInterval(() => {
      slow.pause();
      setTimeout(() => slow.resume(), 50);
    }, 100);
    await go(id);
    for (const session of sessions) expect(await session.ending()).toMatchObject({ status: "Success" });
    clearInterval(breaks);
    expect(zeros.map(({ bytes }) => bytes)).toEqual([512 * 65_536, 512 * 65_536]);
  });
});

describe("a terminal", () => {
  it("is the container's own: echo, size, interrupt", async () => {
    const script =
      "trap 'stty size' WINCH; trap 'echo interrupted; exit 5' INT; echo up; while :; do read x && echo got $x; done";
    const { id } = await run(script, { tty: true, stdin: true });
    const session = await attach(id, interactive);
    session.of("stdin").write("word\r");
    await textOf(session).toContain("got word\r\n");
    session.of("resize").write('{"Width":111,"Height":33}');
    await expect.poll(async () => (await node.exec(id, ["/bin/sh", "-c", "stty size < /proc/1/fd/0"])).stdout).toBe("33 111\n");
    session.of("stdin").write("\x03");
    expect(await session.ending()).toMatchObject({ status: "Success" });
    expect(session.of("stdout").text()).toContain("interrupted\r\n");
    expect(await node.exited(id)).toMatchObject({ exit_code: 5 });
  });

  it("stays when its client leaves, also with stdin_once", async () => {
    const { id } = await run("while read x; do echo got $x; done", { tty: true, stdin: true, stdin_once: true });
    const first = await attach(id, interactive);
    first.of("stdin").write("one\r");
    await textOf(first).toContain("got one");
    first.client.destroy();
    await sleep(100);
    expect(await node.status(id)).toMatchObject({ state: "CONTAINER_RUNNING" });
    await stop(id);
  });
});

describe("a client that does not read", () => {
  it("is cut off after a while and told so; container, log and other clients go on, and nothing grows", async () => {
    const script = "dd if=/dev/zero bs=65536 count=1600 2>/dev/null; echo done >&2; sleep 1000";
    const { id, name } = await run(ticking + script);
    const [stuck, fast] = [await attach(id), await attach(id)];
    await joined(stuck, fast);
    for (const session of [stuck, fast]) session.of("stdout").onData = () => {};
    stuck.client.socket.pause();
    const before = { daemon: rssKb(node.daemon.pid), helper: rssKb(shimPid()) };
    await go(id);
    await expect.poll(() => fast.of("stderr").text(), { timeout: 20_000 }).toBe("done\n");
    expect(rssKb(node.daemon.pid)).toBeLessThan(before.daemon + 64 * 1024);
    expect(rssKb(shimPid())).toBeLessThan(before.helper + 128);
    stuck.client.socket.resume();
    const { status, message } = await stuck.ending();
    expect({ status, message }).toEqual({ status: "Failure", message: expect.stringContaining("did not read and was cut off") });
    expect(stuck.of("stdout").received).toBeLessThan(1600 * 65_536);
    expect(fast.of("stdout").received).toBeGreaterThan(1600 * 65_536);
    expect(node.log("attach", name)).toContain("stderr F done");
    fast.client.destroy();
    await stop(id);
  });
});

describe("clients that vanish", () => {
  it("leave nothing in the daemon, and no more than one place in the helper", async () => {
    const { id } = await run("cat", { stdin: true });
    const cycle = async (): Promise<void> => {
      const session = await attach(id, everything);
      session.of("stdin").write("x\n");
      await textOf(session).toContain("x\n");
      session.client.destroy();
    };
    await cycle();
    const before = { daemon: fdsOf(node.daemon.pid), helper: fdsOf(shimPid()) };
    for (let round = 0; round < 30; round++) await cycle();
    await expect.poll(() => fdsOf(node.daemon.pid)).toBeLessThanOrEqual(before.daemon + 2);
    expect(fdsOf(shimPid())).toBeLessThanOrEqual(before.helper + 4);
    await stop(id);
  });
});

describe("requests", () => {
  it("for what does not run are refused with the state's code", async () => {
    const created = await node.create(podId, pod, node.containerConfig(`c${++names}`, ["/bin/sleep", "1000"]));
    const request = { container_id: created, ...outputs };
    expect(await failure(node.client.runtime("Attach", request))).toMatchObject({ code: grpcStatus.FAILED_PRECONDITION });
    await node.start(created);
    const { url } = await node.client.runtime("Attach", request);
    await stop(created);
    const late = await RemoteCommandClient.open(url, ["stdout", "stderr"]);
    expect(await late.ending()).toMatchObject({ status: "Failure", message: expect.stringContaining("exited, not running") });
    expect(await failure(node.client.runtime("Attach", request))).toMatchObject({
      code: grpcStatus.FAILED_PRECONDITION,
      details: expect.stringContaining("exited"),
    });
    expect(await failure(node.client.runtime("Attach", { container_id: "f".repeat(64), stdout: true }))).toMatchObject({
      code: grpcStatus.NOT_FOUND,
    });
    for (const wrong of [{}, { tty: true, stdout: true, stderr: true }]) {
      const answer = await failure(node.client.runtime("Attach", { container_id: created, ...wrong }));
      expect(answer.code).toBe(grpcStatus.INVALID_ARGUMENT);
    }
  });
});

describe("a daemon that restarts", () => {
  it.each(["SIGKILL", "SIGTERM"] as const)("by %s leaves the container as it is, for clients to attach again", async (signal) => {
    const { id, name } = await run(echoLines, { stdin: true });
    const before = await attach(id, everything);
    before.of("stdin").write("one\n");
    await textOf(before).toBe("out one\n");
    await node.daemon.kill(signal);
    await before.client.closed();
    await node.daemon.launch();
    const after = await attach(id, everything);
    after.of("stdin").write("two\n");
    await textOf(after).toBe("out two\n");
    expect(node.log("attach", name)).toContain("stdout F out one\n");
    after.client.destroy();
    await stop(id);
  });
});
