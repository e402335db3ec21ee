/** Exec, attach and port forwarding over WebSocket: v1, v4, their base64 forms, v5, and SPDY through a tunnel. */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { freePort } from "../helpers/free-port.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { SpdyClient, UpgradeRefused } from "../helpers/spdy-client.ts";
import { ChannelClient, channel, clientFrame, openTunnel } from "../helpers/websocket-client.ts";

let node: CriNode;
let machine: Inventory;
let podId: string;
let pod: Message;
let container: string;
/** The pod has the node's network. */
const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket).on("error", () => {}));
let port: number;

beforeAll(async () => {
  machine = takeInventory();
  node = await CriNode.start();
  pod = node.podConfig("websocket");
  podId = await node.runPod(pod);
  echo.listen(0, "127.0.0.1");
  await once(echo, "listening");
  port = (echo.address() as AddressInfo).port;
  container = await node.run(podId, pod, node.containerConfig("main", ["/bin/sleep", "1000"]));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  echo.close();
  await expectNoLeaks(machine);
});

const outputs = { stdout: true, stderr: true };
const urlOf = async (cmd: readonly string[], more: object = outputs): Promise<string> =>
  (await node.client.runtime("Exec", { container_id: container, cmd, ...more })).url;
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const forwardUrl = async (...ports: number[]): Promise<string> =>
  (await node.client.runtime("PortForward", { pod_sandbox_id: podId, port: ports })).url;

describe("exec", () => {
  it.each(["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"])(
    "in %s: outputs, status behind them, a normal close",
    async (subprotocol) => {
      const client = await ChannelClient.open(await urlOf(sh("echo out; echo err >&2; exit 7")), subprotocol);
      expect(client.socket.protocol).toBe(subprotocol);
      expect(await client.ending()).toMatchObject({ status: "Failure", exitCode: 7 });
      expect([client.text(channel.stdout), client.text(channel.stderr)]).toEqual(["out\n", "err\n"]);
      expect(client.order.at(0)).toBe(channel.stdout);
      expect(client.order.at(-1)).toBe(channel.error);
      expect(client.closeCode).toBe(1000);
      const fine = await ChannelClient.open(await urlOf(["/bin/true"]), subprotocol);
      expect(await fine.ending()).toMatchObject({ status: "Success" });
    },
  );

  it.each(["channel.k8s.io", "base64.channel.k8s.io", ""])("in %j: text on the error channel, only on failure", async (name) => {
    const failed = await ChannelClient.open(await urlOf(sh("exit 7")), name === "" ? [] : name);
    await failed.closed();
    expect(failed.text(channel.error)).toContain("exit code 7");
    const fine = await ChannelClient.open(await urlOf(sh("echo fine")), name === "" ? [] : name);
    await fine.closed();
    expect([fine.text(channel.stdout), fine.text(channel.error)]).toEqual(["fine\n", ""]);
  });

  it("ends the command's input with v5's close message, and passes every byte", async () => {
    const client = await ChannelClient.open(await urlOf(["/bin/cat"], { stdin: true, stdout: true }), "v5.channel.k8s.io");
    const sent = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) % 256));
    for (let at = 0; at < sent.length; at += 32_769) await client.send(channel.stdin, sent.subarray(at, at + 32_769));
    client.closeChannel(channel.stdin);
    await client.send(channel.stdin, "too late");
    expect(await client.ending()).toMatchObject({ exitCode: 0 });
    expect(client.bytes(channel.stdout).equals(sent)).toBe(true);
  });

  it("has no close message before v5: a client that goes ends the input", async () => {
    const url = await urlOf(sh("cat > /tmp/v4-input; echo over > /tmp/v4-fate"), { stdin: true, stdout: true });
    const client = await ChannelClient.open(url, "v4.channel.k8s.io");
    await client.send(channel.stdin, "some");
    await client.send(255, "\0");
    await client.send(channel.stdin, " more");
    await expect.poll(async () => (await node.exec(container, sh("cat /tmp/v4-input"))).stdout).toBe("some more");
    client.socket.close();
    await expect.poll(async () => (await node.exec(container, sh("cat /tmp/v4-fate"))).stdout).toBe("over\n");
  });

  it("resizes the terminal, and ignores channels that make no sense", async () => {
    const url = await urlOf(sh("trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.05; done"), {
      tty: true,
      stdin: true,
      stdout: true,
    });
    const client = await ChannelClient.open(url, "v5.channel.k8s.io");
    await expect.poll(() => client.text(channel.stdout)).toContain("up");
    client.socket.send(Buffer.alloc(0));
    for (const number of [1, 2, 3, 9, 200]) await client.send(number, "nonsense");
    await client.send(channel.resize, "not a size }");
    await client.send(channel.resize, '{"Width":90,"Height":20}');
    expect(await client.ending()).toMatchObject({ exitCode: 0 });
    expect(client.text(channel.stdout)).toMatch(/20 90\r\n$/);
  });

  it("answers pings, and refuses what it does not speak", async () => {
    const client = await ChannelClient.open(await urlOf(["/bin/cat"], { stdin: true, stdout: true }), "v5.channel.k8s.io");
    const pong = new Promise<string>((resolve) => client.socket.once("pong", (data) => resolve(data.toString())));
    client.socket.ping("hello");
    expect(await pong).toBe("hello");
    client.closeChannel(channel.stdin);
    await client.closed();
    const refused = ChannelClient.open(await urlOf(["/bin/true"]), "v9.channel.k8s.io");
    await expect(refused).rejects.toMatchObject({ status: 403 });
    const used = await urlOf(["/bin/true"]);
    (await ChannelClient.open(used, "v4.channel.k8s.io")).socket.terminate();
    await expect(ChannelClient.open(used, "v4.channel.k8s.io")).rejects.toBeInstanceOf(UpgradeRefused);
  });

  it("carries 64 MiB without loss, at the client's pace", async () => {
    const url = await urlOf(sh("dd if=/dev/zero bs=65536 count=1024 2>/dev/null"), { stdout: true });
    const client = await ChannelClient.open(url, "v5.channel.k8s.io");
    client.socket.pause();
    await sleep(500);
    client.socket.resume();
    await client.ending();
    const zeros = client.bytes(channel.stdout);
    expect(zeros.length).toBe(64 << 20);
    expect(zeros.some((byte) => byte !== 0)).toBe(false);
  });
});

describe("attach", () => {
  it("joins a client, and reports the container's end", async () => {
    const config = node.containerConfig("reader", ["/bin/sh", "-c", "read x; echo got $x; exit 9"], { stdin: true });
    const id = await node.run(podId, pod, config);
    const { url } = await node.client.runtime("Attach", { container_id: id, stdin: true, ...outputs });
    const client = await ChannelClient.open(url, "v5.channel.k8s.io");
    await client.send(channel.stdin, "this\n");
    expect(await client.ending()).toMatchObject({ status: "Success" });
    expect(client.text(channel.stdout)).toBe("got this\n");
  });
});

describe("port forwarding", () => {
  it.each(["v4.channel.k8s.io", "v4.base64.channel.k8s.io"])("over the channels of %s", async (subprotocol) => {
    const closed = await freePort();
    const client = await ChannelClient.open(await forwardUrl(port, closed), subprotocol);
    const numbers = (value: number): Buffer => Buffer.of(value & 255, value >> 8);
    await client.send(0, "to the pod");
    await expect.poll(() => client.text(0)).toContain("to the pod");
    expect(client.bytes(0).subarray(0, 2)).toEqual(numbers(port));
    expect(client.bytes(1)).toEqual(numbers(port));
    await expect.poll(() => client.text(3)).toContain("refused");
    expect(client.bytes(3).subarray(0, 2)).toEqual(numbers(closed));
    // The other port of the same connection goes on.
    await client.send(0, ", again");
    await expect.poll(() => client.text(0)).toContain("to the pod, again");
    client.socket.close();
    await client.closed();
  });

  it("needs a port that the request names", async () => {
    await expect(ChannelClient.open(await forwardUrl(), "v4.channel.k8s.io")).rejects.toMatchObject({ status: 400 });
  });

  it("carries SPDY through a tunnel, whatever the borders of its messages", async () => {
    const { stream, protocol } = await openTunnel(await forwardUrl(), "SPDY/3.1+portforward.k8s.io");
    expect(protocol).toBe("SPDY/3.1+portforward.k8s.io");
    const client = new SpdyClient(stream, Buffer.alloc(0), "portforward.k8s.io");
    const error = await client.stream({ streamtype: "error", port: String(port), requestid: "0" });
    const data = await client.stream({ streamtype: "data", port: String(port), requestid: "0" });
    error.end();
    const sent = Buffer.alloc(200_000, "tunnel ");
    data.end(sent);
    await data.ended();
    expect(data.bytes().equals(sent)).toBe(true);
    expect(await error.ended()).toBe("");
    client.destroy();
  });

  it("takes no text in a tunnel", async () => {
    const { stream, raw } = await openTunnel(await forwardUrl(), "SPDY/3.1+portforward.k8s.io");
    const code = new Promise<number>((resolve) => stream.once("code", resolve));
    raw.write(clientFrame(1, Buffer.from("text")));
    expect(await code).toBe(1003);
  });
});
