/** The `caisson` command as a process, against a server with made-up answers. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InfoResponse } from "../../../src/gen/caisson/v1/node.ts";
import {
  Container,
  ContainerState,
  ContainerStatus,
  type ImageServiceServer,
  ImageServiceService,
  PodSandbox,
  PodSandboxState,
  type RuntimeServiceServer,
  RuntimeServiceService,
  StatusResponse,
} from "../../../src/gen/cri/v1/api.ts";
import { RuntimeError } from "../../../src/lib/errors.ts";
import type { Log } from "../../../src/lib/log.ts";
import type { Gate } from "../../../src/server/call.ts";
import { type GrpcServer, serveGrpc } from "../../../src/server/grpc-server.ts";
import { nodeService } from "../../../src/server/node-service.ts";
import { unary, withUnimplemented } from "../../../src/server/unary.ts";

const top = join(import.meta.dirname, "../../..");
const quiet = () => {};
const log = { trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet, fatal: quiet } as unknown as Log;
const gate: Gate = { log, requireReady: quiet, closing: new AbortController().signal };
const id = (letter: string): string => letter.repeat(64);
const minute = 60_000_000_000n;
const now = BigInt(Date.now()) * 1_000_000n;
const notFound = (what: string) => new RuntimeError("not_found", `${what} is not here`);
let runtimeReady = true;

const info = InfoResponse.fromPartial({
  version: "9.9.9",
  pid: 77n,
  ready: true,
  rootDir: "/r",
  stateDir: "/s",
  socket: "/sock",
  startedAt: now - 90n * minute,
  limitations: ["cannot raise limits"],
  leftovers: ["pod default/web: processes of container main do not end"],
  cgroupVersion: "hybrid",
});

const runtime: Partial<RuntimeServiceServer> = {
  version: unary("Version", gate, () => ({
    version: "0.1.0",
    runtimeName: "caisson",
    runtimeVersion: "9.9.9",
    runtimeApiVersion: "v1",
  })),
  status: unary("Status", gate, () =>
    StatusResponse.fromPartial({
      status: {
        conditions: [
          { type: "RuntimeReady", status: runtimeReady },
          { type: "NetworkReady", status: false, reason: "NetworkPluginNotReady", message: "no list" },
        ],
      },
    }),
  ),
  listPodSandbox: unary("ListPodSandbox", gate, () => ({
    items: [
      PodSandbox.fromPartial({
        id: id("a"),
        state: PodSandboxState.SANDBOX_NOTREADY,
        createdAt: now - 3n * minute,
        metadata: { name: "old", namespace: "default", uid: "u", attempt: 2 },
      }),
      PodSandbox.fromPartial({ id: id("b"), createdAt: now - minute, metadata: { name: "new", namespace: "kube", uid: "v" } }),
    ],
  })),
  listContainers: unary("ListContainers", gate, (_context, { filter }) => ({
    containers: [ContainerState.CONTAINER_RUNNING, ContainerState.CONTAINER_EXITED]
      .filter((state) => filter?.state === undefined || filter.state.state === state)
      .map((state) =>
        Container.fromPartial({
          id: id(state === ContainerState.CONTAINER_RUNNING ? "c" : "d"),
          state,
          createdAt: now,
          podSandboxId: id("b"),
          metadata: { name: "main" },
          image: { image: "sha256:1", userSpecifiedImage: "busybox" },
        }),
      ),
  })),
  containerStatus: unary("ContainerStatus", gate, (_context, { containerId }) => {
    if (containerId !== "cc") throw notFound(containerId);
    const runtimeSpec = JSON.parse(specText) as object;
    return {
      status: ContainerStatus.fromPartial({ id: id("c"), createdAt: 1_795_432_109_123_456_789n }),
      info: { info: JSON.stringify({ pid: 12, runtimeSpec }), plain: "text" },
    };
  }),
  podSandboxStatus: unary("PodSandboxStatus", gate, (_context, { podSandboxId }) => {
    throw notFound(podSandboxId);
  }),
};
const images: Partial<ImageServiceServer> = {
  imageStatus: unary("ImageStatus", gate, (_context, { image }) => {
    if (image?.image === "broken") throw new RuntimeError("invalid_argument", "broken is no reference");
    return { image: undefined, info: {} };
  }),
};

const specText = JSON.stringify({
  ociVersion: "1.2.0",
  process: { args: ["/bin/true"], env: ["A=b"], cwd: "/", user: { uid: 0, gid: 0 }, noNewPrivileges: true },
  root: { path: "rootfs", readonly: true },
  mounts: [{ destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] }],
  linux: { namespaces: [{ type: "mount" }, { type: "pid" }], maskedPaths: ["/proc/kcore"], cgroupsPath: "/pod/x" },
});

let directory: string;
let socket: string;
let server: GrpcServer;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "caisson-cli-"));
  socket = join(directory, "s");
  const event = (sequence: bigint, kind: string) => ({
    sequence,
    atNs: 1_000_000_000n + sequence * 5_000_000n,
    objectId: id("c"),
    kind,
  });
  server = await serveGrpc(
    socket,
    [
      {
        definition: RuntimeServiceService,
        implementation: withUnimplemented<RuntimeServiceServer>(RuntimeServiceService, gate, runtime),
      },
      {
        definition: ImageServiceService,
        implementation: withUnimplemented<ImageServiceServer>(ImageServiceService, gate, images),
      },
      nodeService(gate, {
        info: () => info,
        resolve: (asked) => {
          if (asked !== "cc") throw notFound(asked);
          return id("c");
        },
        events: async () => {},
        examine: async (_context, { checkNetwork }) => [
          { what: "cgroup", text: "/caisson/pods/x belongs to no pod" },
          ...(checkNetwork ? [{ what: "network", text: "pod default/web is not attached as it was" }] : []),
        ],
        timeline: () => [
          { ...event(1n, "created"), detail: {} },
          { ...event(3n, "started"), detail: { pid: 12 } },
        ],
      }),
    ],
    log,
  );
});

afterAll(async () => {
  await server.close(100);
  rmSync(directory, { recursive: true });
});

function caisson(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const env = { ...process.env, CAISSON_SOCKET: socket, NODE_NO_WARNINGS: "1" };
    execFile(process.execPath, [join(top, "src/cli/main.ts"), ...args], { env }, (error, out, err) =>
      resolve({ code: typeof error?.code === "number" ? error.code : 0, out, err }),
    );
  });
}

describe("caisson", () => {
  it("version tells both versions", async () => {
    const { code, out } = await caisson("version");
    expect(code).toBe(0);
    expect(out).toMatch(/^caisson \d+\.\d+\.\d+\ncaisson daemon 9\.9\.9, CRI v1\n$/);
  });

  it("status shows conditions and limitations; the exit code tells whether the runtime is ready", async () => {
    const well = await caisson("status");
    expect(well.out).toContain("caissond 9.9.9, pid 77, up 1 h, cgroup hybrid");
    expect(well.out).toMatch(/^NetworkReady {2}no {5}NetworkPluginNotReady {2}no list$/m);
    expect(well.out).toContain("limitation: cannot raise limits");
    expect(well.code).toBe(0);
    runtimeReady = false;
    expect((await caisson("status", "--json")).code).toBe(2);
    runtimeReady = true;
  });

  it("pods lists the newest first", async () => {
    const { out } = await caisson("pods");
    expect(out.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["POD", "STATE", "AGE", "NAMESPACE", "NAME", "ATTEMPT"],
      ["bbbbbbbbbbbbb", "ready", "1 min", "kube", "new", "0"],
      ["aaaaaaaaaaaaa", "not ready", "3 min", "default", "old", "2"],
      [""],
    ]);
    expect((await caisson("pods", "-q")).out).toBe(`${id("b")}\n${id("a")}\n`);
  });

  it("ps lists what runs, or all", async () => {
    expect((await caisson("ps", "--quiet")).out).toBe(`${id("c")}\n`);
    const { out } = await caisson("ps", "-a");
    expect(out).toMatch(/^ddddddddddddd {2}exited /m);
    expect(out).toMatch(/busybox$/m);
    expect(JSON.parse((await caisson("ps", "--json")).out)).toHaveLength(1);
  });

  it("inspect unfolds what verbose info holds, keeps times exact, and says when there is nothing", async () => {
    const { out } = await caisson("inspect", "cc");
    expect(out).toContain('"createdAt": "1795432109123456789"');
    expect(JSON.parse(out)).toMatchObject({ container: { id: id("c") }, info: { info: { pid: 12 }, plain: "text" } });
    const nothing = await caisson("inspect", "zz");
    expect([nothing.code, nothing.err]).toEqual([1, "caisson: nothing here has the id zz\n"]);
    expect((await caisson("inspect", "broken")).err).toBe("caisson: INVALID_ARGUMENT: broken is no reference\n");
  });

  it("timeline shows each step with the time since the last", async () => {
    const { out } = await caisson("timeline", "cc");
    expect(out).toContain(id("c"));
    expect(out).toMatch(/^3 {7}1970-01-01T00:00:01\.015000Z {2}\+10\.0 ms {4}started {2}pid=12$/m);
    expect((await caisson("timeline", "zz")).err).toBe("caisson: NOT_FOUND: zz is not here\n");
  });

  it("plan prints a container's operations and a bundle's, without a daemon for the latter", async () => {
    const live = await caisson("plan", "cc");
    expect(live.out).toMatch(/^ +\d+ {2}mask +path="\/proc\/kcore"$/m);
    expect(live.out.trimEnd().split("\n").at(-1)).toMatch(/exec +path="\/bin\/true"/);
    writeFileSync(join(directory, "config.json"), specText);
    const { out } = await caisson("plan", directory, "--json", "--socket", "/nonexistent");
    const ops = JSON.parse(out) as { op: string }[];
    expect(ops.map(({ op }) => op)).toContain("pivot");
    expect((await caisson("plan", "/nonexistent")).err).toBe("caisson: /nonexistent does not exist\n");
    writeFileSync(join(directory, "config.json"), "{}");
    const empty = await caisson("plan", directory);
    expect([empty.code, empty.err]).toEqual([1, expect.stringMatching(/^caisson: ociVersion "" is not of 1.x/)]);
  });

  it("doctor tells what is there", async () => {
    const { out } = await caisson("doctor", "--json");
    const findings = JSON.parse(out) as { what: string; verdict: string; text: string }[];
    expect(findings.find(({ what }) => what === "daemon")).toMatchObject({
      verdict: "ok",
      text: expect.stringContaining("9.9.9"),
    });
    expect(findings.map(({ what }) => what)).toContain("cgroups");
    expect(findings.slice(-2)).toEqual([
      { what: "leftover", verdict: "note", text: "pod default/web: processes of container main do not end" },
      { what: "cgroup", verdict: "note", text: "/caisson/pods/x belongs to no pod" },
    ]);
    expect((await caisson("doctor", "--network")).out).toContain("note     network: pod default/web is not attached as it was");
  });

  it("explains itself and refuses what it does not know", async () => {
    const { code, out } = await caisson("--help");
    expect(code).toBe(0);
    for (const verb of ["version", "status", "pods", "ps", "inspect", "timeline", "plan", "doctor"]) {
      expect(out).toContain(`  ${verb}`);
    }
    expect((await caisson("help", "ps")).out).toContain("--all");
    expect((await caisson("nonsense")).code).toBe(64);
    expect((await caisson("inspect")).code).toBe(64);
    expect((await caisson("ps", "--wrong")).code).toBe(64);
    expect(await caisson("ps", "--timeout", "x")).toMatchObject({ code: 64 });
  });

  it("says so when no daemon answers", async () => {
    const { code, err } = await caisson("ps", "-s", join(directory, "nobody"));
    expect(code).toBe(1);
    expect(err).toMatch(/^caisson: no daemon answers at .*nobody: start caissond.*\(connect ENOENT\)\n$/);
  });
});
