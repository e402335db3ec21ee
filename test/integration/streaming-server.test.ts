/** The streaming server itself: tokens, time limits, TLS, and what happens to sessions when the daemon ends. */
import { execFileSync } from "node:child_process";
import { readFileSync, renameSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { RemoteCommandClient, SpdyClient } from "../helpers/spdy-client.ts";
import { ChannelClient, channel } from "../helpers/websocket-client.ts";

let node: CriNode;
let machine: Inventory;
let podId: string;
let pod: Message;
let container: string;

beforeAll(async () => {
  machine = takeInventory();
  node = await CriNode.start({ config: "[streaming]\ntoken_ttl_s = 1\nidle_timeout_s = 2\nmax_pending_tokens = 8\n" });
  pod = node.podConfig("server");
  podId = await node.runPod(pod);
  container = await node.run(podId, pod, node.containerConfig("main", ["/bin/sleep", "1000"]));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(machine);
});

const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const urlOf = async (cmd: readonly string[], more: object = { stdout: true, stderr: true }): Promise<string> =>
  (await node.client.runtime("Exec", { container_id: container, cmd, ...more })).url;
const statusOf = async (url: string): Promise<number> =>
  await SpdyClient.connect(url).then(
    (client) => {
      client.destroy();
      return 101;
    },
    (error: { status: number }) => error.status,
  );

describe("a token", () => {
  it("is too old after its time, and makes room for others then", async () => {
    const urls: string[] = [];
    const full = async (): Promise<Message> => await failure(urlOf(["/bin/true"]));
    for (let i = 0; i < 8; i++) urls.push(await urlOf(["/bin/true"]));
    expect(await full()).toMatchObject({ code: grpcStatus.RESOURCE_EXHAUSTED, details: expect.stringContaining("try again") });
    await sleep(1100);
    for (const url of urls.slice(0, 2)) expect(await statusOf(url)).toBe(404);
    expect(await statusOf(await urlOf(["/bin/true"]))).toBe(101);
  });

  it("is used by a client that does not get through with its upgrade", async () => {
    const url = await urlOf(["/bin/true"]);
    expect((await fetch(url)).status).toBe(400);
    expect((await fetch(url)).status).toBe(404);
    expect(await statusOf(url)).toBe(404);
  });

  it("cannot be found by trying: it is long, random, and never in the log", async () => {
    const tokens = await Promise.all(Array.from({ length: 5 }, async () => (await urlOf(["/bin/true"])).split("/").at(-1) ?? ""));
    expect(new Set(tokens).size).toBe(5);
    for (const token of tokens) {
      expect(token).toMatch(/^[\w-]{32}$/);
      expect(node.daemon.log()).not.toContain(token);
    }
    await sleep(1100);
  });

  it.each(["PUT", "DELETE", "HEAD"])("is not taken with %s", async (method) => {
    expect((await fetch(await urlOf(["/bin/true"]), { method })).status).toBe(404);
  });
});

describe("a connection on which nothing moves", () => {
  it("is ended, and its client told by the end", async () => {
    const session = await RemoteCommandClient.open(await urlOf(["/bin/sleep", "3000"], { stdin: true }), ["stdin"]);
    await session.client.closed();
    expect(session.of("error").text()).toBe("");
    const sockets = await ChannelClient.open(await urlOf(["/bin/sleep", "3000"], { stdin: true }), "v5.channel.k8s.io");
    await sockets.closed();
    expect(sockets.text(channel.error)).toBe("");
  });

  it("stays as long as something moves in either direction", async () => {
    const talks = await RemoteCommandClient.open(
      await urlOf(sh("i=0; while [ $i -lt 7 ]; do echo $i; sleep 0.5; i=$((i+1)); done"), { stdout: true }),
      ["stdout"],
    );
    const pinged = await RemoteCommandClient.open(await urlOf(sh("sleep 3.5; echo over"), { stdout: true }), ["stdout"]);
    const pings = setInterval(() => void pinged.client.ping(1), 500);
    expect(await talks.ending()).toMatchObject({ exitCode: 0 });
    expect(await pinged.ending()).toMatchObject({ exitCode: 0 });
    clearInterval(pings);
    expect(pinged.of("stdout").text()).toBe("over\n");
  });
});

describe("what is no streaming client", () => {
  it("gets an answer or the end of its connection, and harms nobody", async () => {
    const { port, hostname } = new URL(await urlOf(["/bin/true"]));
    const say = async (text: string): Promise<string> => {
      const socket = connect(Number(port), hostname);
      socket.on("error", () => {});
      socket.end(text);
      let answer = "";
      socket.on("data", (chunk) => {
        answer += chunk.toString("latin1");
      });
      await new Promise((resolve) => socket.once("close", resolve));
      return answer;
    };
    expect(await say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")).toMatch(/^HTTP\/1\.1 404 /);
    expect(await say("GET /exec/../../etc HTTP/1.1\r\nHost: x\r\n\r\n")).toMatch(/^HTTP\/1\.1 404 /);
    const upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    expect(await say(`POST /exec/${"A".repeat(32)} HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n`)).toMatch(/^HTTP\/1\.1 404 /);
    expect(await say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")).not.toMatch(/^HTTP\/1\.1 [12]/);
    expect(await say(`GET /exec/x HTTP/1.1\r\nX: ${"y".repeat(100_000)}\r\n\r\n`)).not.toMatch(/^HTTP\/1\.1 [12]/);
    const session = await RemoteCommandClient.open(await urlOf(["/bin/true"]), ["stdout", "stderr"]);
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
  });

  it("can say what it likes after the upgrade: that connection ends, and no other", async () => {
    const other = await RemoteCommandClient.open(await urlOf(["/bin/cat"], { stdin: true, stdout: true }), ["stdin", "stdout"]);
    for (const nonsense of [
      "GET / HTTP/1.1\r\n\r\n",
      "\x80\x03\x00\x05\x00\x00\x00\x00",
      "\x80\x02\x00\x01\x00\x00\x00\x0a0123456789",
    ]) {
      const client = await SpdyClient.connect(await urlOf(["/bin/true"]));
      client.socket.write(Buffer.from(nonsense, "latin1"));
      // What is not SPDY may look like the beginning of a long frame.
      setTimeout(() => client.socket.end(), 100);
      await client.closed();
    }
    other.of("stdin").end("fine");
    expect(await other.ending()).toMatchObject({ exitCode: 0 });
    expect(other.of("stdout").text()).toBe("fine");
  });
});

describe("a daemon that ends", () => {
  it.each(["SIGKILL", "SIGTERM"] as const)("by %s ends sessions, and leaves commands that need no stream", async (signal) => {
    const url = await urlOf(sh("echo up; cat >/dev/null; sleep 2; echo done > /tmp/$0 ").concat(signal), {
      stdin: true,
      stdout: true,
    });
    const session = await RemoteCommandClient.open(url, ["stdin", "stdout"]);
    await expect.poll(() => session.of("stdout").text()).toBe("up\n");
    const unused = await urlOf(["/bin/true"]);
    await node.daemon.kill(signal);
    await session.client.closed();
    expect(session.of("error").text()).toBe("");
    await node.daemon.launch();
    // Old URLs lead nowhere, on whatever port the new one listens.
    const fresh = new URL(await urlOf(["/bin/true"]));
    expect(await statusOf(`${fresh.origin}${new URL(unused).pathname}`)).toBe(404);
    const fate = async (): Promise<string> => (await node.exec(container, ["/bin/cat", `/tmp/${signal}`])).stdout;
    await expect.poll(fate, { timeout: 20_000 }).toBe("done\n");
    const later = await RemoteCommandClient.open(await urlOf(sh("echo again")), ["stdout", "stderr"]);
    expect(await later.ending()).toMatchObject({ exitCode: 0 });
  });
});

describe("a container that ends", () => {
  it("takes its commands along, and their clients are told", async () => {
    const id = await node.run(podId, pod, node.containerConfig("short", ["/bin/sleep", "1000"]));
    const { url } = await node.client.runtime("Exec", { container_id: id, cmd: sh("echo up; sleep 1000"), stdout: true });
    const session = await RemoteCommandClient.open(url, ["stdout"]);
    await expect.poll(() => session.of("stdout").text()).toBe("up\n");
    await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
    expect(await session.ending()).toMatchObject({ status: "Failure", exitCode: 137 });
  });
});

describe("TLS", () => {
  const make = (directory: string, name: string, ca?: string): void => {
    const openssl = (...args: readonly string[]) => execFileSync("openssl", args, { cwd: directory, stdio: "ignore" });
    const base = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", `${name}.key`];
    const subject = ["-subj", `/CN=${name}`, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
    const signer = ca === undefined ? [] : ["-CA", `${ca}.crt`, "-CAkey", `${ca}.key`];
    openssl("req", "-x509", ...base, ...subject, ...signer, "-days", "2", "-out", `${name}.crt`);
  };

  it("serves with its certificate, and with client_ca only those who show one of it", async () => {
    const directory = node.daemon.base;
    const file = (name: string): string => join(directory, name);
    const pem = (name: string): string => readFileSync(file(name), "utf8");
    make(directory, "ca");
    make(directory, "server");
    make(directory, "friend", "ca");
    make(directory, "stranger");
    const tls = `[streaming]\ntls_cert = "${file("server.crt")}"\ntls_key = "${file("server.key")}"\nclient_ca = "${file("ca.crt")}"\n`;
    await using other = await CriNode.start({ config: tls });
    const config = other.podConfig("tls");
    const id = await other.run(await other.runPod(config), config, other.containerConfig("main", ["/bin/sleep", "1000"]));
    const fresh = async (): Promise<string> =>
      (await other.client.runtime("Exec", { container_id: id, cmd: sh("echo secret"), stdout: true })).url;
    expect(await fresh()).toMatch(/^https:\/\/127\.0\.0\.1:\d+\/exec\//);
    const friend = { ca: pem("server.crt"), cert: pem("friend.crt"), key: pem("friend.key") };
    const session = await RemoteCommandClient.open(await fresh(), ["stdout"], friend);
    expect(await session.ending()).toMatchObject({ exitCode: 0 });
    expect(session.of("stdout").text()).toBe("secret\n");
    const sockets = await ChannelClient.open(await fresh(), "v5.channel.k8s.io", friend);
    expect(await sockets.ending()).toMatchObject({ exitCode: 0 });
    for (const wrong of [
      { ca: pem("server.crt") },
      { ca: pem("server.crt"), cert: pem("stranger.crt"), key: pem("stranger.key") },
    ]) {
      const url = await fresh();
      await expect(RemoteCommandClient.open(url, ["stdout"], wrong)).rejects.toThrow();
      // It did not get as far as the token.
      await (await RemoteCommandClient.open(url, ["stdout"], friend)).ending();
    }
    await expect(RemoteCommandClient.open((await fresh()).replace("https:", "http:"), ["stdout"])).rejects.toThrow();
    // Rotated as by a kubelet: half-way the old pair serves on, then the new one at once.
    const old = friend.ca;
    make(directory, "renewed");
    renameSync(file("renewed.crt"), file("server.crt"));
    expect(await (await RemoteCommandClient.open(await fresh(), ["stdout"], friend)).ending()).toMatchObject({ exitCode: 0 });
    renameSync(file("renewed.key"), file("server.key"));
    const renewed = { ...friend, ca: pem("server.crt") };
    expect(await (await RemoteCommandClient.open(await fresh(), ["stdout"], renewed)).ending()).toMatchObject({ exitCode: 0 });
    await expect(RemoteCommandClient.open(await fresh(), ["stdout"], { ...friend, ca: old })).rejects.toThrow();
  });
});
