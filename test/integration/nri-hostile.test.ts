/** NRI plugins that are broken or mean harm: the daemon stays well, and pods go on or are refused as they ask for. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { grpcStatus } from "../helpers/cri-client.ts";
import { expectNoLeaks, type Inventory, takeInventory } from "../helpers/leak-check.ts";
import { NriNode, plainEvents, until } from "../helpers/nri-node.ts";
import { type Answer, muxPiece, NriPlugin, ttrpcFrame } from "../helpers/nri-plugin.ts";
import { openDescriptors } from "../helpers/open-descriptors.ts";

let before: Inventory;
let nri: NriNode;

beforeAll(async () => {
  before = takeInventory();
  nri = await NriNode.start(["request_timeout_ms = 2000", "registration_timeout_ms = 2000"]);
});
afterEach(() => nri.closePlugins());
afterAll(async () => {
  await nri[Symbol.asyncDispose]();
  await expectNoLeaks(before);
});

/** Stream of a CreateContainer that follows Configure and Synchronize. */
const createCall = 5;
const requiring = { annotations: { "required-plugins.noderesource.dev": "[bad]" } };
const header = (length: number, stream = 1, type = 2): Buffer => {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt32BE(length, 0);
  bytes.writeUInt32BE(stream, 4);
  bytes[8] = type;
  return bytes;
};
/** Always the same bytes. */
function* noise(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield state >>> 24;
  }
}
const random = (source: Generator<number, never>, length: number): Buffer =>
  Buffer.from(Array.from({ length }, () => source.next().value));

it("goes on without a plugin that breaks the protocol in the middle of a CreateContainer, or fails the pod that requires it", async () => {
  const descriptors = openDescriptors(nri.node.daemon.pid).length;
  const source = noise(7);
  const attacks: Readonly<Record<string, (plugin: NriPlugin) => Answer>> = {
    dies: (plugin) => {
      plugin.close();
      return "never";
    },
    "sends a frame that is too large": (plugin) => {
      plugin.write(muxPiece(1, header(0x7fff_ffff)));
      return "never";
    },
    "sends a piece that is too large": (plugin) => {
      plugin.write(Buffer.concat([Buffer.from([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), random(source, 100)]));
      return "never";
    },
    "answers with more than a frame holds": () => ({ adjust: { env: [{ key: "LONG", value: "x".repeat(5 << 20) }] } }),
    "answers with an endless list": () => ({ update: Array.from({ length: 120_000 }, () => ({ containerId: "" })) }),
    "sends garbage": (plugin) => {
      plugin.write(random(source, 4096));
      return "never";
    },
    "answers with garbage": (plugin) => {
      plugin.write(muxPiece(1, ttrpcFrame(createCall, 2, random(source, 300))));
      return "never";
    },
    "answers what was not asked": (plugin) => {
      plugin.write(muxPiece(1, ttrpcFrame(0x7fff_ffff, 2, Buffer.alloc(0))));
      return "never";
    },
    "answers with text that is none": (plugin) => {
      // The name of a variable.
      const answer = Buffer.from([0x12, 8, 0x0a, 6, 0x22, 4, 0x0a, 2, 0xff, 0xfe]);
      plugin.write(muxPiece(1, ttrpcFrame(createCall, 2, answer)));
      return "never";
    },
    "answers half": (plugin) => {
      plugin.write(muxPiece(1, header(1000, createCall)));
      plugin.write(Buffer.from([0, 0, 0, 1, 0, 0]));
      plugin.close();
      return "never";
    },
  };
  await nri.join("bad", {}, "40");
  await nri.inPod(async (podId, pod) => {
    await nri.inPod(async (requiringId, requiringPod) => {
      await nri.closePlugins();
      for (const [what, attack] of Object.entries(attacks)) {
        for (const required of [false, true]) {
          const bad: NriPlugin = await nri.join("bad", { CreateContainer: () => attack(bad) }, "40");
          if (required) {
            expect(await nri.refused(requiringId, requiringPod), what).toContain(
              `${grpcStatus.UNAVAILABLE}: required NRI plugin 40-bad did not carry out CreateContainer: `,
            );
          } else await nri.create(podId, pod, nri.sleeper());
          await bad.closed;
        }
      }
    }, requiring);
  });
  await until(() => openDescriptors(nri.node.daemon.pid).length <= descriptors + 2);
});

it("waits for a slow plugin as long as it may, once, and never for its late answer", async () => {
  const slow = await nri.join("bad", {
    CreateContainer: async () => {
      await new Promise((resolve) => setTimeout(resolve, 2500));
      return { adjust: { env: [{ key: "LATE", value: "1" }] } };
    },
  });
  await nri.inPod(async (podId, pod) => {
    const id = await nri.node.run(podId, pod, nri.sleeper());
    await slow.closed;
    expect(await nri.shell(id, "echo $LATE")).toBe("");
    await until(() => nri.node.daemon.log().includes("an NRI plugin is closed: CreateContainer was not answered in 2000 ms"));
  });
  // One that never takes what it is told of is no longer waited for either.
  const silent = await NriPlugin.connect(nri.socket, { name: "bad", index: "10", handlers: { Synchronize: () => "never" } });
  await nri.inPod(async () => {});
  await silent.closed;
});

it("refuses a second plugin of the same index and name, and the first one keeps its say", async () => {
  const first = await nri.join("twin", { CreateContainer: () => ({ adjust: { env: [{ key: "TWIN", value: "first" }] } }) });
  await expect(NriPlugin.connect(nri.socket, { name: "twin", index: "10" })).rejects.toThrow(
    "6: a plugin called 10-twin is connected already",
  );
  await nri.join("twin", {}, "11");
  await nri.inPod(async (podId, pod) => {
    const id = await nri.node.run(podId, pod, nri.sleeper());
    expect(await nri.shell(id, "echo $TWIN")).toBe("first");
  });
  first.close();
  await first.closed;
  await until(() => nri.node.daemon.log().includes('"10-twin","err"'));
  await nri.join("twin", {}, "10");
});

it("closes whoever lies in the handshake, with the reason in the log", async () => {
  const log = (): string => nri.node.daemon.log();
  // Unknown events.
  await nri.join("liar", { Configure: () => ({ events: 1 << 20 }) }).catch(() => {});
  await until(() => log().includes("it wants events that are not known: 0x100000"));
  // A second registration is refused; so are requests before it has been told of what is there.
  const twice = await nri.join("twice");
  await expect(twice.register()).rejects.toThrow("9: the plugin has registered already");
  const early = new NriPlugin(connect(nri.socket), { name: "early", index: "12" });
  await expect(early.call("UpdateContainers", {})).rejects.toThrow("9: the plugin has not been synchronized yet");
  early.close();
  // What it asks of us must be a message.
  twice.write(muxPiece(2, ttrpcFrame(99, 1, Buffer.from([0x0a, 0x50]))));
  await twice.closed;
});

it("takes no more than its share of connections that say nothing, or nonsense, and lets all of them go", async () => {
  const descriptors = openDescriptors(nri.node.daemon.pid).length;
  const sockets: Socket[] = [];
  const open = (bytes: Buffer): void => {
    const socket = connect(nri.socket);
    socket.on("error", () => {});
    socket.resume();
    socket.write(bytes);
    sockets.push(socket);
  };
  const source = noise(11);
  for (let at = 0; at < 30; at++) {
    open(Buffer.from([0, 0, 0, 2]));
    open(random(source, 200));
    open(muxPiece(2, ttrpcFrame(1, 1, random(source, 100))));
  }
  // A pod does not wait for any of them.
  await nri.inPod(async (podId, pod) => {
    await nri.node.run(podId, pod, nri.sleeper());
  });
  await Promise.all(sockets.map((socket) => (socket.closed ? undefined : once(socket, "close"))));
  for (const sentence of ["turned away: 64 others have connected and not registered", "it has not registered in 2000 ms"])
    expect([sentence, nri.node.daemon.log().includes(sentence)]).toEqual([sentence, true]);
  await until(() => openDescriptors(nri.node.daemon.pid).length <= descriptors + 2);
  await nri.join("honest");
});

it("refuses adjustments that are no such thing, and nothing of them reaches another container", async () => {
  let wanted: object = {};
  await nri.join("bad", { CreateContainer: () => ({ adjust: wanted }) });
  await nri.inPod(async (podId, pod) => {
    for (const [adjustment, sentence] of [
      [{ env: [{ key: "A=B", value: "" }] }, 'environment variable "A=B"'],
      [{ env: [{ key: "A", value: "x\0y" }] }, 'environment variable "A"'],
      [{ args: ["/bin/sh", "\0"] }, "arguments of an NRI plugin are not a command"],
      [{ annotations: { "a\nb": "" } }, "annotation"],
      [{ mounts: [{ destination: "/x\ny", type: "tmpfs", source: "tmpfs" }] }, "control characters"],
      [{ mounts: [{ destination: "/", type: "tmpfs", source: "tmpfs" }] }, "must not be at the root of the container"],
      [{ rlimits: [{ type: "RLIMIT_NONSENSE", soft: 1n, hard: 1n }] }, "RLIMIT_NONSENSE"],
      [{ linux: { devices: [{ path: "/dev/../etc/x", type: "c", major: 1n, minor: 3n }] } }, 'contains ".."'],
      [{ linux: { scheduler: { policy: 77 } } }, "scheduler policy 77"],
      [{ linux: { memoryPolicy: { mode: 2, nodes: "0-99999999999" } } }, "memoryPolicy.nodes"],
      [{ linux: { netDevices: { "../../x": {} }, namespaces: [{ type: "network" }] } }, 'network device name "../../x"'],
      [{ linux: { resources: { memory: { limit: { value: -5n } } } } }, "memory"],
      [{ CDIDevices: [{ name: "no such/device" }] }, "no such/device"],
    ] as const) {
      wanted = adjustment;
      expect(await nri.refused(podId, pod)).toContain(sentence);
    }
    wanted = {
      annotations: JSON.parse('{"__proto__": "x", "constructor": "y"}'),
      linux: { sysctl: JSON.parse('{"-__proto__": "x"}') },
    };
    const id = await nri.node.run(podId, pod, nri.sleeper());
    expect((await nri.spec(id)).annotations.constructor).toBe("y");
    wanted = {};
    const other = await nri.node.run(podId, pod, nri.sleeper());
    expect(Object.hasOwn((await nri.spec(other)).annotations, "constructor")).toBe(false);
  });
});

it("carries out no more of a flood of requests at once than it says", async () => {
  const flood = await nri.join("flood", {}, "10", plainEvents);
  await nri.inPod(async (podId, pod) => {
    const id = await nri.node.run(podId, pod, nri.sleeper());
    const update = [{ containerId: id, linux: { resources: { cpu: { shares: { value: 300n } } } } }];
    const answers = await Promise.allSettled(Array.from({ length: 200 }, () => flood.call("UpdateContainers", { update })));
    const refused = answers.flatMap((answer) => (answer.status === "rejected" ? [String(answer.reason)] : []));
    expect(refused.length).toBeGreaterThan(0);
    expect(new Set(refused)).toEqual(new Set(["Error: 8: 32 calls are under way"]));
    expect(answers.length - refused.length).toBeGreaterThanOrEqual(32);
    expect((await nri.spec(id)).linux.resources.cpu.shares).toBe(300);
    expect(await nri.shell(id, "echo well")).toBe("well");
  });
});
