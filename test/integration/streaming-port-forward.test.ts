/** Port forwarding through the streaming server over SPDY: pairs of streams, into pods with a network of their own and with the node's. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode, network } from "../helpers/cri-node.ts";
import { freePort } from "../helpers/free-port.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { RemoteCommandClient, SpdyClient, type SpdyClientStream } from "../helpers/spdy-client.ts";

let node: CriNode;
let machine: Inventory;
/** With a network of its own, and with the node's. */
const pods = { own: "", host: "" };
const ports = { echo: 0, six: 0, many: 0, flood: 0, sink: 0, closed: 0 };
/** In the node's network. */
const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket).on("error", () => {}));
/** In the pod's: one on ::1 alone, one that takes many at once, which busybox cannot do. */
let servers: ChildProcess | undefined;

beforeAll(async () => {
  machine = takeInventory();
  node = await CriNode.start();
  node.enableNetwork("caissonpf0", "10.211.88.0/24");
  for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
  echo.listen(ports.echo, "127.0.0.1");
  await once(echo, "listening");
  pods.host = await node.runPod(node.podConfig("forward-host"));
  const config = node.podConfig("forward-own", { linux: { security_context: { namespace_options: network.pod } } });
  await networkReady();
  pods.own = await node.runPod(config);
  const serve = (port: number, program: string) => `nc -ll -p ${port} -e ${program} & `;
  const script = `${serve(ports.echo, "cat")}${serve(ports.flood, "yes")}${serve(ports.sink, "md5sum")}wait`;
  await node.run(pods.own, config, node.containerConfig("server", ["/bin/sh", "-c", script]));
  const server = `const serve = (...at) => require("net").createServer((s) => s.pipe(s)).listen(...at);
    serve(${ports.six}, "::1"); serve(${ports.many}, "127.0.0.1")`;
  servers = spawn("nsenter", [`--net=/run/netns/caisson-${pods.own}`, process.execPath, "-e", server]);
  for (const port of [ports.echo, ports.flood, ports.sink, ports.six, ports.many]) await untilServed("own", port);
});
afterAll(async () => {
  servers?.kill();
  echo.close();
  await node[Symbol.asyncDispose]();
  await expectNoLeaks(machine);
});

/** The daemon sees a new network list within a moment. */
const networkReady = async (): Promise<void> => {
  for (const until = Date.now() + 20_000; Date.now() < until; await sleep(20)) {
    const { status } = await node.client.runtime("Status", {});
    if (status.conditions.some((each: Message) => each.type === "NetworkReady" && each.status)) return;
  }
};

interface Pair {
  readonly error: SpdyClientStream;
  readonly data: SpdyClientStream;
}
let requests = 0;
const open = async (kind: keyof typeof pods): Promise<SpdyClient> => {
  const { url } = await node.client.runtime("PortForward", { pod_sandbox_id: pods[kind], port: [] });
  return await SpdyClient.connect(url, { protocols: ["portforward.k8s.io"] });
};
const pairOf = async (client: SpdyClient, port: number): Promise<Pair> => {
  const headers = { port: String(port), requestid: String(requests++) };
  const error = await client.stream({ streamtype: "error", ...headers });
  const data = await client.stream({ streamtype: "data", ...headers });
  error.end();
  return { error, data };
};
/** Servers take a moment to start. */
const untilServed = async (kind: keyof typeof pods, port: number): Promise<void> => {
  for (const until = Date.now() + 20_000; ; await sleep(50)) {
    const client = await open(kind);
    const { error, data } = await pairOf(client, port);
    data.onData = () => {};
    await Promise.race([error.ended(), sleep(200)]);
    client.destroy();
    if (error.text() === "") return;
    if (Date.now() > until) throw new Error(error.text());
  }
};
const shimPid = (podId: string): number =>
  Number(JSON.parse(readFileSync(`${node.daemon.state}/pods/${podId}/shim.json`, "utf8")).pid);
const childrenOf = (pid: number): readonly string[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean),
  );
const fdsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
const rssKb = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

describe.each(["own", "host"] as const)("a pod with %s network", (kind) => {
  it("is reached on its loopback device, and each direction ends for itself", async () => {
    const client = await open(kind);
    const { error, data } = await pairOf(client, ports.echo);
    data.write("hello, ");
    await expect.poll(() => data.text()).toBe("hello, ");
    data.end("pod");
    expect(await data.ended()).toBe("hello, pod");
    expect(data.reset).toBeUndefined();
    expect(await error.ended()).toBe("");
    client.destroy();
  });

  it("tells on the error stream that nobody listens; the connection serves others", async () => {
    const client = await open(kind);
    const refused = await pairOf(client, ports.closed);
    expect(await refused.error.ended()).toMatch(/connection refused/);
    await refused.data.ended();
    const { data } = await pairOf(client, ports.echo);
    data.end("still here");
    expect(await data.ended()).toBe("still here");
    client.destroy();
  });
});

describe("a forwarded connection", () => {
  it("reaches what listens on ::1 only, and nothing of the node", async () => {
    const client = await open("own");
    const six = await pairOf(client, ports.six);
    six.data.end("version 6");
    expect(await six.data.ended()).toBe("version 6");
    // The daemon's own streaming port is open on the node's loopback device.
    const { url } = await node.client.runtime("PortForward", { pod_sandbox_id: pods.own, port: [] });
    const nodes = await pairOf(client, Number(new URL(url).port));
    expect(await nodes.error.ended()).toMatch(/connection refused/);
    client.destroy();
  });

  it("needs no helper process while it lasts", async () => {
    const client = await open("own");
    const { data } = await pairOf(client, ports.echo);
    data.write("x");
    await expect.poll(() => data.text()).toBe("x");
    expect(childrenOf(shimPid(pods.own)).length).toBe(1);
    expect(
      childrenOf(node.daemon.pid).some((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(String(ports.echo))),
    ).toBe(false);
    client.destroy();
  });

  it("carries 64 MiB up without loss, with the answer behind the end", async () => {
    const client = await open("own");
    const { data } = await pairOf(client, ports.sink);
    const chunk = Buffer.alloc(1 << 20);
    for (let i = 0; i < 64; i++) {
      if (!data.write(chunk)) await new Promise((resolve) => client.socket.once("drain", resolve));
    }
    data.end();
    // md5sum of 64 MiB of zeros.
    expect(await data.ended()).toContain("7f614da9329cd3aebf59b91aadc30bf0");
    client.destroy();
  });

  it("waits for a client that does not read, and nothing grows", async () => {
    const client = await open("own");
    const { data } = await pairOf(client, ports.flood);
    data.onData = () => {};
    await expect.poll(() => data.received).toBeGreaterThan(8 << 20);
    client.socket.pause();
    await sleep(300);
    const before = rssKb(node.daemon.pid);
    await sleep(1200);
    expect(rssKb(node.daemon.pid)).toBeLessThan(before + 32 * 1024);
    const { received } = data;
    client.socket.resume();
    await expect.poll(() => data.received).toBeGreaterThan(received + (8 << 20));
    client.destroy();
  });

  it("has ninety-nine neighbours on one connection, and a hundred connections have one each", async () => {
    const talk = async (client: SpdyClient, i: number): Promise<string> => {
      const { data, error } = await pairOf(client, ports.many);
      const text = `${i} `.repeat(3000);
      data.end(text);
      return (await data.ended()) === text ? "fine" : `${data.received} bytes, reset ${data.reset}: ${await error.ended()}`;
    };
    const fine = Array.from({ length: 100 }, () => "fine");
    const shared = await open("own");
    expect(await Promise.all(fine.map((_, i) => talk(shared, i)))).toEqual(fine);
    shared.destroy();
    const each = fine.map(async (_, i) => {
      const client = await open("own");
      const result = await talk(client, i);
      client.destroy();
      return result;
    });
    expect(await Promise.all(each)).toEqual(fine);
  });

  it("leaves nothing when its client vanishes, or gives up only this one", async () => {
    const before = { daemon: fdsOf(node.daemon.pid), helper: fdsOf(shimPid(pods.own)) };
    const client = await open("own");
    const given = await pairOf(client, ports.flood);
    await expect.poll(() => given.data.received).toBeGreaterThan(0);
    await given.data.rst();
    const other = await pairOf(client, ports.echo);
    other.data.write("x");
    await expect.poll(() => other.data.text()).toBe("x");
    for (let i = 0; i < 20; i++) (await pairOf(client, ports.flood)).data.onData = () => {};
    client.destroy();
    await expect.poll(() => fdsOf(node.daemon.pid), { timeout: 10_000 }).toBeLessThanOrEqual(before.daemon + 2);
    await expect.poll(() => fdsOf(shimPid(pods.own)), { timeout: 10_000 }).toBeLessThanOrEqual(before.helper);
    const container = (await node.client.runtime("ListContainers", { filter: { pod_sandbox_id: pods.own } })).containers[0].id;
    const processes = async () => (await node.exec(container, ["/bin/sh", "-c", "cat /proc/[0-9]*/comm"])).stdout;
    await expect.poll(processes).not.toContain("yes");
  });
});

describe("a pod with a user namespace", () => {
  it("has exec, attach and ports as any other, also for a user who is not root", async () => {
    const mapping = { host_id: 200_000, container_id: 0, length: 65_536 };
    const userns_options = { mode: "POD", uids: [mapping], gids: [mapping] };
    const security_context = { namespace_options: { ...network.pod, userns_options } };
    const config = node.podConfig("streams-userns", { linux: { security_context } });
    const id = await node.runPod(config);
    const script = `nc -ll -p ${ports.echo} -e cat & read x; echo got $x; sleep 1000`;
    const main = node.containerConfig("main", ["/bin/sh", "-c", script], {
      stdin: true,
      linux: { security_context: { ...security_context, run_as_user: { value: "1000" } } },
    });
    const container = await node.run(id, config, main);
    const call = async (method: string, request: object): Promise<string> =>
      (await node.client.runtime(method, { container_id: container, ...request })).url;
    const cmd = ["/bin/sh", "-c", "id -u; echo err > /dev/stderr; cat < /dev/stdin > /dev/stdout"];
    const exec = await RemoteCommandClient.open(await call("Exec", { cmd, stdin: true, stdout: true, stderr: true }), [
      "stdin",
      "stdout",
      "stderr",
    ]);
    exec.of("stdin").end("through links\n");
    expect(await exec.ending()).toMatchObject({ exitCode: 0 });
    expect([exec.of("stdout").text(), exec.of("stderr").text()]).toEqual(["1000\nthrough links\n", "err\n"]);
    const tty = ["/bin/sh", "-c", "echo typed > $(tty); stat -c %u $(tty)"];
    const terminal = await RemoteCommandClient.open(await call("Exec", { cmd: tty, tty: true, stdout: true }), [
      "stdout",
      "resize",
    ]);
    expect(await terminal.ending()).toMatchObject({ exitCode: 0 });
    expect(terminal.of("stdout").text()).toBe("typed\r\n1000\r\n");
    const attached = await RemoteCommandClient.open(await call("Attach", { stdin: true, stdout: true }), ["stdin", "stdout"]);
    attached.of("stdin").write("this\n");
    await expect.poll(() => attached.of("stdout").text()).toBe("got this\n");
    attached.client.destroy();
    const { url } = await node.client.runtime("PortForward", { pod_sandbox_id: id, port: [] });
    const client = await SpdyClient.connect(url, { protocols: ["portforward.k8s.io"] });
    const { data } = await pairOf(client, ports.echo);
    data.end("mapped");
    expect(await data.ended()).toBe("mapped");
    client.destroy();
    await node.removePod(id);
  });
});

describe("pairs", () => {
  it("without a request id are told apart by the numbers of their streams", async () => {
    const client = await open("own");
    const error = await client.stream({ streamtype: "error", port: String(ports.echo) });
    const data = await client.stream({ streamtype: "data", port: String(ports.echo) });
    error.end();
    data.end("old client");
    expect(await data.ended()).toBe("old client");
    client.destroy();
  });

  it("need a port and a type, and each half once", async () => {
    const client = await open("own");
    for (const headers of [
      { streamtype: "data" },
      { streamtype: "data", port: "0" },
      { streamtype: "data", port: "65536" },
      { streamtype: "data", port: "8o" },
      { streamtype: "stdin", port: "80" },
      { port: "80" },
    ] as Record<string, string>[]) {
      const stream = await client.stream({ ...headers, requestid: "a" });
      await stream.answered();
      expect(stream.reset, JSON.stringify(headers)).toBe(3);
    }
    const headers = { port: String(ports.echo), requestid: "twice" };
    const error = await client.stream({ streamtype: "error", ...headers });
    const again = await client.stream({ streamtype: "error", ...headers });
    expect(await error.ended()).toContain("came twice");
    await again.ended();
    expect(again.reset).toBeDefined();
    client.destroy();
  });
});

describe("requests", () => {
  it("for pods that are not ready, unknown, or with impossible ports are refused", async () => {
    const id = await node.runPod(node.podConfig("stopped"));
    const { url } = await node.client.runtime("PortForward", { pod_sandbox_id: id, port: [80] });
    await node.client.runtime("StopPodSandbox", { pod_sandbox_id: id });
    const refusal = async (request: object) => await failure(node.client.runtime("PortForward", request));
    expect(await refusal({ pod_sandbox_id: id, port: [80] })).toMatchObject({ code: grpcStatus.FAILED_PRECONDITION });
    expect(await refusal({ pod_sandbox_id: "f".repeat(64), port: [80] })).toMatchObject({ code: grpcStatus.NOT_FOUND });
    expect(await refusal({ pod_sandbox_id: "", port: [80] })).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    for (const port of [0, -1, 65_536]) {
      expect(await refusal({ pod_sandbox_id: pods.own, port: [port] })).toMatchObject({ code: grpcStatus.INVALID_ARGUMENT });
    }
    const late = await SpdyClient.connect(url, { protocols: ["portforward.k8s.io"] });
    expect(await (await pairOf(late, 80)).error.ended()).toContain("not ready");
    late.destroy();
  });

  it("are answered for the node's loopback device only", async () => {
    const { url } = await node.client.runtime("PortForward", { pod_sandbox_id: pods.own, port: [] });
    const { hostname, port } = new URL(url);
    expect(hostname).toBe("127.0.0.1");
    const socket = connect(Number(port), "10.211.88.1");
    const refused = await new Promise<string>((resolve) => {
      socket.once("connect", () => resolve("connected"));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? ""));
    });
    expect(refused).toBe("ECONNREFUSED");
  });
});
