import { closeSync, openSync, readlinkSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Plan } from "../../../../src/core/plan.ts";
import { opSchemas } from "../../../../src/core/plan-schema.ts";
import { ShimClient } from "../../../../src/core/shim/client.ts";
import { inlineLimit, messageSchemas, unknownStatus } from "../../../../src/core/shim/messages.ts";
import type { CreateRequest } from "../../../../src/core/shim/requests.ts";
import { readWaitStatus } from "../../../../src/core/shim/wait-status.ts";
import { RuntimeError } from "../../../../src/lib/errors.ts";
import { FakeShim, podId } from "../../../helpers/fake-shim.ts";
import { openDescriptors } from "../../../helpers/open-descriptors.ts";

let fake: FakeShim;
beforeEach(async () => {
  fake = await FakeShim.start();
});
afterEach(() => fake[Symbol.asyncDispose]());

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));
const plan: Plan = [{ op: "clean-start" }, { op: "exec", path: "/bin/true", args: ["true"], env: [] }];
const exit = { id: "c1", pid: 7, status: 256, atNs: 5n, startedAtNs: 4n, oomKilled: 0, logDroppedBytes: 0n };
const create: CreateRequest = {
  id: "c1",
  plan,
  flags: 0,
  cloneKinds: 0,
  cgroup: "",
  killPaths: [],
  oomPath: "",
  logPath: "",
  logLineBytes: 16384,
  deadlineMs: 1000,
};

describe("connecting to a shim", () => {
  it("learns who it is and what it knows", async () => {
    const shim = await fake.connect();
    expect(shim).toMatchObject({ podId, build: "fake", protocol: 2, process: { pid: fake.peer.pid } });
    expect(shim.knowsOp("exec")).toBe(true);
    shim.disconnect();
  });

  it("refuses a protocol out of range, with both ranges", async () => {
    fake.hello = { protocol: 9, minProtocol: 9, maxProtocol: 11 };
    await expect(fake.connect()).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringMatching(/speaks protocols 9 to 11, this daemon 1 to 2/),
    });
  });

  it("refuses another pod's shim, another process and a recycled pid", async () => {
    fake.hello = { podId: "cd".repeat(32) };
    await expect(fake.connect()).rejects.toThrow(/the shim of pod cdcd.* listens on its socket/);
    fake.hello = {};
    await expect(fake.connect({ expected: { pid: fake.peer.pid, startTicks: 1n } })).rejects.toThrow(/cannot be trusted/);
    fake.hello = { pid: 1 };
    await expect(fake.connect()).rejects.toThrow(/listens on its socket/);
    fake.hello = { startTicks: 3n };
    await expect(fake.connect()).rejects.toThrow(/is not the one that it says/);
    expect(fake.lost).toEqual([]);
  });

  it("is unavailable where nobody listens, with the kernel's reason", async () => {
    await expect(fake.connect({ runDir: "/tmp/caisson-nowhere" })).rejects.toMatchObject({
      code: "unavailable",
      fields: { errno: 2 },
    });
    await expect(fake.connect({ runDir: "/tmp" })).rejects.toMatchObject({ code: "unavailable", fields: { errno: 2 } });
  });

  it("gets the exits that nobody acknowledged after the caller has its shim", async () => {
    const connecting = fake.connect();
    connecting.then(() => expect(fake.exits).toEqual([]));
    fake.onRequest = () => {};
    const shim = await connecting;
    fake.reply(0, "exit", exit);
    while (fake.exits.length === 0) await turn();
    expect(fake.exits).toEqual([exit]);
    shim.disconnect();
  });

  it("leaves no descriptor, connected or refused", async () => {
    const before = openDescriptors();
    const shim = await fake.connect();
    shim.disconnect();
    fake.hello = { podId: "x" };
    await fake.connect().catch(() => {});
    expect(openDescriptors()).toEqual(before);
  });
});

describe("requests", () => {
  it("match answers that come in another order, with their descriptors", async () => {
    const before = openDescriptors();
    const shim = await fake.connect();
    const run = (what: string) => shim.run({ plan, cloneKinds: 0, deadlineMs: 1000, what });
    const first = run("first");
    const second = run("second");
    const one = await fake.next("run");
    const two = await fake.next("run");
    fake.reply(two.id, "ok", { value: 2n }, ["/etc/passwd"]);
    fake.reply(one.id, "ok", { value: 1n }, ["/etc/group", "/etc/hosts"]);
    const [a, b] = await Promise.all([first, second]);
    expect([a.exitCode, b.exitCode]).toEqual([1, 2]);
    expect(a.fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`))).toEqual(["/etc/group", "/etc/hosts"]);
    expect(b.fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`))).toEqual(["/etc/passwd"]);
    for (const fd of [...a.fds, ...b.fds]) closeSync(fd);
    shim.disconnect();
    expect(openDescriptors()).toEqual(before);
  });

  it("send a large plan and the lent descriptors, and close only what is their own", async () => {
    const shim = await fake.connect();
    const lent = openSync("/etc/hostname", "r");
    const before = openDescriptors();
    const large: Plan = [{ op: "exec", path: "/x", args: ["y".repeat(inlineLimit)], env: [] }];
    const running = shim.run({ plan: large, cloneKinds: 0, deadlineMs: 1000, what: "large", fds: [lent] });
    const request = await fake.next("run");
    expect(request.links).toEqual(["/etc/hostname"]);
    expect(request.name === "run" && request.record.plan.length).toBeGreaterThan(inlineLimit);
    fake.reply(request.id, "ok", { value: 0n });
    await running;
    expect(openDescriptors()).toEqual(before);
    closeSync(lent);
    shim.disconnect();
  });

  it("close what comes with an answer that nobody waits for any more", async () => {
    const shim = await fake.connect();
    const before = openDescriptors();
    const abort = new AbortController();
    const running = shim.run({ plan, cloneKinds: 0, deadlineMs: 1000, what: "namespaces", signal: abort.signal });
    const request = await fake.next("run");
    abort.abort();
    await expect(running).rejects.toMatchObject({ code: "canceled", message: "namespaces: canceled" });
    fake.reply(request.id, "ok", { value: 0n }, ["/etc/passwd", "/etc/group"]);
    fake.reply(4711, "ok", { value: 0n }, ["/etc/passwd"]);
    fake.reply(0, "exit", exit, ["/etc/passwd"]);
    while (fake.exits.length === 0) await turn();
    expect(openDescriptors()).toEqual(before);
    shim.disconnect();
  });

  it("end by their deadline and by the caller's signal", async () => {
    const shim = await fake.connect();
    const late = AbortSignal.timeout(30);
    await expect(shim.run({ plan, cloneKinds: 0, deadlineMs: 60_000, what: "x", signal: late })).rejects.toMatchObject({
      code: "deadline_exceeded",
    });
    await expect(shim.reopenLog("c1", AbortSignal.abort(new RuntimeError("aborted", "stopping")))).rejects.toMatchObject({
      code: "aborted",
    });
    shim.disconnect();
    const directory = openSync(fake.peer.directory, "r");
    const client = new ShimClient(podId, directory, "shim.sock", { onEvent: () => {}, onLost: () => {} });
    closeSync(directory);
    await expect(client.request({ name: "list", record: {}, what: "x", deadlineMs: 20 })).rejects.toMatchObject({
      code: "deadline_exceeded",
      message: "x: the shim did not answer list in 20 ms",
    });
    client.close();
  });

  it("are refused before they are sent when the shim is too old for them", async () => {
    fake.hello = {
      ops: Object.entries(opSchemas).flatMap(([name, op]) => (name === "keyring" ? [] : [op.code])),
      messages: Object.entries(messageSchemas).flatMap(([name, message]) => (name === "resize" ? [] : [message.type])),
    };
    const shim = await fake.connect();
    const withKeyring: Plan = [{ op: "keyring", name: "_ses" }, ...plan];
    await expect(shim.create({ ...create, plan: withKeyring })).rejects.toMatchObject({
      code: "failed_precondition",
      message: `the shim of pod ${podId} (build fake) does not know the operation keyring; recreate the pod`,
    });
    await expect(shim.resize("c1", "", 1, 1)).rejects.toThrow(/does not know the request resize/);
    expect(fake.received).toEqual([]);
    shim.disconnect();
  });

  it("that the shim answers with something else fail, and the connection goes on", async () => {
    const shim = await fake.connect();
    const before = openDescriptors();
    const starting = shim.start("c1");
    fake.reply((await fake.next("start")).id, "ok", { value: 0n }, ["/etc/passwd"]);
    await expect(starting).rejects.toThrow(/answered start with ok, expected started/);
    expect(openDescriptors()).toEqual(before);
    const listing = shim.list();
    const { id } = await fake.next("list");
    const state = {
      id: "c1",
      phase: 4,
      pid: 9,
      startTicks: 1n,
      startedAtNs: 2n,
      status: 0,
      exitedAtNs: 0n,
      oomKilled: 0,
      logDroppedBytes: 0n,
    };
    fake.reply(id, "container-state", state);
    fake.reply(id, "container-state", { ...state, id: "c2" });
    fake.reply(id, "ok", { value: 0n });
    expect((await listing).map((container) => container.id)).toEqual(["c1", "c2"]);
    shim.disconnect();
  });

  it("queue in order while the shim does not read, and can be taken back meanwhile", async () => {
    const shim = await fake.connect();
    const before = openDescriptors();
    fake.peer.pause();
    const abort = new AbortController();
    const large: Plan = [{ op: "exec", path: "/x", args: ["y".repeat(30_000)], env: [] }];
    const run = (what: string, signal?: AbortSignal) =>
      shim.run({ plan: large, cloneKinds: 0, deadlineMs: 20_000, what, signal });
    const kept = Array.from({ length: 20 }, (_, i) => run(`${i}`));
    const taken = run("taken back", abort.signal);
    const last = run("last");
    abort.abort();
    await expect(taken).rejects.toMatchObject({ code: "canceled" });
    const ids: number[] = [];
    fake.onRequest = (request) => {
      ids.push(request.id);
      fake.reply(request.id, "ok", { value: 0n });
    };
    fake.peer.resume();
    await Promise.all([...kept, last]);
    expect(ids).toEqual(ids.toSorted((a, b) => a - b));
    expect(ids.length).toBe(21);
    expect(openDescriptors()).toEqual(before);
    shim.disconnect();
  });
});

describe("create", () => {
  it("meets its barriers in order and goes on when they are done", async () => {
    const shim = await fake.connect();
    const met: [number, number][] = [];
    const created = shim.create({
      ...create,
      onBarrier: async (number, pid) => {
        met.push([number, pid]);
        await turn();
      },
    });
    const { id } = await fake.next("create");
    fake.reply(id, "barrier", { pid: 70, number: 1 });
    expect(await fake.next("continue")).toMatchObject({ id, record: { number: 1 } });
    fake.reply(id, "barrier", { pid: 71, number: 2 });
    expect(await fake.next("continue")).toMatchObject({ id, record: { number: 2 } });
    fake.reply(id, "created", { pid: 71, startTicks: 3n });
    expect(await created).toEqual({ pid: 71, startTicks: 3n });
    expect(met).toEqual([
      [1, 70],
      [2, 71],
    ]);
    shim.disconnect();
  });

  it("takes the child back when a barrier fails, or comes unexpected", async () => {
    const shim = await fake.connect();
    const failing = shim.create({ ...create, onBarrier: () => Promise.reject(new RuntimeError("internal", "no id map")) });
    fake.reply((await fake.next("create")).id, "barrier", { pid: 70, number: 1 });
    await expect(failing).rejects.toThrow("no id map");
    expect(await fake.next("forget")).toMatchObject({ record: { id: "c1" } });
    const surprised = shim.create(create);
    fake.reply((await fake.next("create")).id, "barrier", { pid: 70, number: 1 });
    await expect(surprised).rejects.toThrow(/barrier 1, which nobody expected/);
    await fake.next("forget");
    shim.disconnect();
  });

  it("takes the child back when the caller gives up, not when the shim refused", async () => {
    const shim = await fake.connect();
    const refused = shim.create(create);
    fake.fail((await fake.next("create")).id, 2, 1, "/bin/true");
    await expect(refused).rejects.toMatchObject({ code: "invalid_argument", message: /^container c1: cannot execute/ });
    const abort = new AbortController();
    const given = shim.create({ ...create, signal: abort.signal });
    await fake.next("create");
    abort.abort();
    await expect(given).rejects.toMatchObject({ code: "canceled" });
    await fake.next("forget");
    shim.disconnect();
  });
});

describe("exec", () => {
  const exec = { id: "c1", execId: "e1", plan, fds: [], cloneKinds: 0, cgroup: "", timeoutMs: 0 };

  it("tells the start and then the end, even when both come at once", async () => {
    const shim = await fake.connect();
    const running = shim.exec(exec);
    const { id } = await fake.next("exec");
    fake.reply(id, "exec-started", { pid: 8, atNs: 1n });
    fake.reply(0, "exec-exit", { id: "c1", execId: "e1", status: 9, timedOut: 1, atNs: 2n });
    const { pid, ended } = await running;
    expect(pid).toBe(8);
    expect(await ended).toEqual({ exitCode: 137, signal: 9, known: true, timedOut: true, atNs: 2n });
    shim.disconnect();
  });

  it("is killed when the caller gives up before it has started", async () => {
    const shim = await fake.connect();
    const abort = new AbortController();
    const running = shim.exec({ ...exec, signal: abort.signal });
    await fake.next("exec");
    abort.abort();
    await expect(running).rejects.toMatchObject({ code: "canceled" });
    expect(await fake.next("exec-kill")).toMatchObject({ record: { id: "c1", execId: "e1", signal: 9 } });
    shim.disconnect();
  });

  it("does not start twice under one name", async () => {
    const shim = await fake.connect();
    const running = shim.exec(exec);
    await expect(shim.exec(exec)).rejects.toThrow(/exists already/);
    shim.disconnect();
    await expect(running).rejects.toMatchObject({ code: "unavailable" });
  });
});

describe("a lost shim", () => {
  it("ends everything that waits, once, and is told", async () => {
    const shim = await fake.connect();
    const waiting = [shim.list(), shim.forget("c1")];
    const exec = shim.exec({ id: "c1", execId: "e", plan, fds: [], cloneKinds: 0, cgroup: "", timeoutMs: 0 });
    await fake.next("list");
    await fake.next("forget");
    fake.reply((await fake.next("exec")).id, "exec-started", { pid: 8, atNs: 1n });
    const { ended } = await exec;
    fake.peer.hangUp();
    for (const promise of [...waiting, ended]) await expect(promise).rejects.toMatchObject({ code: "unavailable" });
    expect(fake.lost.length).toBe(1);
    expect(fake.lost[0]?.message).toMatch(/is lost: it closed the connection/);
    expect(shim.connected).toBe(false);
    await expect(shim.list()).rejects.toMatchObject({ code: "unavailable" });
    shim.execKill("c1", "e", 9); // nothing to do, no error
  });

  it("is what one becomes that breaks the protocol", async () => {
    const before = openDescriptors();
    const shim = await fake.connect();
    fake.peer.send(Buffer.from("garbage that is no message"), ["/etc/passwd"]);
    while (fake.lost.length === 0) await turn();
    expect(fake.lost[0]?.message).toMatch(/the connection failed: a packet/);
    expect(shim.connected).toBe(false);
    expect(openDescriptors()).toEqual(before);
  });

  it("is not told when we let go ourselves", async () => {
    const shim = await fake.connect();
    const listing = shim.list();
    shim.disconnect();
    await expect(listing).rejects.toMatchObject({ code: "unavailable" });
    await turn();
    expect(fake.lost).toEqual([]);
  });
});

describe("wait statuses", () => {
  it("become exit codes", () => {
    expect(readWaitStatus(0)).toEqual({ exitCode: 0, signal: 0, known: true });
    expect(readWaitStatus(3 << 8)).toEqual({ exitCode: 3, signal: 0, known: true });
    expect(readWaitStatus(0x80 | 11)).toEqual({ exitCode: 139, signal: 11, known: true });
    expect(readWaitStatus(unknownStatus)).toEqual({ exitCode: 255, signal: 0, known: false });
  });
});
