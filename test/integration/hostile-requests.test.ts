/** What no client would send, to every method of the real daemon: a proper code each time, nothing left, no memory or descriptor lost. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectHttp } from "node:http2";
import { connect as connectUnix } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { createFileRegistry, type DescMethod, fromBinary, fromJson, type JsonObject, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { descriptors } from "../../src/gen/descriptors.ts";
import type { Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { Dice, hostile } from "../helpers/hostile-messages.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { openDescriptors } from "../helpers/open-descriptors.ts";

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
const methods = ["runtime.v1.RuntimeService", "runtime.v1.ImageService"].flatMap(
  (name) => registry.getService(name)?.methods ?? [],
);
const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

let node: CriNode;
let client: Client;
let scratch: string;
let report: string;
let pod: Message;
let podId: string;
let containerId: string;

beforeAll(async () => {
  // Made before anything is counted.
  scratch = mkdtempSync(join(tmpdir(), "caisson-memory-"));
  report = join(scratch, "report.json");
  node = await CriNode.start({
    logLevel: "warn",
    env: {
      NODE_OPTIONS: `--expose-gc --import=${join(import.meta.dirname, "../helpers/collect-on-signal.ts")}`,
      CAISSON_TEST_MEMORY_REPORT: report,
    },
  });
  // Whatever looks like a name of an image is asked for here and nowhere else.
  const hosts = join(node.daemon.hostsDir, "_default");
  mkdirSync(hosts);
  writeFileSync(join(hosts, "hosts.toml"), `server = "http://${node.registry.host}"\n`);
  // The store's worker thread comes with the first megabyte that was written, and stays.
  await node.removePod(await node.runPod(node.podConfig("large", { annotations: { large: "x".repeat(700_000) } })));
  while (openDescriptors(node.daemon.pid).filter((name) => name.endsWith("caisson.db")).length < 2) await sleep(10);
  pod = node.podConfig("ground");
  podId = await node.runPod(pod);
  containerId = await node.run(podId, pod, node.containerConfig("steady", ["/bin/sleep", "10000"]));
  client = new Client(`unix://${node.daemon.socket}`, credentials.createInsecure(), {
    "grpc.default_authority": "localhost",
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
  });
});
afterAll(async () => {
  client.close();
  await node[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

/** A request that the method would answer, by the names of the proto file. */
function goodRequest(method: string, seed: number): JsonObject {
  const missing = "d".repeat(64);
  const sandbox = node.podConfig(`hostile-${seed}`, {
    dns_config: { servers: ["192.0.2.1"], searches: ["a.test"], options: ["ndots:1"] },
    port_mappings: [{ container_port: 80 }],
  });
  const container = node.containerConfig("hostile", ["/bin/true"], {
    envs: [{ key: "A", value: "Yg==" }],
    mounts: [{ container_path: "/data", host_path: node.logs, readonly: true }],
    devices: [{ container_path: "/dev/x", host_path: "/dev/null", permissions: "rwm" }],
    linux: {
      resources: { cpu_shares: "100", memory_limit_in_bytes: "67108864" },
      security_context: { capabilities: { add_capabilities: ["CHOWN"] }, run_as_user: { value: "1" } },
    },
  });
  const requests: Record<string, Message> = {
    RunPodSandbox: { config: sandbox },
    CreateContainer: { pod_sandbox_id: podId, config: container, sandbox_config: pod },
    UpdateContainerResources: { container_id: containerId, linux: { cpu_shares: "200" } },
    UpdatePodSandboxResources: { pod_sandbox_id: podId, resources: { cpu_shares: "200" } },
    ExecSync: { container_id: containerId, cmd: ["/bin/true"], timeout: "5" },
    Exec: { container_id: containerId, cmd: ["/bin/true"], stdout: true },
    Attach: { container_id: containerId, stdout: true },
    PortForward: { pod_sandbox_id: podId, port: [80] },
    PullImage: { image: { image: "no/such:1" }, auth: { username: "u", password: "p" } },
    ImageStatus: { image: { image: node.image }, verbose: true },
    // Nothing that is there: the ground stays as it is.
    RemoveImage: { image: { image: "no/such:1" } },
    CheckpointContainer: { container_id: missing, location: "/nowhere/x.tar" },
    UpdateRuntimeConfig: { runtime_config: { network_config: { pod_cidr: "192.0.2.0/24" } } },
  };
  const harmless = /^(Stop|Remove|Start|Checkpoint|Restore)/.test(method) ? missing : undefined;
  return (
    requests[method] ?? {
      pod_sandbox_id: harmless ?? podId,
      container_id: harmless ?? containerId,
      verbose: true,
      filter: { id: containerId },
    }
  );
}

function goodBytes(method: DescMethod, seed: number): Buffer {
  return Buffer.from(
    toBinary(method.input, fromJson(method.input, goodRequest(method.name, seed), { ignoreUnknownFields: true })),
  );
}

interface Outcome {
  readonly code: number;
  readonly details: string;
  readonly reply: Buffer | undefined;
}

const patienceMs = 60_000;
const same = (bytes: Buffer): Buffer => bytes;

function send(path: string, bytes: Buffer): Promise<Outcome> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      path,
      same,
      same,
      bytes,
      { deadline: Date.now() + patienceMs },
      (error: ServiceError | null, reply) => {
        resolve({ code: error?.code ?? status.OK, details: error?.details ?? "", reply });
      },
    );
  });
}

function sendStreaming(path: string, bytes: Buffer): Promise<Outcome> {
  return new Promise((resolve) => {
    const call = client.makeServerStreamRequest(path, same, same, bytes, { deadline: Date.now() + patienceMs });
    call.on("data", () => {});
    call.on("error", () => {});
    // The stream of events has no end of its own.
    if (path.endsWith("/GetContainerEvents")) call.on("metadata", () => setImmediate(() => call.cancel()));
    call.on("status", ({ code, details }) =>
      resolve({ code: details === "Cancelled on client" ? status.OK : code, details, reply: undefined }),
    );
  });
}

/** What a client can make of its mistake. INTERNAL and UNKNOWN would be our mistakes, DEADLINE_EXCEEDED a call that hangs. */
const proper: ReadonlySet<number> = new Set([
  status.OK,
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.ALREADY_EXISTS,
  status.FAILED_PRECONDITION,
  status.OUT_OF_RANGE,
  status.RESOURCE_EXHAUSTED,
]);

/** Codes that are proper for one reason only. */
const reasons: ReadonlyMap<number, RegExp> = new Map([
  [status.UNIMPLEMENTED, /is not implemented by this version/],
  [status.UNAVAILABLE, /^cni plugin not initialized/],
]);

/** What a hostile request made, if it was good enough to make something, is taken away again. */
async function undo(method: string, { code, reply }: Outcome): Promise<void> {
  if (code !== status.OK || reply === undefined) return;
  const id = reply.subarray(2).toString();
  if (method === "RunPodSandbox") await node.removePod(id);
  if (method === "CreateContainer") await node.client.runtime("RemoveContainer", { container_id: id });
}

async function attack(method: DescMethod, seed: number): Promise<string | undefined> {
  const bytes = hostile(method.input, goodBytes(method, seed), new Dice(seed));
  const outcome = await (method.methodKind === "server_streaming" ? sendStreaming : send)(pathOf(method), bytes);
  await undo(method.name, outcome);
  const said = reasons.get(outcome.code);
  if (proper.has(outcome.code) || said?.test(outcome.details)) return undefined;
  return `${method.name} seed ${seed}: ${status[outcome.code]} ${outcome.details.slice(0, 300)} for ${bytes.subarray(0, 200).toString("hex")}`;
}

/** `count` requests over all methods, some at a time; returns what was not answered properly. */
async function attackAll(from: number, count: number): Promise<string[]> {
  const wrong: string[] = [];
  let next = from;
  const worker = async (): Promise<void> => {
    while (next < from + count) {
      const seed = next++;
      const fault = await attack(methods[seed % methods.length] as DescMethod, seed);
      if (fault !== undefined) wrong.push(fault);
    }
  };
  await Promise.all(Array.from({ length: 4 }, worker));
  return wrong;
}

/** What is open, without the numbers that differ from one moment to the next. */
const kindsOf = (open: readonly string[]): readonly string[] =>
  open.map((line) => line.replace(/^\d+ -> /, "").replace(/:\[\d+\]$/, "")).sort();

function newKinds(before: readonly string[], after: readonly string[]): string[] {
  const left = [...before];
  return after.filter((kind) => {
    const at = left.indexOf(kind);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

async function memoryOfDaemon(): Promise<{ rss: number }> {
  rmSync(report, { force: true });
  process.kill(node.daemon.pid, "SIGUSR2");
  while (!existsSync(report)) await sleep(20);
  return JSON.parse(readFileSync(report, "utf8"));
}

describe("10,000 hostile requests over all methods", () => {
  let before: Inventory;
  let counts: { descriptors: readonly string[]; rss: number };
  const directories = (): string[] =>
    ["state/pods", "state/containers", "root/containers", "root/layers"].map((name) => `${node.daemon.base}/${name}`);

  it("the first 1,000 get proper codes", async () => {
    expect(methods).toHaveLength(43);
    before = takeInventory({ directories: directories() });
    expect(await attackAll(0, 1000)).toEqual([]);
    counts = { descriptors: kindsOf(openDescriptors(node.daemon.pid)), rss: (await memoryOfDaemon()).rss };
  }, 180_000);

  it("so do 9,000 more, and neither descriptors nor memory are lost", async () => {
    expect(await attackAll(1000, 9000)).toEqual([]);
    const { rss } = await memoryOfDaemon();
    const grown = (rss - counts.rss) / (1 << 20);
    console.log(`RSS ${(counts.rss / (1 << 20)).toFixed(1)} MiB after 1,000 requests, ${grown.toFixed(1)} MiB more after 10,000`);
    await expect
      .poll(() => newKinds(counts.descriptors, kindsOf(openDescriptors(node.daemon.pid))), { timeout: 10_000 })
      .toEqual([]);
    expect(grown).toBeLessThan(10);
  }, 300_000);

  it("nothing that they asked for is left, and the container of before still works", async () => {
    await expectNoLeaks(before, { directories: directories() });
    expect((await node.client.runtime("ListPodSandbox", {})).items).toHaveLength(1);
    expect((await node.client.runtime("ListContainers", {})).containers).toHaveLength(1);
    expect((await node.exec(containerId, ["/bin/echo", "still"])).stdout).toBe("still\n");
    expect(node.daemon.log()).not.toMatch(/"level":(50|60|"error"|"fatal")/);
  });
});

describe("what is no call at all", () => {
  /** Sends frames as they are; the answer's gRPC status, else its HTTP status. */
  function raw(headers: Record<string, string>, frames: readonly Buffer[]): Promise<number> {
    return new Promise((resolve, reject) => {
      const session = connectHttp("http://localhost", { createConnection: () => connectUnix(node.daemon.socket) });
      session.on("error", reject);
      const stream = session.request({
        ":method": "POST",
        ":path": "/runtime.v1.RuntimeService/Version",
        "content-type": "application/grpc",
        te: "trailers",
        ...headers,
      });
      let answer = Number.NaN;
      const take = (fields: Record<string, unknown>): void => {
        answer = Number(fields["grpc-status"] ?? (Number.isNaN(answer) ? fields[":status"] : answer));
      };
      stream
        .on("response", take)
        .on("trailers", take)
        .on("error", () => {});
      stream.on("close", () => session.close(() => resolve(answer)));
      stream.on("data", () => {});
      for (const frame of frames) stream.write(frame);
      stream.end();
    });
  }

  const framed = (flag: number, length: number, content: Buffer): Buffer => {
    const head = Buffer.alloc(5);
    head.writeUInt8(flag, 0);
    head.writeUInt32BE(length, 1);
    return Buffer.concat([head, content]);
  };
  const empty = framed(0, 0, Buffer.alloc(0));
  const bomb = gzipSync(Buffer.alloc(64 << 20));
  const { UNIMPLEMENTED, INTERNAL, RESOURCE_EXHAUSTED } = status;
  const unsupportedMediaType = 415;

  it.each<[string, Record<string, string>, readonly Buffer[], number]>([
    ["a method that does not exist", { ":path": "/runtime.v1.RuntimeService/Format" }, [empty], UNIMPLEMENTED],
    ["a service that does not exist", { ":path": "/runtime.v0.RuntimeService/Version" }, [empty], UNIMPLEMENTED],
    ["the path of nothing", { ":path": "/" }, [empty], UNIMPLEMENTED],
    ["a path that climbs", { ":path": "/../../etc/passwd" }, [empty], UNIMPLEMENTED],
    ["an object's own property as a path", { ":path": "/constructor" }, [empty], UNIMPLEMENTED],
    ["an endless path", { ":path": `/${"x".repeat(12_000)}` }, [empty], UNIMPLEMENTED],
    ["another content type", { "content-type": "application/json" }, [Buffer.from("{}")], unsupportedMediaType],
    ["no message", {}, [], UNIMPLEMENTED],
    ["a message that ends early", {}, [framed(0, 5000, Buffer.alloc(3))], UNIMPLEMENTED],
    ["a message of 4 GiB", {}, [framed(0, 0xffff_ffff, Buffer.alloc(3))], RESOURCE_EXHAUSTED],
    ["two messages", {}, [empty, empty], UNIMPLEMENTED],
    ["garbage that says it is compressed", { "grpc-encoding": "gzip" }, [framed(1, 3, Buffer.from("abc"))], INTERNAL],
    ["a bomb", { "grpc-encoding": "gzip" }, [framed(1, bomb.length, bomb)], RESOURCE_EXHAUSTED],
    ["an unknown compression", { "grpc-encoding": "rot13" }, [framed(1, 3, Buffer.from("abc"))], UNIMPLEMENTED],
  ])("%s", async (_, headers, frames, code) => {
    expect(await raw(headers, frames)).toBe(code);
    expect((await node.client.runtime("Version", {})).runtime_name).toBe("caisson");
  });
});
