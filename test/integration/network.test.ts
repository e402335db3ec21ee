/**
 * The pod network with the distribution's real plugins and with fake ones. The plugins run inside a network namespace of the test (through
 * small wrappers), so that bridges and rules never appear on the machine itself.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RuntimeError } from "../../src/lib/errors.ts";
import { openPodNetwork, type PodNetworkOptions } from "../../src/network/cni-network.ts";
import type { PodNetwork, PodNetworkRequest } from "../../src/network/pod-network.ts";

const realPlugins = "/usr/lib/cni";
const never = new AbortController().signal;

let dir: string;
let confDir: string;
let binDir: string;
let cacheDir: string;
let ipamDir: string;
let count = 0;
let node: string;
let podNamespaces: string[] = [];
let open: PodNetwork[] = [];
let notices: string[] = [];

const ip = (...args: string[]): string => execFileSync("ip", args, { encoding: "utf8" });
const inNode = (command: string, ...args: string[]): string =>
  execFileSync("nsenter", [`--net=/run/netns/${node}`, command, ...args], { encoding: "utf8" });

function addNamespace(name: string): string {
  ip("netns", "add", name);
  podNamespaces.push(name);
  return name;
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "caisson-network-"));
  [confDir, binDir, cacheDir, ipamDir] = [join(dir, "net.d"), join(dir, "bin"), join(dir, "cache"), join(dir, "ipam")];
  mkdirSync(binDir);
  mkdirSync(confDir);
  node = addNamespace(`caisson-test-node-${process.pid}-${count++}`);
  ip("-n", node, "link", "set", "lo", "up");
  for (const plugin of ["bridge", "host-local", "portmap", "bandwidth", "tuning", "firewall", "loopback"]) {
    script(plugin, `exec nsenter --net=/run/netns/${node} ${realPlugins}/${plugin}`);
  }
  notices = [];
});

afterEach(() => {
  for (const network of open) network.close();
  open = [];
  for (const name of podNamespaces) spawnSync("ip", ["netns", "del", name]);
  podNamespaces = [];
  // A plugin that was asked for its status when the network was closed may still write here what it was called with.
  rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
});

function script(name: string, body: string): void {
  const path = join(binDir, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
}

/** A plugin that notes each call, and then does `body`. */
function fake(name: string, body: string): void {
  script(
    name,
    `cat > ${dir}/${name}.$CNI_COMMAND.stdin\nenv > ${dir}/${name}.$CNI_COMMAND.env\necho "$CNI_COMMAND ${name}" >> ${dir}/calls\n${body}`,
  );
}
const calls = (): string[] => (existsSync(join(dir, "calls")) ? readFileSync(join(dir, "calls"), "utf8").trim().split("\n") : []);
const stdinOf = (name: string, command: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, `${name}.${command}.stdin`), "utf8"));
const goodResult = (address = "10.9.0.7/24"): string =>
  `echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"${address}","interface":0}]}'`;

const bridge = {
  type: "bridge",
  bridge: "caisson-t0",
  isGateway: true,
  ipMasq: true,
  ipam: { type: "host-local", ranges: [[{ subnet: "10.93.0.0/24" }], [{ subnet: "fd93::/64" }]], routes: [{ dst: "0.0.0.0/0" }] },
};
function conflist(plugins: readonly object[], more: object = {}): string {
  return JSON.stringify({ cniVersion: "1.0.0", name: "caisson-test", plugins, ...more });
}
function realBridge(...more: object[]): string {
  return conflist([{ ...bridge, ipam: { ...bridge.ipam, dataDir: ipamDir } }, ...more]);
}
const configure = (content: string, name = "10-test.conflist"): void => writeFileSync(join(confDir, name), content);

async function openNetwork(options: Partial<PodNetworkOptions> = {}): Promise<PodNetwork> {
  const network = await openPodNetwork({
    confDirs: [confDir],
    binDirs: [binDir],
    cacheDir,
    lockDir: join(dir, "locks"),
    onNotice: (sentence) => notices.push(sentence),
    ...options,
  });
  open.push(network);
  return network;
}

const greeter = `
import socket
server = socket.create_server(("", 80))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(b"hello")
    client.close()
`;
const caller =
  'import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).makefile().read(), end="")';

const podId = (digit: string): string => digit.repeat(64);
function pod(netnsName: string, more: Partial<PodNetworkRequest> = {}): PodNetworkRequest {
  return {
    podId: podId("a"),
    name: "web",
    namespace: "shop",
    uid: "uid-1",
    netnsPath: netnsName === "" ? "" : `/run/netns/${netnsName}`,
    cgroupParent: "/kubepods/pod1",
    portMappings: [],
    dns: null,
    annotations: {},
    ...more,
  };
}
const ipamFiles = (): string[] =>
  existsSync(join(ipamDir, "caisson-test"))
    ? readdirSync(join(ipamDir, "caisson-test")).filter((name) => /^(10\.|fd)/.test(name))
    : [];
const cacheFiles = (): string[] => (existsSync(cacheDir) ? readdirSync(cacheDir) : []);

async function until(what: string, holds: () => boolean, tries = 100): Promise<void> {
  for (let i = 0; i < tries; i++) {
    if (holds()) return;
    await sleep(20);
  }
  throw new Error(`never: ${what}`);
}

async function failure(work: Promise<unknown>): Promise<RuntimeError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(RuntimeError);
  return error as RuntimeError;
}

describe("with the real plugins", () => {
  it("gives a pod its interface and both addresses, and takes everything away again", async () => {
    configure(realBridge());
    const network = await openNetwork();
    expect(network.status()).toEqual({ ready: true, reason: "", message: "", networkName: "caisson-test" });
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const result = await network.attach(pod(name), never);
    expect(result.ips).toEqual(["10.93.0.2", "fd93::2"]);
    expect(ip("-n", name, "-o", "addr", "show", "eth0")).toMatch(/10\.93\.0\.2\/24/);
    expect(ip("-n", node, "link", "show", "caisson-t0")).toMatch(/caisson-t0/);
    expect(inNode("iptables", "-t", "nat", "-S")).toMatch(/10\.93\.0\.2/);
    expect(ipamFiles().sort()).toEqual(["10.93.0.2", "fd93::2"]);

    await network.detach(pod(name), never);
    expect(ip("-n", name, "-o", "link")).not.toMatch(/eth0/);
    expect(inNode("iptables", "-t", "nat", "-S")).not.toMatch(/10\.93\.0\.2/);
    expect(ipamFiles()).toEqual([]);
    expect(cacheFiles()).toEqual([]);
  });

  it("opens host ports through portmap and closes them", async () => {
    configure(realBridge({ type: "portmap", capabilities: { portMappings: true }, snat: true }));
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const request = pod(name, { portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 18080, hostIp: "" }] });
    await network.attach(request, never);
    expect(inNode("iptables", "-t", "nat", "-S")).toMatch(/--dport 18080 .*--to-destination 10\.93\.0\.2:80/);
    await network.detach(request, never);
    expect(inNode("iptables", "-t", "nat", "-S")).not.toMatch(/18080/);
  });

  it("lets host ports be reached from outside, on the node's own addresses and on its loopback", async () => {
    configure(realBridge({ type: "portmap", capabilities: { portMappings: true } }));
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const request = pod(name, { portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 18080, hostIp: "" }] });
    await network.attach(request, never);
    const server = spawn("ip", ["netns", "exec", name, "python3", "-c", greeter], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      await new Promise((resolve) => server.stdout.once("data", resolve));
      for (const address of ["127.0.0.1", "10.93.0.1"]) expect(inNode("python3", "-c", caller, address, "18080")).toBe("hello");
      // From another pod: through the node's address and back, as from another machine.
      const other = addNamespace(`caisson-test-pod-${process.pid}-2`);
      await network.attach(pod(other, { podId: podId("b") }), never);
      expect(ip("netns", "exec", other, "python3", "-c", caller, "10.93.0.1", "18080")).toBe("hello");
    } finally {
      server.kill("SIGKILL");
    }
  });

  it("runs a chain of all of them, and takes back what each has done", async () => {
    configure(
      realBridge(
        { type: "tuning", sysctl: { "net.core.somaxconn": "321" }, mtu: 1400 },
        { type: "bandwidth", capabilities: { bandwidth: true } },
        { type: "firewall", backend: "iptables" },
        { type: "portmap", capabilities: { portMappings: true } },
      ),
    );
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const request = pod(name, {
      annotations: { "kubernetes.io/egress-bandwidth": "10M" },
      portMappings: [{ protocol: "udp", containerPort: 53, hostPort: 15353, hostIp: "" }],
    });
    expect((await network.attach(request, never)).ips).toEqual(["10.93.0.2", "fd93::2"]);
    expect(ip("netns", "exec", name, "cat", "/proc/sys/net/core/somaxconn")).toBe("321\n");
    expect(ip("-n", name, "link", "show", "eth0")).toMatch(/mtu 1400/);
    const state = (): string => inNode("tc", "qdisc", "show") + inNode("iptables-save") + inNode("ip6tables-save");
    for (const trace of ["tbf", "15353", "10.93.0.2", "fd93::2"]) expect(state()).toContain(trace);
    await network.detach(request, never);
    expect(state()).not.toMatch(/tbf|15353|10\.93\.0\.2|fd93::2/);
    expect([ipamFiles(), cacheFiles()]).toEqual([[], []]);
  });

  it("gives addresses of both families out of the node's ranges to a plugin that takes them", async () => {
    const { ranges: _, ...ipam } = bridge.ipam;
    configure(conflist([{ ...bridge, ipam: { ...ipam, dataDir: ipamDir }, capabilities: { ipRanges: true } }]));
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const request = pod(name, { podCidrs: ["10.95.3.0/24", "fd95:3::/64"] });
    expect((await network.attach(request, never)).ips).toEqual(["10.95.3.2", "fd95:3::2"]);
    await network.detach({ ...request, podCidrs: [] }, never);
    expect(ipamFiles()).toEqual([]);
    const preferring = await openNetwork({ ipPreference: "ipv6" });
    expect((await preferring.attach(request, never)).ips[0]).toMatch(/^fd95:3::/);
    await preferring.detach(request, never);
  });

  it("detaches pods that nobody knows any more, and no other runtime's", async () => {
    configure(realBridge());
    const network = await openNetwork();
    const names = ["a", "b"].map((digit) => addNamespace(`caisson-test-pod-${process.pid}-${digit}`));
    for (const [at, name] of names.entries()) await network.attach(pod(name, { podId: podId(at === 0 ? "a" : "b") }), never);
    const foreign = join(cacheDir, `caisson-test-${podId("c")}-eth0`);
    const { writer: _, ...record } = JSON.parse(readFileSync(join(cacheDir, `caisson-test-${podId("b")}-eth0`), "utf8"));
    writeFileSync(foreign, JSON.stringify({ ...record, containerId: podId("c") }));
    const again = await openNetwork();
    await again.collect((id) => id === podId("a"), never);
    expect(ipamFiles().sort()).toEqual(["10.93.0.2", "fd93::2"]);
    expect(cacheFiles().sort()).toEqual([`caisson-test-${podId("a")}-eth0`, `caisson-test-${podId("c")}-eth0`]);
    await again.check(pod(names[0] ?? ""), never);
    await again.detach(pod(names[0] ?? ""), never);
  });

  it("limits bandwidth by the pod's annotations", async () => {
    configure(realBridge({ type: "bandwidth", capabilities: { bandwidth: true } }));
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const request = pod(name, {
      annotations: { "kubernetes.io/egress-bandwidth": "10M", "kubernetes.io/ingress-bandwidth": "5M" },
    });
    await network.attach(request, never);
    expect(inNode("tc", "qdisc", "show")).toMatch(/tbf .*rate 5Mbit/);
    await network.detach(request, never);
    expect(inNode("tc", "qdisc", "show")).not.toMatch(/tbf/);
  });

  it("releases the address when the namespace is already gone, with an empty path or a pin that is only a file", async () => {
    configure(realBridge({ type: "portmap", capabilities: { portMappings: true } }));
    const network = await openNetwork();
    for (const stale of ["", join(dir, "stale-pin")]) {
      const name = addNamespace(`caisson-test-pod-${process.pid}-${stale.length}`);
      const request = pod(name, { portMappings: [{ protocol: "udp", containerPort: 53, hostPort: 15353, hostIp: "" }] });
      await network.attach(request, never);
      ip("netns", "del", name);
      if (stale !== "") writeFileSync(stale, "");
      await network.detach({ ...request, netnsPath: stale }, never);
      expect(ipamFiles()).toEqual([]);
      expect(inNode("iptables", "-t", "nat", "-S")).not.toMatch(/15353/);
    }
  });

  it("checks an attachment, and says what is wrong with one that lost its address", async () => {
    // Not portmap: Debian's looks for the rules of one family in the tables of the other.
    configure(
      realBridge(
        { type: "tuning", mtu: 1400 },
        { type: "firewall", backend: "iptables" },
        { type: "bandwidth", egressRate: 8_000_000, egressBurst: 80_000_000 },
      ),
    );
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    await network.attach(pod(name), never);
    await network.check(pod(name), never);
    ip("-n", name, "addr", "flush", "dev", "eth0");
    expect((await failure(network.check(pod(name), never))).message).toMatch(/bridge failed to CHECK/);
    await network.detach(pod(name), never);
  });

  it("detaches with the configuration of the attachment after the file has changed or gone", async () => {
    configure(realBridge());
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    await network.attach(pod(name), never);
    rmSync(join(confDir, "10-test.conflist"));
    await until("network is gone", () => !network.status().ready);
    const again = await openNetwork();
    await again.detach(pod(name), never);
    expect(ipamFiles()).toEqual([]);
  });

  it("attaches many pods at once, each with its own address", async () => {
    configure(realBridge());
    const network = await openNetwork();
    const requests = ["1", "2", "3", "4", "5", "6"].map((digit) =>
      pod(addNamespace(`caisson-test-pod-${process.pid}-${digit}`), { podId: podId(digit) }),
    );
    const results = await Promise.all(requests.map((request) => network.attach(request, never)));
    expect(new Set(results.map((result) => result.ips[0])).size).toBe(6);
    await Promise.all(requests.map((request) => network.detach(request, never)));
    expect(ipamFiles()).toEqual([]);
  });

  it("gives back what the first plugins did when a later one fails", async () => {
    fake(
      "broken",
      `[ $CNI_COMMAND = DEL ] && exit 0; echo '{"cniVersion":"1.0.0","code":7,"msg":"no such zone","details":"zone b"}'; exit 1`,
    );
    configure(realBridge({ type: "broken" }));
    const network = await openNetwork();
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const error = await failure(network.attach(pod(name), never));
    expect(error.message).toBe(
      "network caisson-test of pod shop/web: CNI plugin broken failed to ADD: no such zone; zone b (CNI error 7)",
    );
    expect(ipamFiles()).toEqual([]);
    expect(cacheFiles()).toEqual([]);
    expect(ip("-n", name, "-o", "link")).not.toMatch(/eth0/);
  });
});

describe("a daemon that is killed during ADD", () => {
  const killedDuringAdd = async (name: string, script: string): Promise<number> => {
    fake("slow", `[ $CNI_COMMAND = DEL ] && exit 0\necho $$ > ${dir}/pid\n${script}`);
    configure(realBridge({ type: "slow" }));
    const options = JSON.stringify({ confDirs: [confDir], binDirs: [binDir], cacheDir, lockDir: join(dir, "locks") });
    const helper = join(import.meta.dirname, "../helpers/attach-pod.ts");
    const daemon = spawn(process.execPath, [helper, options, JSON.stringify(pod(name))]);
    const ended = new Promise((resolve) => daemon.once("exit", resolve));
    await until("ADD is under way", () => existsSync(join(dir, "pid")), 500);
    expect(ipamFiles()).toHaveLength(2);
    daemon.kill("SIGKILL");
    await ended;
    return Number(readFileSync(join(dir, "pid"), "utf8"));
  };
  const isGone = (pid: number): boolean => !existsSync(`/proc/${pid}`) || / Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));

  it("leaves the plugin to come to its end, and the next one waits for that and gives everything back", async () => {
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const plugin = await killedDuringAdd(name, `sleep 0.7; touch ${dir}/through; echo '{}'`);
    expect(isGone(plugin)).toBe(false);
    const next = await openNetwork();
    await next.detach(pod(name), never);
    expect(existsSync(join(dir, "through"))).toBe(true);
    expect(isGone(plugin)).toBe(true);
    expect(ipamFiles()).toEqual([]);
    expect(cacheFiles()).toEqual([]);
    expect(ip("-n", name, "-o", "link")).not.toMatch(/eth0/);
  });

  it("leaves a plugin that hangs, which the next one kills when its time is over", async () => {
    const name = addNamespace(`caisson-test-pod-${process.pid}`);
    const plugin = await killedDuringAdd(name, "exec sleep 4711");
    const next = await openNetwork({ deadlineMs: 1000 });
    await next.detach(pod(name), never);
    await until("the plugin is gone", () => isGone(plugin));
    expect(ipamFiles()).toEqual([]);
    expect(cacheFiles()).toEqual([]);
    expect(ip("-n", name, "-o", "link")).not.toMatch(/eth0/);
  });
});

describe("calls of plugins", () => {
  it("leave no descriptor open, however they end", async () => {
    fake(
      "one",
      `case "$CNI_COMMAND $CNI_CONTAINERID" in "ADD b"*) exit 1;; "ADD c"*) exec yes;; "ADD d"*) exec sleep 4711;; esac\n${goodResult()}`,
    );
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork({ deadlineMs: 300 });
    const round = async (): Promise<void> => {
      for (const digit of ["a", "b", "c", "d"]) {
        const request = pod("", { podId: podId(digit) });
        await network.attach(request, never).catch(() => {});
        await network.detach(request, never);
      }
    };
    await round();
    const before = readdirSync("/proc/self/fd").length;
    for (let i = 0; i < 5; i++) await round();
    expect(readdirSync("/proc/self/fd").length).toBe(before);
  });

  it("hands results on, reverses the order for DEL and gives only declared capabilities", async () => {
    fake("one", goodResult());
    fake("two", `[ $CNI_COMMAND = DEL ] && exit 0\n${goodResult("10.9.0.8/24")}`);
    configure(
      conflist([
        { type: "one", extra: 5 },
        { type: "two", capabilities: { portMappings: true, dns: false, cgroupPath: true } },
      ]),
    );
    const network = await openNetwork();
    const request = pod("", {
      netnsPath: "/proc/self/ns/net",
      portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 8080, hostIp: "127.0.0.1" }],
      dns: { servers: ["1.1.1.1"], searches: [], options: [] },
    });
    expect((await network.attach(request, never)).ips).toEqual(["10.9.0.8"]);
    expect(stdinOf("one", "ADD")).toEqual({ type: "one", extra: 5, cniVersion: "1.0.0", name: "caisson-test" });
    expect(stdinOf("two", "ADD")).toMatchObject({
      runtimeConfig: {
        portMappings: [{ hostPort: 8080, containerPort: 80, protocol: "tcp", hostIP: "127.0.0.1" }],
        cgroupPath: "/kubepods/pod1",
      },
      prevResult: { ips: [{ address: "10.9.0.7/24", interface: 0 }] },
    });
    expect(stdinOf("two", "ADD")).not.toHaveProperty("capabilities");
    expect((stdinOf("two", "ADD") as { runtimeConfig: object }).runtimeConfig).not.toHaveProperty("dns");
    await network.detach(request, never);
    expect(calls()).toEqual(["ADD one", "ADD two", "DEL two", "DEL one"]);
    for (const name of ["one", "two"]) {
      expect(stdinOf(name, "DEL")).toMatchObject({ prevResult: { ips: [{ address: "10.9.0.8/24" }] } });
    }
  });

  it("gives the environment of the specification and nothing of its own", async () => {
    fake("one", goodResult());
    configure(conflist([{ type: "one" }]));
    process.env.CAISSON_TEST_SECRET = "s3cret";
    const network = await openNetwork();
    await network.attach(pod("", { netnsPath: "/proc/self/ns/net" }), never);
    delete process.env.CAISSON_TEST_SECRET;
    const env = readFileSync(join(dir, "one.ADD.env"), "utf8");
    expect(env).toMatch(/^CNI_COMMAND=ADD$/m);
    expect(env).toMatch(new RegExp(`^CNI_CONTAINERID=${podId("a")}$`, "m"));
    expect(env).toMatch(/^CNI_NETNS=\/proc\/self\/ns\/net$/m);
    expect(env).toMatch(/^CNI_IFNAME=eth0$/m);
    expect(env).toMatch(new RegExp(`^CNI_PATH=${binDir}$`, "m"));
    expect(env).toMatch(
      new RegExp(
        `^CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=${podId("a")};K8S_POD_UID=uid-1$`,
        "m",
      ),
    );
    expect(env).not.toMatch(/s3cret|NODE_|VITEST/);
  });

  it("says when a pod asks for host ports that no plugin does", async () => {
    fake("one", goodResult());
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    const portMappings = [{ protocol: "tcp" as const, containerPort: 80, hostPort: 8080, hostIp: "" }];
    await network.attach(pod("", { netnsPath: "/proc/self/ns/net", portMappings }), never);
    expect(notices).toContain("pod shop/web asks for host ports; no plugin of network caisson-test does them");
  });

  it("refuses a pod name that would add arguments", async () => {
    fake("one", goodResult());
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    const error = await failure(network.attach(pod("", { name: "web;K8S_POD_NAMESPACE=kube-system" }), never));
    expect(error.code).toBe("invalid_argument");
    expect(calls()).toEqual([]);
  });

  it.each([
    ["prints nothing", "exit 0", /printed no result/],
    ["prints garbage", "echo '{ half'", /output is not JSON/],
    ["prints a list", "echo '[]'", /not a JSON object/],
    ["fails without a word", "exit 3", /exit code 3/],
    ["fails with a log only", "echo 'cannot reach agent' >&2; exit 1", /cannot reach agent/],
    ["is killed", "kill -9 $$", /killed by signal 9/],
    ["gives no address", `echo '{"cniVersion":"1.0.0"}'`, /no address for eth0/],
    ["gives an address that is none", goodResult("nonsense"), /that is none/],
  ])("reports a plugin that %s, and deletes", async (_what, body, message) => {
    fake("one", `[ $CNI_COMMAND = DEL ] && exit 0\n${body}`);
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    expect((await failure(network.attach(pod(""), never))).message).toMatch(message);
    expect(calls()).toEqual(["ADD one", "DEL one"]);
    expect(cacheFiles()).toEqual([]);
  });

  it("ends a plugin that prints without end", async () => {
    fake("one", "[ $CNI_COMMAND = DEL ] && exit 0\nexec yes aaaaaaaaaaaaaaaa");
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    expect((await failure(network.attach(pod(""), never))).message).toMatch(/printed more than/);
  });

  it("kills a plugin that hangs with everything it started, and other pods do not wait for it", async () => {
    fake(
      "one",
      `if [ $CNI_CONTAINERID = ${podId("a")} ] && [ $CNI_COMMAND = ADD ]; then sleep 4711 & echo $! > ${dir}/child; wait; fi\n${goodResult()}`,
    );
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork({ deadlineMs: 1500 });
    const hanging = failure(network.attach(pod(""), never));
    await until("the plugin hangs", () => existsSync(join(dir, "child")));
    const began = Date.now();
    await network.attach(pod("", { podId: podId("b") }), never);
    expect(Date.now() - began).toBeLessThan(1000);
    const error = await hanging;
    expect(error.code).toBe("deadline_exceeded");
    expect(error.message).toMatch(/CNI plugin one was killed during ADD: it did not end in time/);
    const child = Number(readFileSync(join(dir, "child"), "utf8"));
    await until(
      "its child is gone",
      () => !existsSync(`/proc/${child}`) || / Z /.test(readFileSync(`/proc/${child}/stat`, "utf8")),
    );
    expect(calls()).toContain("DEL one");
  });

  it("stops with the caller and still deletes", async () => {
    fake("one", `[ $CNI_COMMAND = DEL ] && exit 0\nexec sleep 4711`);
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    const cancel = new AbortController();
    const attach = failure(network.attach(pod(""), cancel.signal));
    await until("ADD runs", () => calls().length > 0);
    cancel.abort();
    expect((await attach).code).toBe("canceled");
    expect(calls()).toEqual(["ADD one", "DEL one"]);
  });

  it("does not wait for a child of the plugin that keeps its output open", async () => {
    fake("one", `sleep 5 &\n${goodResult()}`);
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    const began = Date.now();
    expect((await network.attach(pod(""), never)).ips).toEqual(["10.9.0.7"]);
    expect(Date.now() - began).toBeLessThan(3000);
  });

  it("names the directories when a plugin is missing", async () => {
    configure(conflist([{ type: "nowhere" }]));
    const network = await openNetwork();
    const error = await failure(network.attach(pod(""), never));
    expect(error.message).toMatch(new RegExp(`CNI plugin nowhere is not in ${binDir}`));
  });
});

describe("what is remembered", () => {
  it("is private, complete, and there before ADD", async () => {
    fake("one", `cp ${cacheDir}/* ${dir}/seen; ${goodResult()}`);
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    await network.attach(pod(""), never);
    expect(JSON.parse(readFileSync(join(dir, "seen"), "utf8"))).not.toHaveProperty("result");
    const [name] = cacheFiles();
    expect(name).toBe(`caisson-test-${podId("a")}-eth0`);
    const path = join(cacheDir, name ?? "");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(cacheDir).mode & 0o777).toBe(0o700);
    const cached = JSON.parse(readFileSync(path, "utf8"));
    expect(cached).toMatchObject({ kind: "cniCacheV1", containerId: podId("a"), ifName: "eth0", networkName: "caisson-test" });
    expect(cached.result.ips[0].address).toBe("10.9.0.7/24");
  });

  it("lets another daemon undo an ADD that was cut off", async () => {
    fake("one", `[ $CNI_COMMAND = DEL ] && exit 0\nexec sleep 4711`);
    configure(conflist([{ type: "one" }]));
    const first = await openNetwork();
    const cancel = new AbortController();
    const attach = failure(first.attach(pod(""), cancel.signal));
    await until("ADD runs", () => calls().length > 0);
    // As after a crash: the file of the cut-off ADD is all that is left.
    const left = readFileSync(join(cacheDir, cacheFiles()[0] ?? ""), "utf8");
    cancel.abort();
    await attach;
    writeFileSync(join(cacheDir, `caisson-test-${podId("a")}-eth0`), left);
    rmSync(join(dir, "calls"));
    const second = await openNetwork();
    await second.detach(pod(""), never);
    expect(calls()).toEqual(["DEL one"]);
    await second.detach(pod(""), never);
    expect(calls()).toEqual(["DEL one"]);
  });

  it("is kept when DEL fails, so that the next detach tries again; the other plugins are cleaned up at once", async () => {
    fake("one", `[ $CNI_COMMAND = DEL ] && exit 0\n${goodResult()}`);
    fake(
      "two",
      `[ $CNI_COMMAND = DEL ] && [ ! -e ${dir}/repaired ] && { echo '{"code":11,"msg":"agent is down"}'; exit 1; }\n${goodResult()}`,
    );
    configure(conflist([{ type: "one" }, { type: "two" }]));
    const network = await openNetwork();
    await network.attach(pod(""), never);
    const error = await failure(network.detach(pod(""), never));
    expect(error.code).toBe("unavailable");
    expect(error.message).toMatch(/detaching pod shop\/web from network caisson-test: .*two failed to DEL: agent is down/);
    expect(calls().slice(2)).toEqual(["DEL two", "DEL one"]);
    expect(cacheFiles()).toHaveLength(1);
    writeFileSync(join(dir, "repaired"), "");
    await network.detach(pod(""), never);
    expect(cacheFiles()).toEqual([]);
  });

  it("is deleted before a second ADD for the same pod", async () => {
    fake("one", `[ $CNI_COMMAND = DEL ] && exit 0\n${goodResult()}`);
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    await network.attach(pod(""), never);
    await network.attach(pod(""), never);
    expect(calls()).toEqual(["ADD one", "DEL one", "ADD one"]);
  });

  it("names a damaged file instead of forgetting an address", async () => {
    mkdirSync(cacheDir);
    writeFileSync(join(cacheDir, `caisson-test-${podId("a")}-eth0`), "{");
    const network = await openNetwork();
    const error = await failure(network.detach(pod(""), never));
    expect(error.code).toBe("data_loss");
    expect(error.message).toMatch(new RegExp(cacheDir));
  });
});

describe("the configuration", () => {
  it("is not there: not ready, and attach says so", async () => {
    const network = await openNetwork();
    expect(network.status()).toMatchObject({ ready: false, reason: "NetworkPluginNotReady", networkName: "" });
    expect(network.status().message).toMatch(/cni plugin not initialized/);
    expect((await failure(network.attach(pod(""), never))).code).toBe("unavailable");
    await network.detach(pod(""), never);
  });

  it("is noticed when it comes, changes by rename and goes", async () => {
    const network = await openNetwork();
    writeFileSync(join(confDir, ".10.tmp"), conflist([{ type: "one" }]));
    renameSync(join(confDir, ".10.tmp"), join(confDir, "10-a.conflist"));
    await until("loaded", () => network.status().ready);
    writeFileSync(join(confDir, ".05.tmp"), conflist([{ type: "one" }], { name: "other" }));
    renameSync(join(confDir, ".05.tmp"), join(confDir, "05-b.conflist"));
    await until("first by name", () => network.status().networkName === "other");
    rmSync(join(confDir, "05-b.conflist"));
    await until("back", () => network.status().networkName === "caisson-test");
    rmSync(join(confDir, "10-a.conflist"));
    await until("gone", () => !network.status().ready);
  });

  it("is not said to be loaded again when something else in its directory changes", async () => {
    configure(conflist([{ type: "one" }]));
    const network = await openNetwork();
    writeFileSync(join(confDir, "ZZZ-kubeconfig"), "x");
    writeFileSync(join(confDir, "99-broken.conf"), "{}");
    await sleep(200);
    expect(network.status().ready).toBe(true);
    expect(notices).toEqual([`network caisson-test is loaded from ${join(confDir, "10-test.conflist")}`]);
  });

  it("of the deployment example is valid", async () => {
    const example = readFileSync(join(import.meta.dirname, "../../deploy/10-caisson.conflist"), "utf8");
    configure(example);
    expect((await openNetwork()).status()).toMatchObject({ ready: true });
  });

  it("stays while its file is half written", async () => {
    configure(conflist([{ type: "one" }]));
    configure(conflist([{ type: "one" }], { name: "fallback" }), "20-other.conflist");
    const network = await openNetwork();
    configure(conflist([{ type: "one" }]).slice(0, 30));
    await until("the half file is seen", () => notices.some((notice) => /10-test\.conflist is skipped/.test(notice)));
    expect(network.status()).toMatchObject({ ready: true, networkName: "caisson-test" });
    configure(conflist([{ type: "one" }], { name: "renamed" }));
    await until("complete", () => network.status().networkName === "renamed");
  });

  it("is found in a directory that is made later, removed and made again", async () => {
    rmSync(confDir, { recursive: true });
    const network = await openNetwork({ confDirs: [confDir] });
    for (let round = 0; round < 2; round++) {
      rmSync(confDir, { recursive: true, force: true });
      await until("gone", () => !network.status().ready);
      mkdirSync(confDir);
      await sleep(120);
      configure(conflist([{ type: "one" }]));
      await until("loaded", () => network.status().ready);
    }
  });

  it("is found after something was mounted over the directory", async () => {
    const network = await openNetwork();
    execFileSync("mount", ["-t", "tmpfs", "caisson-test", confDir]);
    try {
      configure(conflist([{ type: "one" }]));
      await until("loaded", () => network.status().ready);
    } finally {
      execFileSync("umount", [confDir]);
    }
    await until("gone", () => !network.status().ready);
  });

  it("lets a 1.1 network's plugins free what belongs to nobody, when no pod comes or goes", async () => {
    fake("one", `[ $CNI_COMMAND = GC ] && { echo '{"code":5,"msg":"busy"}'; exit 1; }\n${goodResult()}`);
    fake("slow", `[ $CNI_COMMAND = ADD ] && while [ ! -e ${dir}/go ]; do sleep 0.02; done\n${goodResult()}`);
    configure(conflist([{ type: "one" }, { type: "slow" }], { cniVersion: "1.1.0" }));
    const network = await openNetwork();
    const attaching = network.attach(pod("", { netnsPath: "/proc/self/ns/net" }), never);
    await until("the second ADD", () => calls().includes("ADD slow"));
    const collected = failure(network.collect(() => true, never));
    await sleep(100);
    expect(calls().some((call) => call.startsWith("GC"))).toBe(false);
    writeFileSync(join(dir, "go"), "");
    await attaching;
    expect((await collected).message).toMatch(/one failed to GC: busy/);
    expect(calls().slice(-2)).toEqual(["GC one", "GC slow"]);
    expect(stdinOf("slow", "GC")).toMatchObject({
      cniVersion: "1.1.0",
      name: "caisson-test",
      type: "slow",
      "cni.dev/valid-attachments": [{ containerID: podId("a"), ifname: "eth0" }],
    });
    expect(readFileSync(join(dir, "slow.GC.env"), "utf8")).not.toMatch(/CNI_CONTAINERID|CNI_NETNS|CNI_IFNAME/);
  });

  it("keeps plugins from freeing anything when the list says so, or is of before 1.1", async () => {
    fake("one", goodResult());
    for (const more of [{ cniVersion: "1.1.0", disableGC: true }, { cniVersion: "1.0.0" }]) {
      configure(conflist([{ type: "one" }], more));
      await (await openNetwork()).collect(() => true, never);
    }
    expect(calls().filter((call) => call.startsWith("GC"))).toEqual([]);
  });

  it("asks a 1.1 network's plugins for their status", async () => {
    fake("one", `[ $CNI_COMMAND = STATUS ] && { echo '{"code":50,"msg":"agent not up"}'; exit 1; }\n${goodResult()}`);
    configure(conflist([{ type: "one" }], { cniVersion: "1.1.0" }));
    const network = await openNetwork();
    await until("not ready", () => !network.status().ready);
    expect(network.status().message).toMatch(/network caisson-test is not ready: .*agent not up/);
    const env = readFileSync(join(dir, "one.STATUS.env"), "utf8");
    expect(env).not.toMatch(/CNI_CONTAINERID|CNI_NETNS/);
  });
});
