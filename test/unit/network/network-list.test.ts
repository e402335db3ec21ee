import { describe, expect, it } from "vitest";
import { atLeast, parseNetworkList, parseSinglePlugin, serialiseNetworkList } from "../../../src/network/network-list.ts";

const list = (more: object = {}): object => ({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "bridge" }], ...more });

describe("network lists", () => {
  it("keeps a plugin's own keys and the capabilities that are switched on", async () => {
    const plugins = [{ type: "portmap", snat: true, capabilities: { portMappings: true, dns: false } }];
    const parsed = await parseNetworkList("f", list({ plugins }));
    expect(parsed.plugins[0]?.raw).toEqual(plugins[0]);
    expect([...(parsed.plugins[0]?.capabilities ?? [])]).toEqual(["portMappings"]);
  });

  it.each(["../../bin/sh", "/bin/sh", "a/b", "a\\b", "", ".", "..", "a\0b"])("refuses the plugin type %j", async (type) => {
    await expect(parseNetworkList("f", list({ plugins: [{ type }] }))).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it.each(["", "-net", ".net", "a b", "a/b", "../x", "a\n"])("refuses the network name %j", async (name) => {
    await expect(parseNetworkList("f", list({ name }))).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("refuses a list without plugins", async () => {
    await expect(parseNetworkList("f", list({ plugins: [] }))).rejects.toThrow(/has no plugins/);
  });

  it.each([
    [{ cniVersion: "0.4.0" }, "0.4.0"],
    [{ cniVersion: "0.4.0", cniVersions: ["1.0.0", "1.1.0", "2.0.0"] }, "1.1.0"],
    [{ cniVersion: "9.9.9", cniVersions: ["0.3.1"] }, "0.3.1"],
    [{ cniVersion: undefined }, "0.1.0"],
  ])("chooses the highest known version of %j", async (versions, chosen) => {
    expect((await parseNetworkList("f", list(versions))).cniVersion).toBe(chosen);
  });

  it("refuses a list that has only unknown versions", async () => {
    await expect(parseNetworkList("f", list({ cniVersion: "2.0.0" }))).rejects.toThrow(/unknown CNI version 2.0.0/);
  });

  it("adds plugin objects of the list's directory unless the list says that there are none", async () => {
    const extra = async (name: string) => [{ type: `extra-of-${name}`, capabilities: new Set<string>(), raw: { type: "x" } }];
    const types = async (more: object): Promise<string[]> =>
      (await parseNetworkList("f", list(more), extra)).plugins.map((plugin) => plugin.type);
    expect(await types({})).toEqual(["bridge", "extra-of-net"]);
    expect(await types({ loadOnlyInlinedPlugins: true })).toEqual(["bridge"]);
  });

  it("takes a file with one plugin as a list of one", () => {
    const parsed = parseSinglePlugin("f", { cniVersion: "0.3.1", name: "net", type: "bridge", mtu: 1400 });
    expect(parsed).toMatchObject({ name: "net", cniVersion: "0.3.1", plugins: [{ type: "bridge", raw: { mtu: 1400 } }] });
  });

  it("comes back the same from its serial form", async () => {
    const parsed = await parseNetworkList("f", list({ disableCheck: true, cniVersions: ["1.1.0"] }));
    const again = await parseNetworkList("g", JSON.parse(serialiseNetworkList(parsed)), async () => {
      throw new Error("must not look for more plugins");
    });
    expect(again).toEqual(parsed);
  });

  it("orders versions", () => {
    expect([atLeast("1.0.0", "0.4.0"), atLeast("0.3.1", "0.4.0"), atLeast("0.4.0", "0.4.0")]).toEqual([true, false, true]);
  });
});
