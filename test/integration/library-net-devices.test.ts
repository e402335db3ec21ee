/** Network devices of the host that become a container's. */
import { execFileSync } from "node:child_process";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Container, fromOciSpec } from "../../src/core/library/public.ts";
import { LibraryPlace, output, shell } from "../helpers/library-place.ts";

let place: LibraryPlace;
const ip = (...args: readonly string[]): string => execFileSync("ip", args, { encoding: "utf8" });
const [host, peer, second] = ["caisson-nd0", "caisson-nd1", "caisson-nd2"];
const links = () =>
  ip("-br", "link")
    .split("\n")
    .filter((line) => line.includes("caisson-nd"));

beforeAll(() => {
  place = new LibraryPlace();
});
afterAll(async () => {
  await place[Symbol.asyncDispose]();
});
afterEach(() => {
  for (const name of [host, second]) {
    try {
      execFileSync("ip", ["link", "del", name], { stdio: "ignore" });
    } catch {
      // It went away with the container's namespace.
    }
  }
});

async function end(container: Container): Promise<void> {
  await container.signal("KILL");
  await container.wait();
  await container.destroy();
}

function makePair(): void {
  ip("link", "add", host, "type", "veth", "peer", "name", peer);
  ip("addr", "add", "192.0.2.7/24", "brd", "+", "dev", host);
  ip("addr", "add", "198.51.100.9/32", "dev", host);
  ip("-6", "addr", "add", "2001:db8::7/64", "dev", host, "nodad");
  ip("link", "set", peer, "up");
}

const ids = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
const plain = ["mnt", "uts", "ipc", "pid", "net"] as const;

describe("network devices #net-devices", () => {
  it.each([
    ["a namespace of its own", plain, {}],
    ["a user namespace's", [...plain, "user"] as const, { uidMappings: ids, gidMappings: ids }],
  ])("move into %s under their new name, are up and keep their addresses", async (_, types, mappings) => {
    makePair();
    const container = await place.create({
      ...mappings,
      namespaces: types.map((type) => ({ type })),
      netDevices: { [host]: { name: "data0" } },
    });
    await container.run(shell("exec sleep 1000"));
    expect(links().some((line) => line.startsWith(host))).toBe(false);
    const shown = await output(container, "ip addr show dev data0");
    expect(shown).toMatch(/<[^>]*\bUP\b/);
    expect(shown).toContain("inet 192.0.2.7/24 brd 192.0.2.255 scope global data0");
    expect(shown).toContain("inet 198.51.100.9/32");
    expect(shown).toContain("inet6 2001:db8::7/64 scope global");
    expect(shown).toMatch(/fe80::/);
    await end(container);
  });

  it("keep their name without another, and more than one can move", async () => {
    makePair();
    ip("link", "add", second, "type", "veth", "peer", "name", "caisson-nd3");
    const container = await place.sleeping({ netDevices: { [host]: {}, [second]: { name: "eth7" } } });
    expect(await output(container, "ip link")).toMatch(new RegExp(`${host}[\\s\\S]*eth7|eth7[\\s\\S]*${host}`));
    await end(container);
  });

  it("that are not there, or whose new name is taken, fail the start and leave nothing", async () => {
    const missing = await place.create({ netDevices: { "caisson-none": {} } });
    await expect(missing.run(shell("true"))).rejects.toThrow(/network device caisson-none: .*no such device/i);
    await missing.destroy();
    makePair();
    const taken = await place.create({ netDevices: { [host]: { name: "lo" } } });
    await expect(taken.run(shell("true"))).rejects.toThrow(`${host} cannot be moved as lo`);
    await taken.destroy();
    expect(links().some((line) => line.startsWith(host))).toBe(true);
    expect(place.leftovers()).toEqual([]);
  });

  it.each([
    [{ netDevices: { "a/b": {} } }, 'network device name "a/b" is not valid'],
    [{ netDevices: { eth0: { name: "a name" } } }, 'network device name "a name" is not valid'],
    [{ netDevices: { a: { name: "x" }, b: { name: "x" } } }, "cannot both become x"],
    [{ netDevices: { a: {} }, namespaces: [{ type: "mnt" }, { type: "uts" }] as const }, "need a network namespace"],
  ])("are refused: %j", async (changes, message) => {
    await expect(place.create(changes)).rejects.toThrow(message);
  });
});

it("network devices of config.json are those of the container", () => {
  const linux = { namespaces: [{ type: "network" }], netDevices: { eth0: { name: "a" } } };
  const spec = { ociVersion: "1.3.0", root: { path: "/r" }, process: { cwd: "/", args: ["a"] }, linux };
  expect(fromOciSpec(spec, "/b").config.netDevices).toEqual({ eth0: { name: "a" } });
});
