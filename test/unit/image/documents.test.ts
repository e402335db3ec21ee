import { describe, expect, it } from "vitest";
import { chainIds, digestOf } from "../../../src/image/digest.ts";
import { type IndexEntry, parseConfig } from "../../../src/image/documents.ts";
import { parseJson } from "../../../src/image/json.ts";
import { pinnedBy } from "../../../src/image/pinned.ts";
import { candidates, type Platform, runsOn } from "../../../src/image/platform.ts";

const bytes = (text: string): Buffer => Buffer.from(text);

describe("parseJson", () => {
  it("accepts equal keys in different objects and keys that look alike", () => {
    expect(parseJson(bytes('{"a":{"x":1},"b":[{"x":1},{"x":2}],"c":"{\\"a\\":1}","A":"a"}'), "doc")).toBeTruthy();
  });
  it.each([
    ["duplicate keys", '{"a":1,"b":{},"a":2}'],
    ["duplicate keys, written differently", '{"a":1,"\\u0061":2}'],
    ["duplicate keys deep inside", '{"x":[[{"k":1,"y":[],"k":2}]]}'],
    ["an array", "[]"],
    ["a string", '"x"'],
    ["null", "null"],
    ["two documents", "{}{}"],
    ["a comment", "{} // x"],
    ["depth beyond 64", `{"a":${"[".repeat(64)}${"]".repeat(64)}}`],
    ["nothing", ""],
  ])("refuses %s", (_, text) => {
    expect(() => parseJson(bytes(text), "doc")).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
  it("refuses bytes that are not UTF-8", () => {
    expect(() => parseJson(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), "doc")).toThrow(/UTF-8/);
  });
});

describe("parseConfig", () => {
  const config = (more: object): Buffer =>
    bytes(JSON.stringify({ os: "linux", architecture: "amd64", rootfs: { diff_ids: [] }, ...more }));
  it("takes null for absent", () => {
    const { config: found } = parseConfig(
      config({ config: { Env: null, Cmd: null, Volumes: null, Labels: null, User: null } }),
      "c",
    );
    expect(found).toMatchObject({ env: [], cmd: [], volumes: [], labels: {}, user: "" });
  });
  it.each([
    ["a number as user", { config: { User: 0 } }],
    ["numbers in a command", { config: { Cmd: [1] } }],
    ["a string as environment", { config: { Env: "A=1" } }],
    ["a second spelling", { config: {}, Config: {} }],
    ["diff ids that are none", { rootfs: { diff_ids: ["x"] } }],
    ["diff ids of another algorithm", { rootfs: { diff_ids: [`sha512:${"a".repeat(128)}`] } }],
  ])("refuses %s", (_, more) => {
    expect(() => parseConfig(config(more), "c")).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
});

describe("chainIds", () => {
  it("are the first diff id, then digests of pairs", () => {
    const [a, b, c] = ["a", "b", "c"].map((text) => digestOf(bytes(text)));
    const second = digestOf(bytes(`${a} ${b}`));
    expect(chainIds([a, b, c] as string[])).toEqual([a, second, digestOf(bytes(`${second} ${c}`))]);
    expect(chainIds([])).toEqual([]);
  });
});

describe("platforms", () => {
  const on = (architecture: string, variant = "", os = "linux"): Platform => ({ os, architecture, variant });
  const entry = (platform: Platform | undefined, digest: string): IndexEntry => ({
    mediaType: "",
    digest,
    sizeBytes: 1,
    platform,
    annotations: {},
  });
  it("knows what runs where", () => {
    expect(runsOn(on("amd64"), on("amd64"))).toBe(true);
    expect(runsOn(on("amd64"), on("x86_64"))).toBe(true);
    expect(runsOn(on("amd64"), on("amd64", "v3"))).toBe(false);
    expect(runsOn(on("amd64"), on("386"))).toBe(false);
    expect(runsOn(on("amd64"), on("amd64", "", "windows"))).toBe(false);
    expect(runsOn(on("arm64", "v8"), on("arm64"))).toBe(true);
    expect(runsOn(on("arm64", "v8"), on("aarch64", "v8"))).toBe(true);
    expect(runsOn(on("arm64", "v8"), on("arm64", "v9"))).toBe(false);
    expect(runsOn(on("arm", "v7"), on("arm", "v6"))).toBe(true);
    expect(runsOn(on("arm", "v6"), on("arm", "v7"))).toBe(false);
  });
  it("prefers the closest variant, keeps the order otherwise, and asks entries without platform last", () => {
    const entries = [
      entry(undefined, "bare"),
      entry(on("arm", "v5"), "5"),
      entry(on("unknown", "", "unknown"), "att"),
      entry(on("arm", "v7"), "7"),
      entry(on("arm", "v7"), "7b"),
    ];
    expect(candidates(on("arm", "v7"), entries).map((e) => e.digest)).toEqual(["7", "7b", "5", "bare"]);
  });
});

describe("pinnedBy", () => {
  it("matches normalised names and beginnings", () => {
    const pinned = pinnedBy(["pause:3.10", "registry.example/infra/*"]);
    expect(pinned(["docker.io/library/pause:3.10"])).toBe(true);
    expect(pinned(["docker.io/library/pause:3.9"])).toBe(false);
    expect(pinned(["x.example/y:1", "registry.example/infra/dns:1"])).toBe(true);
    expect(pinned([])).toBe(false);
  });
});
