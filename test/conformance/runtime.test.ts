/** Version, Status, RuntimeConfig, UpdateRuntimeConfig, and what holds for every RPC. */
import { Client, credentials } from "@grpc/grpc-js";
import { describe, expect } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, refused, unknownId, useCri } from "./cri.ts";
import { methods } from "./endpoint.ts";

const cri = useCri();

/** Bytes as they are on the wire, without a schema. */
async function raw(path: string, request: Buffer): Promise<Buffer> {
  const client = new Client(cri.endpoint.address, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
  try {
    return await new Promise((resolve, reject) => {
      const same = (bytes: Buffer): Buffer => bytes;
      const deadline = Date.now() + 10_000;
      client.makeUnaryRequest(path, same, same, request, { deadline }, (error, reply) =>
        error ? reject(error) : resolve(reply ?? Buffer.alloc(0)),
      );
    });
  } finally {
    client.close();
  }
}

describe("Version", () => {
  clause("all four strings are non-empty, version is 0.1.0 and runtime_api_version is v1", async () => {
    const reply = await cri.runtime("Version", { version: "0.1.0" });
    expect(reply).toMatchObject({ version: "0.1.0", runtime_api_version: "v1" });
    expect(reply.runtime_name).not.toBe("");
    expect(await cri.runtime("Version")).toEqual(reply);
  });

  clause("runtime_name can be the scheme of a container id and runtime_version is a semantic version", async () => {
    const { runtime_name, runtime_version } = await cri.runtime("Version", { version: "0.1.0" });
    expect(runtime_name).toMatch(/^[a-z][a-z0-9+.-]*$/);
    expect(runtime_version).toMatch(/^v?\d+\.\d+\.\d+/);
  });
});

describe("Status", () => {
  clause("status.conditions holds RuntimeReady, which is true, and NetworkReady", async () => {
    const { status } = await cri.runtime("Status");
    const types = status.conditions.map((condition: Message) => condition.type);
    expect(types).toEqual(expect.arrayContaining(["RuntimeReady", "NetworkReady"]));
    expect(new Set(types).size).toBe(types.length);
    expect(status.conditions.find((condition: Message) => condition.type === "RuntimeReady").status).toBe(true);
  });

  clause("a condition that is false has a CamelCase reason", async () => {
    const { status } = await cri.runtime("Status");
    for (const condition of status.conditions) {
      if (!condition.status) expect(condition.reason, condition.type).toMatch(/^[A-Z][A-Za-z0-9]+$/);
    }
  });

  clause("info is given only when verbose is asked for, and its values are JSON or plain text", async () => {
    expect((await cri.runtime("Status")).info).toEqual({});
    const { info } = await cri.runtime("Status", { verbose: true });
    expect(Object.keys(info)).not.toEqual([]);
    for (const value of Object.values(info) as string[]) if (/^[[{]/.test(value)) JSON.parse(value);
  });

  clause(
    "runtime_handlers have unique names, the default one being the empty name, each with features",
    { since: "1.30" },
    async () => {
      const { runtime_handlers: handlers } = await cri.runtime("Status");
      const names = handlers.map((handler: Message) => handler.name);
      expect(names).toContain("");
      expect(new Set(names).size).toBe(names.length);
      for (const handler of handlers) expect(handler.features).not.toBeNull();
    },
  );

  clause("features are reported", { since: "1.31" }, async () => {
    expect((await cri.runtime("Status")).features).not.toBeNull();
  });
});

describe("RuntimeConfig", () => {
  clause("it names the cgroup driver, SYSTEMD or CGROUPFS, and does not change its mind", { since: "1.28" }, async () => {
    const { linux } = await cri.runtime("RuntimeConfig");
    expect(["SYSTEMD", "CGROUPFS"]).toContain(linux.cgroup_driver);
    expect((await cri.runtime("RuntimeConfig")).linux).toEqual(linux);
  });
});

describe("UpdateRuntimeConfig", () => {
  clause("it takes a pod CIDR, a dual-stack pair, and the same again", async () => {
    for (const pod_cidr of ["10.88.0.0/16", "10.88.0.0/16,fd00:88::/64", "10.88.0.0/16"]) {
      await cri.runtime("UpdateRuntimeConfig", { runtime_config: { network_config: { pod_cidr } } });
    }
  });

  clause("an empty CIDR is no error and changes nothing", async () => {
    const { status } = await cri.runtime("Status");
    await cri.runtime("UpdateRuntimeConfig", { runtime_config: { network_config: { pod_cidr: "" } } });
    expect((await cri.runtime("Status")).status).toEqual(status);
  });
});

describe("every RPC", () => {
  clause("unknown fields of a request are ignored", async () => {
    // Field 200, a string of three bytes; and field 201, a varint.
    const reply = await raw("/runtime.v1.RuntimeService/Version", Buffer.from([0xc2, 0x0c, 3, 97, 98, 99, 0xc8, 0x0c, 1]));
    expect(reply.toString()).toContain("0.1.0");
  });

  clause("a message may be larger than gRPC's own default of 4 MiB, up to 16 MiB (class-message-size)", async () => {
    const size = 12 << 20;
    const varint = [(size & 127) | 128, ((size >> 7) & 127) | 128, ((size >> 14) & 127) | 128, size >> 21];
    const request = Buffer.concat([Buffer.from([0xc2, 0x0c, ...varint]), Buffer.alloc(size)]);
    expect((await raw("/runtime.v1.RuntimeService/Version", request)).toString()).toContain("0.1.0");
  });

  clause("a request that is no protobuf message is refused and the daemon goes on", async () => {
    await failure(raw("/runtime.v1.RuntimeService/RunPodSandbox", Buffer.from([0x0a, 0xff, 0xff])));
    await cri.runtime("Version");
  });

  clause("an object that does not exist is NotFound where its status, stats, exec or start is asked for", async () => {
    const container_id = unknownId;
    await refused(cri.runtime("PodSandboxStatus", { pod_sandbox_id: unknownId }), codes.missing);
    await refused(cri.runtime("ContainerStatus", { container_id }), codes.missing);
    await refused(cri.runtime("ContainerStats", { container_id }), codes.missing);
    await refused(cri.runtime("StartContainer", { container_id }), codes.missing);
    await refused(cri.runtime("ExecSync", { container_id, cmd: ["/bin/true"] }), codes.missing);
  });

  clause("an empty id is an error, not the first object that comes", async () => {
    const pod = await cri.pod();
    const id = await cri.create(pod, cri.containerConfig(["/bin/true"]));
    await refused(cri.runtime("PodSandboxStatus", { pod_sandbox_id: "" }), codes.any);
    await refused(cri.runtime("ContainerStatus", { container_id: "" }), codes.any);
    await refused(cri.runtime("StartContainer", { container_id: "" }), codes.any);
    await failure(cri.runtime("RemoveContainer", { container_id: "" })).catch(() => undefined);
    await failure(cri.runtime("StopPodSandbox", { pod_sandbox_id: "" })).catch(() => undefined);
    expect(await cri.status(id)).toMatchObject({ state: "CONTAINER_CREATED" });
    expect(await cri.podStatus(pod.id)).toMatchObject({ state: "SANDBOX_READY" });
  });

  clause("an RPC that is not built yet answers UNIMPLEMENTED with its name", { ours: true }, async () => {
    for (const { path, name, streams } of methods.filter((method) => !method.streams)) {
      const answer = await failure(raw(path, Buffer.alloc(0))).catch(() => undefined);
      expect(streams).toBe(false);
      if (answer?.code === grpcStatus.UNIMPLEMENTED) expect(answer.details).toContain(name);
    }
    const { code, details } = await failure(raw("/runtime.v1.RuntimeService/NoSuchThing", Buffer.alloc(0)));
    expect(grpcStatus[code]).toBe("UNIMPLEMENTED");
    expect(details).toContain("NoSuchThing");
  });

  clause("every RPC that a node needs for its pods is built", async () => {
    const needed = [
      ...["Version", "Status", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox"],
      ...["CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ContainerStatus", "ListContainers"],
      ...["ContainerStats", "ListContainerStats", "ExecSync", "Exec", "Attach", "PortForward"],
      ...["ReopenContainerLog", "UpdateRuntimeConfig"],
      ...["PullImage", "ImageStatus", "ListImages", "RemoveImage", "ImageFsInfo"],
    ];
    for (const name of needed) {
      const method = methods.find((one) => one.name === name);
      if (method === undefined) throw new Error(`the interface has no ${name}`);
      const answer = await failure(raw(method.path, Buffer.alloc(0))).catch(() => undefined);
      expect(answer?.code, name).not.toBe(grpcStatus.UNIMPLEMENTED);
    }
  });
});
