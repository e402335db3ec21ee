/** Plugins of the Node Resource Interface beside real pods: what they are told, what they may change, and what their failure does. */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { failure, grpcStatus, type Message } from "../helpers/cri-client.ts";
import { CriNode } from "../helpers/cri-node.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { type Answer, type Handlers, muxPiece, NriPlugin, ttrpcFrame } from "../helpers/nri-plugin.ts";

let before: Inventory;
let node: CriNode;
let area: string;
let socket: string;
let installedLog: string;
let plugins: NriPlugin[] = [];
let count = 0;

beforeAll(async () => {
  before = takeInventory();
  area = mkdtempSync("/tmp/caisson-nri-");
  socket = join(area, "run/nri.sock");
  installedLog = join(area, "installed.log");
  for (const directory of ["plugins", "conf.d", "shown"]) mkdirSync(join(area, directory));
  writeFileSync(join(area, "shown/file"), "from the node");
  writeFileSync(join(area, "conf.d/witness.conf"), `${installedLog}\n`);
  const program = join(import.meta.dirname, "../helpers/nri-plugin-process.ts");
  writeFileSync(join(area, "plugins/05-witness"), `#!/bin/sh\nexec ${process.execPath} ${program}\n`, { mode: 0o755 });
  writeFileSync(join(area, "plugins/06-open"), "#!/bin/sh\n");
  chmodSync(join(area, "plugins/06-open"), 0o777);
  node = await CriNode.start({
    config: [
      "[nri]",
      `socket = "${socket}"`,
      `plugin_dir = "${area}/plugins"`,
      `config_dir = "${area}/conf.d"`,
      "registration_timeout_ms = 60000",
      "request_timeout_ms = 3000",
      'rejected = ["hooks"]',
      'tolerate_missing_annotation = "tolerate.example.test"',
      "",
    ].join("\n"),
  });
});
afterEach(async () => {
  for (const plugin of plugins.splice(0)) {
    plugin.close();
    await plugin.closed;
  }
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  rmSync(area, { recursive: true });
  await expectNoLeaks(before);
});

async function join_(name: string, handlers: Handlers = {}, index = "10", events = 0x1fff): Promise<NriPlugin> {
  const plugin = await NriPlugin.connect(socket, { name, index, handlers, events });
  plugins = [...plugins, plugin];
  // It is asked from the moment on in which the runtime has heard that it is synchronized.
  await waitFor(() => node.daemon.log().split(`"${index}-${name}"`).length > 1);
  return plugin;
}
async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
/** A pod of its own, removed in the end. */
async function inPod(work: (podId: string, pod: Message) => Promise<void>, more: Message = {}): Promise<void> {
  const pod = node.podConfig(`nri${count++}`, more);
  const podId = await node.runPod(pod);
  try {
    await work(podId, pod);
  } finally {
    await node.removePod(podId);
  }
}
const config = (more: Message = {}): Message => ({ ...node.containerConfig(`c${count++}`, ["/bin/sleep", "1000"], more) });
const create = (podId: string, pod: Message, container: Message): Promise<Message> =>
  node.client.runtime("CreateContainer", { pod_sandbox_id: podId, config: container, sandbox_config: pod });
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr } = await node.exec(id, ["/bin/sh", "-c", script]);
  return `${stdout}${stderr}`.trim();
};
const adjust = (adjustment: object): Handlers => ({ CreateContainer: () => ({ adjust: adjustment }) });

it("starts what is installed with its configuration and tells it of a pod's whole life, in order", async () => {
  const { mode } = statSync(socket);
  expect([mode & 0o777, statSync(join(area, "run")).mode & 0o777]).toEqual([0o600, 0o700]);
  expect(node.daemon.log()).toContain("06-open is not started: it must belong to root and not be writable by others");
  let [name, container] = ["", ""];
  await inPod(async (podId, pod) => {
    name = pod.metadata.name;
    const wanted = config();
    container = wanted.metadata.name;
    const id = await node.run(podId, pod, wanted);
    await node.client.runtime("UpdateContainerResources", { container_id: id, linux: { cpu_shares: 512 } });
    await node.client.runtime("UpdatePodSandboxResources", { pod_sandbox_id: podId, resources: { cpu_shares: 512 } });
  });
  const told = readFileSync(installedLog, "utf8").trim().split("\n");
  expect(told[0]).toBe("Synchronize ");
  expect(told.filter((line) => line.endsWith(` ${name}`) || line.endsWith(` ${container}`))).toEqual([
    `RunPodSandbox ${name}`,
    `CreateContainer ${container}`,
    `PostCreateContainer ${container}`,
    `StartContainer ${container}`,
    `PostStartContainer ${container}`,
    `UpdateContainer ${container}`,
    `PostUpdateContainer ${container}`,
    `UpdatePodSandbox ${name}`,
    `PostUpdatePodSandbox ${name}`,
    `StopContainer ${container}`,
    `StopPodSandbox ${name}`,
    `RemoveContainer ${container}`,
    `RemovePodSandbox ${name}`,
  ]);
});

it("gives a container what plugins want of it together, through the checks of the CRI", async () => {
  await join_("first", {
    CreateContainer: () => ({
      adjust: {
        annotations: { "example.test/by": "first" },
        env: [{ key: "BY", value: "first" }],
        mounts: [{ destination: "/shown", type: "bind", source: join(area, "shown"), options: ["rbind", "ro"] }],
        rlimits: [{ type: "RLIMIT_NOFILE", soft: 77n, hard: 99n }],
        linux: {
          devices: [{ path: "/dev/extra", type: "c", major: 1n, minor: 3n, fileMode: { value: 0o666 } }],
          resources: { memory: { limit: { value: 100n << 20n } }, pids: { limit: 55n }, cpu: { shares: { value: 512n } } },
          oomScoreAdj: { value: 321n },
          ioPriority: { class: 2, priority: 6 },
        },
      },
    }),
  });
  const second = await join_(
    "second",
    {
      CreateContainer: ({ container }) => {
        const seen = container?.env.includes("BY=first") && container.linux?.resources?.memory?.limit?.value === 100n << 20n;
        return {
          adjust: {
            env: [
              { key: "-BY", value: "" },
              { key: "BY", value: seen ? "second" : "nobody" },
            ],
          },
        };
      },
    },
    "20",
  );
  await inPod(async (podId, pod) => {
    const id = await node.run(podId, pod, config());
    const script = 'echo $BY; cat /shown/file; echo; touch /shown/x 2>&1 | grep -o "Read-only"; echo x >/dev/extra && echo wrote';
    expect((await sh(id, script)).split("\n")).toEqual(["second", "from the node", "Read-only", "wrote"]);
    expect(await sh(id, "grep 'open files' /proc/1/limits | tr -s ' '; cat /proc/1/oom_score_adj")).toContain(
      "Max open files 77 99",
    );
    expect(await sh(id, "cat /proc/1/oom_score_adj")).toBe("321");
    const { info } = await node.client.runtime("ContainerStatus", { container_id: id, verbose: true });
    const { linux, annotations, process } = JSON.parse(info.info).runtimeSpec;
    expect(linux.resources).toMatchObject({ memory: { limit: 100 << 20 }, pids: { limit: 55 }, cpu: { shares: 512 } });
    expect([annotations["example.test/by"], process.ioPriority]).toEqual(["first", { class: "IOPRIO_CLASS_BE", priority: 6 }]);
  });
  expect(second.methods()).toContain("RemovePodSandbox");
});

it("fails a container on which two plugins disagree, names both, and leaves nothing of it", async () => {
  await join_("one", adjust({ env: [{ key: "MODE", value: "a" }] }), "31");
  await join_("two", adjust({ env: [{ key: "MODE", value: "b" }] }), "32");
  await inPod(async (podId, pod) => {
    const { code, details } = await failure(create(podId, pod, config()));
    expect(code).toBe(grpcStatus.FAILED_PRECONDITION);
    expect(details).toContain('NRI plugins 31-one and 32-two both set Env "MODE"');
    const { containers } = await node.client.runtime("ListContainers", { filter: { pod_sandbox_id: podId } });
    expect(containers).toEqual([]);
  });
});

it("refuses what the configuration forbids, and what would reach the node", async () => {
  let wanted: object = {};
  await join_("greedy", { CreateContainer: () => ({ adjust: wanted }) });
  await inPod(async (podId, pod) => {
    const refused = async (adjustment: object): Promise<string> => {
      wanted = adjustment;
      const { code, details } = await failure(create(podId, pod, config()));
      return `${code}: ${details}`;
    };
    expect(await refused({ hooks: { prestart: [{ path: "/bin/true" }] } })).toContain(
      `${grpcStatus.PERMISSION_DENIED}: NRI plugin 10-greedy changes hooks of container`,
    );
    expect(await refused({ linux: { sysctl: { "kernel.panic": "1" } } })).toContain("it is not in a separate kernel namespace");
    expect(await refused({ linux: { sysctl: { "net.ipv4.ip_forward": "1" } } })).toContain("the node's network namespace");
    expect(await refused({ mounts: [{ destination: "/m", type: "bind", source: "/no/such", options: [] }] })).toContain(
      "does not exist",
    );
    expect(await refused({ mounts: [{ destination: "/m", type: "bind", source: "/a/../etc", options: [] }] })).toContain(
      'contains ".."',
    );
    expect(await refused({ mounts: [{ destination: "/m", type: "ext4", source: "/dev/sda", options: [] }] })).toContain(
      "is not allowed",
    );
    expect(await refused({ linux: { oomScoreAdj: { value: 1001n } } })).toContain("outside of -1000 to 1000");
    expect(await refused({ linux: { seccompPolicy: { defaultAction: "SCMP_ACT_WHATEVER" } } })).toContain("seccomp");
    expect(existsSync("/no/such")).toBe(false);
  });
});

it("fails a pod that has not been seen by a plugin that it requires: missing, refusing, silent or gone", async () => {
  const annotations = { "required-plugins.noderesource.dev": '["gate"]' };
  const run = (more: object = {}): Promise<unknown> => inPod(async () => {}, { annotations: { ...annotations, ...more } });
  const missing = await failure(run());
  expect(missing.code).toBe(grpcStatus.UNAVAILABLE);
  expect(missing.details).toContain("required NRI plugin gate is not connected");
  await run({ "tolerate.example.test": "true" });

  let answer: Answer = {};
  const gate = await join_("gate", { RunPodSandbox: () => answer });
  await run();
  answer = new Error("not today");
  expect((await failure(run())).details).toContain("NRI plugin 10-gate refuses RunPodSandbox: not today");
  answer = "never";
  const silent = await failure(run());
  expect([silent.code, silent.details]).toEqual([
    grpcStatus.UNAVAILABLE,
    "required NRI plugin 10-gate did not carry out RunPodSandbox: RunPodSandbox was not answered in 3000 ms",
  ]);
  await gate.closed;
  expect((await failure(run())).details).toContain("is not connected");
  const { items } = await node.client.runtime("ListPodSandbox", {});
  expect(items).toEqual([]);
});

it("closes a plugin that nobody requires when it is silent, and says so, without a word to the pod", async () => {
  const plugin = await join_("slow", { CreateContainer: () => "never" });
  await inPod(async (podId, pod) => {
    await node.run(podId, pod, config());
  });
  await plugin.closed;
  expect(node.daemon.log()).toContain("an NRI plugin is closed: CreateContainer was not answered in 3000 ms");
});

it("asks those who validate, with who wants what, and does as they say", async () => {
  await join_("wants", adjust({ env: [{ key: "X", value: "1" }] }), "10");
  const judge = await join_(
    "judge",
    { ValidateContainerAdjustment: () => ({ reject: true, reason: "no X here" }) },
    "90",
    1 << 13,
  );
  await inPod(async (podId, pod) => {
    const { code, details } = await failure(create(podId, pod, config()));
    expect([code, details]).toEqual([grpcStatus.PERMISSION_DENIED, expect.stringContaining("90-judge rejects")]);
    expect(details).toContain("no X here");
  });
  const request = await judge.saw("ValidateContainerAdjustment");
  const owners = request["owners"] as { owners: Record<string, { compound: object }> };
  expect(Object.values(owners.owners)[0]?.compound).toEqual({ 6: { owners: { X: "10-wants" } } });
});

it("tells a plugin of older make of what it has no method for by StateChange", async () => {
  const unimplemented = (): Error => new Error("unimplemented");
  const old = await join_("old", { RunPodSandbox: unimplemented, PostCreateContainer: unimplemented });
  await inPod(async (podId, pod) => {
    await node.run(podId, pod, config());
  });
  const changes = old.calls.filter(({ method }) => method === "StateChange").map(({ request }) => request["event"]);
  expect(changes).toEqual([1, 5]);
});

it("changes limits and ends containers when plugins want it", async () => {
  const plugin = await join_("limits", {
    UpdateContainer: ({ container }) => ({
      update: [{ containerId: container?.id, linux: { resources: { cpu: { shares: { value: 300n } }, pids: { limit: 44n } } } }],
    }),
  });
  await inPod(async (podId, pod) => {
    // It ends by the signal that comes before SIGKILL.
    const id = await node.run(podId, pod, {
      ...config(),
      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"],
    });
    const limits = async (): Promise<Message> => {
      const { info } = await node.client.runtime("ContainerStatus", { container_id: id, verbose: true });
      return JSON.parse(info.info).runtimeSpec.linux.resources;
    };
    await node.client.runtime("UpdateContainerResources", {
      container_id: id,
      linux: { cpu_shares: 512, memory_limit_in_bytes: 200 << 20 },
    });
    expect(await limits()).toMatchObject({ cpu: { shares: 300 }, pids: { limit: 44 }, memory: { limit: 200 << 20 } });
    const resources = { memory: { limit: { value: 150n << 20n } } };
    const reply = await plugin.call("UpdateContainers", {
      update: [
        { containerId: id, linux: { resources } },
        { containerId: "f".repeat(64), linux: { resources } },
        { containerId: "e".repeat(64), linux: { resources }, ignoreFailure: true },
      ],
    });
    expect((reply as { failed: { containerId: string }[] }).failed.map(({ containerId }) => containerId)).toEqual([
      "f".repeat(64),
    ]);
    expect(await limits()).toMatchObject({ cpu: { shares: 300 }, memory: { limit: 150 << 20 } });
    await plugin.call("UpdateContainers", { evict: [{ containerId: id, reason: "room is needed" }] });
    await plugin.saw("StopContainer", ({ container }) => container?.id === id);
    const { status } = await node.client.runtime("ContainerStatus", { container_id: id });
    expect(status.state).toBe("CONTAINER_EXITED");
  });
});

it("closes a connection that speaks no NRI, and goes on", async () => {
  const hostile = [
    muxPiece(2, Buffer.from([0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0])),
    Buffer.from([0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]),
    muxPiece(2, ttrpcFrame(2, 1, Buffer.alloc(0))),
    muxPiece(2, ttrpcFrame(1, 3, Buffer.alloc(0))),
    muxPiece(1, ttrpcFrame(1, 2, Buffer.alloc(0))),
    muxPiece(2, ttrpcFrame(1, 1, Buffer.from([0x0a, 0x7f, 0x01]))),
  ];
  for (const bytes of hostile) {
    const plugin = await join_("hostile");
    plugin.write(bytes);
    await plugin.closed;
  }
  await expect(join_("bad name!")).rejects.toThrow("is not made of letters");
  await inPod(async (podId, pod) => {
    await node.run(podId, pod, config());
  });
});

it("tells a plugin that comes back after a restart of everything that is there", async () => {
  const first = await join_("back");
  await inPod(async (podId, pod) => {
    const id = await node.run(podId, pod, config());
    await node.daemon.kill();
    await first.closed;
    await node.daemon.launch();
    const again = await join_("back");
    const { pods, containers } = (await again.saw("Synchronize")) as unknown as {
      pods: { id: string }[];
      containers: { id: string; state: number; args: string[] }[];
    };
    expect(pods.map((known) => known.id)).toEqual([podId]);
    expect(containers.map(({ id: known, state, args }) => [known, state, args])).toEqual([[id, 3, ["/bin/sleep", "1000"]]]);
    await node.client.runtime("StopContainer", { container_id: id, timeout: 0 });
    await again.saw("StopContainer", ({ container }) => container?.id === id);
  });
});
