import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, loadPackageDefinition, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";
import { service as healthService, protoPath } from "grpc-health-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  ContainerStatusResponse,
  ListContainersResponse,
  RuntimeServiceClient,
  type RuntimeServiceServer,
  RuntimeServiceService,
  type VersionResponse,
} from "../../../src/gen/cri/v1/api.ts";
import { descriptors } from "../../../src/gen/descriptors.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import type { Log } from "../../../src/lib/log.ts";
import type { Gate } from "../../../src/server/call.ts";
import { type GrpcServer, serveGrpc } from "../../../src/server/grpc-server.ts";
import { unary, withUnimplemented } from "../../../src/server/unary.ts";

let directory: string;
let socket: string;
let lines: { level: string; fields: Record<string, unknown>; message: string }[];
let server: GrpcServer | undefined;
let clients: Client[];
let ready: boolean;
let containerSignal: AbortSignal | undefined;

const log = Object.fromEntries(
  ["trace", "debug", "info", "warn", "error", "fatal"].map((level) => [
    level,
    (fields: Record<string, unknown>, message: string) => lines.push({ level, fields, message }),
  ]),
) as unknown as Log;
const closing = new AbortController();
const gate: Gate = {
  log,
  closing: closing.signal,
  requireReady: () => {
    if (!ready) throw new RuntimeError("unavailable", "recovery has not finished");
  },
};
const answer: VersionResponse = { version: "0.1.0", runtimeName: "caisson", runtimeVersion: "1", runtimeApiVersion: "v1" };

const failures: Readonly<Record<string, unknown>> = {
  ours: new RuntimeError("not_found", "container x does not exist"),
  foreign: Object.assign(new Error("exit"), { code: 5 }),
  string: "text",
  long: new RuntimeError("internal", `${"x".repeat(4095)}😀 and ${"y".repeat(100_000)}`),
  percent: new RuntimeError("invalid_argument", "100% of ünïcode\nin two lines"),
};

const table = withUnimplemented<RuntimeServiceServer>(RuntimeServiceService, gate, {
  version: unary("Version", gate, () => answer),
  startContainer: unary("StartContainer", gate, (_context, request: { containerId: string }) => {
    throw failures[request.containerId];
  }),
  stopContainer: unary("StopContainer", gate, async (context) => {
    containerSignal = context.signal;
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve, { once: true }));
    throw context.signal.reason;
  }),
  listContainers: unary("ListContainers", gate, () =>
    ListContainersResponse.fromPartial({ containers: [{ id: "x".repeat(16_000_000) }] }),
  ),
  containerStatus: unary("ContainerStatus", gate, () =>
    ContainerStatusResponse.fromPartial({ status: { createdAt: 2n ** 70n } }),
  ),
  execSync: unary("ExecSync", gate, (_context, request: { cmd: string[] }) => ({
    stdout: Buffer.alloc(Number(request.cmd[0])),
    stderr: Buffer.alloc(0),
    exitCode: request.cmd.join("").length,
  })),
});

const serve = (path = socket): Promise<GrpcServer> =>
  serveGrpc(path, [{ definition: RuntimeServiceService, implementation: table }], log);

function client(): RuntimeServiceClient {
  const made = new RuntimeServiceClient(`unix:${socket}`, credentials.createInsecure(), {
    "grpc.default_authority": "localhost",
    "grpc.max_receive_message_length": 16 << 20,
  });
  clients.push(made);
  return made;
}

function call<Response>(
  run: (reply: (error: ServiceError | null, response: Response) => void) => unknown,
): Promise<{ error: ServiceError | null; response: Response }> {
  return new Promise((resolve) => run((error, response) => resolve({ error, response })));
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "caisson-server-"));
  socket = join(directory, "caisson.sock");
  lines = [];
  clients = [];
  ready = true;
  containerSignal = undefined;
  server = await serve();
});

afterEach(async () => {
  for (const c of clients) c.close();
  await server?.close(1000);
  rmSync(directory, { recursive: true, force: true });
});

describe("a unary call", () => {
  it("answers, also with the authority and the tracing header of a Go client", async () => {
    const metadata = new Metadata();
    metadata.set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    metadata.set("baggage", "a=b");
    const { error, response } = await call<VersionResponse>((r) => client().version({ version: "0.1.0" }, metadata, r));
    expect(error).toBeNull();
    expect(response).toEqual(answer);
  });

  it.each([
    ["ours", status.NOT_FOUND, "container x does not exist"],
    ["foreign", status.INTERNAL, "exit"],
    ["string", status.INTERNAL, "text"],
    ["percent", status.INVALID_ARGUMENT, "100% of ünïcode\nin two lines"],
  ])("that fails with %s tells code and text, and is one line in the log", async (which, code, text) => {
    const { error } = await call((r) => client().startContainer({ containerId: which }, r));
    expect([error?.code, error?.details]).toEqual([code, text]);
    expect(lines.map((l) => [l.message, l.fields.rpc, l.fields.containerId])).toEqual([["rpc failed", "StartContainer", which]]);
  });

  it("cuts a text that would not fit into trailers, and not within a character", async () => {
    const { error } = await call((r) => client().startContainer({ containerId: "long" }, r));
    expect(error?.code).toBe(status.INTERNAL);
    expect(error?.details.length).toBeLessThan(4200);
  });

  it("is UNAVAILABLE with the reason until the daemon is ready", async () => {
    ready = false;
    const { error } = await call((r) => client().version({ version: "" }, r));
    expect([error?.code, error?.details]).toEqual([status.UNAVAILABLE, "recovery has not finished"]);
  });

  it("tells the verb when the caller hangs up", async () => {
    const pending = client().stopContainer({ containerId: "c", timeout: 0n }, () => {});
    while (containerSignal === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    pending.cancel();
    while (lines.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(lines[0]?.fields.status).toBe("CANCELLED");
    containerSignal = undefined;
  });

  it("tells the verb when the caller's deadline passes", async () => {
    const { error } = await call((r) =>
      client().stopContainer({ containerId: "c", timeout: 0n }, new Metadata(), { deadline: Date.now() + 100 }, r),
    );
    expect(error?.code).toBe(status.DEADLINE_EXCEEDED);
    while (lines.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(lines[0]?.fields.status).toBe("DEADLINE_EXCEEDED");
  });

  it("whose reply cannot be encoded is INTERNAL and is logged", async () => {
    const { error } = await call((r) => client().containerStatus({ containerId: "c", verbose: false }, r));
    expect(error?.code).toBe(status.INTERNAL);
    expect(lines.map((l) => [l.level, l.message])).toContainEqual(["error", "a reply could not be encoded"]);
  });

  it("carries up to 16 MiB both ways and refuses more with RESOURCE_EXHAUSTED", async () => {
    const big = await call<ListContainersResponse>((r) => client().listContainers({ filter: undefined }, r));
    expect(big.error).toBeNull();
    expect(big.response.containers[0]?.id.length).toBe(16_000_000);
    const sent = await call((r) => client().execSync({ containerId: "", cmd: ["1", "x".repeat(16_000_000)], timeout: 0n }, r));
    expect(sent.error).toBeNull();
    const tooBig = await call((r) => client().execSync({ containerId: "", cmd: ["17000000"], timeout: 0n }, r));
    expect(tooBig.error?.code).toBe(status.RESOURCE_EXHAUSTED);
    const tooBigRequest = await call((r) =>
      client().execSync({ containerId: "", cmd: ["1", "x".repeat(17_000_000)], timeout: 0n }, r),
    );
    expect(tooBigRequest.error?.code).toBe(status.RESOURCE_EXHAUSTED);
  });
});

describe("methods that are not built", () => {
  it("answer UNIMPLEMENTED with their name", async () => {
    const { error } = await call((r) => client().checkpointContainer({ containerId: "", location: "", timeout: 0n }, r));
    expect(error?.code).toBe(status.UNIMPLEMENTED);
    expect(error?.details).toMatch(/^CheckpointContainer is not implemented/);
  });

  it("do so on streams too, and before the daemon is ready", async () => {
    ready = false;
    const error = await new Promise<ServiceError>((resolve) => client().getContainerEvents({}).on("error", resolve));
    expect(error.code).toBe(status.UNIMPLEMENTED);
    expect(error.details).toMatch(/^GetContainerEvents is not implemented/);
  });
});

it("survives bytes that are no protobuf and bytes that are no HTTP/2", async () => {
  const raw = new Client(`unix:${socket}`, credentials.createInsecure());
  clients.push(raw);
  const pass = (bytes: Buffer): Buffer => bytes;
  for (const bytes of [Buffer.from([0xff]), Buffer.from([0x0a, 0x7f, 0x00]), Buffer.alloc(100, 0x0b)]) {
    const { error } = await call((r) => raw.makeUnaryRequest("/runtime.v1.RuntimeService/Version", pass, pass, bytes, r));
    expect(error).toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: expect.stringContaining("request of Version is malformed: field"),
    });
  }
  await new Promise<void>((resolve) => {
    const junk = connect(socket, () => junk.write("GET / HTTP/1.1\r\n\r\n"));
    junk
      .on("close", () => resolve())
      .on("error", () => {})
      .resume();
  });
  expect((await call<VersionResponse>((r) => client().version({ version: "" }, r))).response).toEqual(answer);
});

describe("the socket", () => {
  it("is root's alone", () => {
    expect(statSync(socket).mode & 0o777).toBe(0o600);
  });

  it("is not taken from a daemon that answers", async () => {
    await expect(serve()).rejects.toThrow(/another process answers at .*caisson\.sock/);
    expect((await call<VersionResponse>((r) => client().version({ version: "" }, r))).error).toBeNull();
  });

  it("is taken over when nobody answers", async () => {
    const stale = join(directory, "stale.sock");
    const dead = createServer();
    await new Promise<void>((resolve) => dead.listen(stale, resolve));
    // Closing would remove the name: leave it as a killed process does.
    const { renameSync } = await import("node:fs");
    renameSync(stale, `${stale}.moved`);
    await new Promise((resolve) => dead.close(resolve));
    renameSync(`${stale}.moved`, stale);
    const second = await serve(stale);
    await second.close(100);
  });

  it("is not put in the place of a file, nor into a directory where others may write", async () => {
    const file = join(directory, "file");
    writeFileSync(file, "");
    await expect(serve(file)).rejects.toThrow(/is not a socket/);
    const { chmodSync, mkdirSync } = await import("node:fs");
    const open = join(directory, "open");
    mkdirSync(open);
    chmodSync(open, 0o777);
    await expect(serve(join(open, "s"))).rejects.toThrow(/writable by others/);
    await expect(serve(join(directory, "x".repeat(120)))).rejects.toThrow(/longer than 107 bytes/);
  });

  it("is gone after the end, and a call under way gets its time", async () => {
    const slow = call((r) => client().stopContainer({ containerId: "c", timeout: 0n }, r));
    while (containerSignal === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    const startedAt = performance.now();
    await server?.close(200);
    server = undefined;
    expect(performance.now() - startedAt).toBeGreaterThan(190);
    expect((await slow).error).not.toBeNull();
    expect(existsSync(socket)).toBe(false);
  });
});

describe("generic clients", () => {
  it.each(["v1", "v1alpha"])("find every service and message by reflection %s", async (version) => {
    const raw = new Client(`unix:${socket}`, credentials.createInsecure());
    clients.push(raw);
    const { createRequire } = await import("node:module");
    const loader = await import("@grpc/proto-loader");
    const root = join(createRequire(import.meta.url).resolve("@grpc/reflection"), "../../proto");
    const loaded = loader.loadSync(`grpc/reflection/${version}/reflection.proto`, {
      includeDirs: [root],
      bytes: Buffer,
      keepCase: true,
    });
    const reflection = loaded[`grpc.reflection.${version}.ServerReflection`] as unknown as Record<
      string,
      { path: string; requestSerialize: (v: object) => Buffer; responseDeserialize: (b: Buffer) => object }
    >;
    const method = reflection.ServerReflectionInfo;
    if (method === undefined) throw new Error("no method");
    const ask = (request: object): Promise<Record<string, never>> =>
      new Promise((resolve, reject) => {
        const stream = raw.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize);
        stream.on("data", (reply: object) => resolve(reply as Record<string, never>)).on("error", reject);
        stream.write(request);
        stream.end();
      });
    const { list_services_response: list } = (await ask({ list_services: "*" })) as unknown as {
      list_services_response: { service: { name: string }[] };
    };
    expect(list.service.map((s) => s.name).sort()).toEqual([
      "caisson.v1.ContainerService",
      "caisson.v1.NodeService",
      "grpc.health.v1.Health",
      "grpc.reflection.v1.ServerReflection",
      "grpc.reflection.v1alpha.ServerReflection",
      "runtime.v1.ImageService",
      "runtime.v1.RuntimeService",
    ]);
    const { file_descriptor_response: found } = (await ask({
      file_containing_symbol: "runtime.v1.ContainerConfig",
    })) as unknown as {
      file_descriptor_response: { file_descriptor_proto: Uint8Array[] };
    };
    const files = found.file_descriptor_proto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
    const ours = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
    const theirs = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, "base64")));
    const message = files.flatMap((f) => f.messageType).find((m) => m.name === "ContainerConfig");
    const expected = ours.getMessage("runtime.v1.ContainerConfig")?.proto;
    expect(message?.field.map((f) => [f.name, f.number, f.type, f.label, f.typeName])).toEqual(
      expected?.field.map((f) => [f.name, f.number, f.type, f.label, f.typeName]),
    );
    expect(files.flatMap((f) => f.messageType).length).toBe(175);
    expect(theirs.getService("runtime.v1.RuntimeService")?.methods.length).toBe(37);
    // What a generic client does next: build a stub from the descriptors alone.
    expect(loadPackageDefinition(loadFileDescriptorSetFromBuffer(Buffer.from(descriptors, "base64"))).runtime).toBeDefined();
  });

  it("can ask for the health of the socket and of each service", async () => {
    expect(protoPath).toMatch(/health\.proto$/);
    const health = new Client(`unix:${socket}`, credentials.createInsecure());
    clients.push(health);
    const check = (
      healthService as unknown as Record<
        string,
        { path: string; requestSerialize: (v: object) => Buffer; responseDeserialize: (b: Buffer) => { status: string } }
      >
    ).Check;
    if (check === undefined) throw new Error("no Check");
    const ask = (name: string) =>
      call<{ status: string }>((r) =>
        health.makeUnaryRequest(
          check.path,
          check.requestSerialize,
          check.responseDeserialize,
          { service: name },
          (error, reply) => r(error, reply ?? { status: "" }),
        ),
      );
    expect((await ask("")).response.status).toBe("NOT_SERVING");
    server?.health.set(true);
    expect((await ask("runtime.v1.RuntimeService")).response.status).toBe("SERVING");
    expect((await ask("nonsense")).error?.code).toBe(status.NOT_FOUND);
  });
});
