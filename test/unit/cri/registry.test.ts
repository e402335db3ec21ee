import { beforeEach, describe, expect, it } from "vitest";
import { digestOf, newId, sandboxName } from "../../../src/cri/names.ts";
import { containerCodec, deepFreeze, type RecordCodec, sandboxCodec } from "../../../src/cri/records.ts";
import { Registry } from "../../../src/cri/registry.ts";
import { parse, stringify } from "../../../src/store/tagged-json.ts";
import { containerConfig, FakeNode, failure, podConfig, quiet } from "./fake/fake-node.ts";
import { FakeStore } from "./fake/fake-store.ts";

interface Thing {
  readonly id: string;
  readonly name: string;
  readonly revision: number;
  readonly value: string;
}
const plain: RecordCodec<Thing> = { encode: (record) => record, decode: (document) => document as Thing };
const thing = (id: string, value = "v"): Thing => ({ id, name: `name of ${id}`, revision: 1, value });

let store: FakeStore;
let things: Registry<Thing>;
const open = () => new Registry<Thing>("thing", store.collection("pods"), plain, quiet);
beforeEach(() => {
  store = new FakeStore();
  things = open();
});

describe("a registry", () => {
  it("finds by id, by unambiguous prefix and by name", () => {
    things.add(thing("abc1"));
    things.add(thing("abd2"));
    expect(things.find("abc1")?.id).toBe("abc1");
    expect(things.find("abc")?.id).toBe("abc1");
    expect(things.named("name of abd2")?.id).toBe("abd2");
    expect(things.find("zz")).toBeUndefined();
  });

  it("takes a full id although it begins another one", () => {
    things.add(thing("ab"));
    things.add(thing("abc"));
    expect(things.resolve("ab").id).toBe("ab");
  });

  it("refuses empty and ambiguous ids with another code than not_found", async () => {
    things.add(thing("abc1"));
    things.add(thing("abd2"));
    expect(await failure((async () => things.find(""))())).toMatchObject({ code: "invalid_argument" });
    expect(await failure((async () => things.find("ab"))())).toMatchObject({ code: "invalid_argument" });
    expect(await failure((async () => things.resolve("zz"))())).toMatchObject({ code: "not_found" });
  });

  it("writes before it remembers", () => {
    store.full = true;
    expect(() => things.add(thing("a"))).toThrow("full");
    expect(things.get("a")).toBeUndefined();
    store.full = false;
    things.add(thing("a"));
    store.full = true;
    expect(() => things.update("a", (old) => ({ ...old, value: "new" }))).toThrow("full");
    expect(things.get("a")?.value).toBe("v");
  });

  it("remembers facts that cannot be written, and writes them with the next change of any object", () => {
    things.add(thing("a"));
    things.add(thing("b"));
    store.full = true;
    things.updateRegardless("a", (old) => ({ ...old, value: "ended" }));
    expect(things.get("a")?.value).toBe("ended");
    store.full = false;
    things.update("b", (old) => old);
    expect((parse(store.documents.get("pods")?.get("a") ?? "") as Thing).value).toBe("ended");
  });

  it("counts revisions, and adopts only what is newer", () => {
    things.add(thing("a"));
    expect(things.update("a", (old) => ({ ...old, value: "2" })).revision).toBe(2);
    expect(things.adopt({ ...thing("a"), revision: 2, value: "other" })).toBe(false);
    expect(things.adopt({ ...thing("a"), revision: 3, value: "newer" })).toBe(true);
    expect(things.get("a")?.value).toBe("newer");
  });

  it("gives out snapshots that cannot be changed", () => {
    const record = things.add(thing("a"));
    expect(() => Object.assign(record, { value: "x" })).toThrow(TypeError);
  });

  it("frees the name with the object", () => {
    things.add(thing("a"));
    things.forget("a");
    expect(things.named("name of a")).toBeUndefined();
    expect(store.documents.get("pods")?.size).toBe(0);
  });

  it("reads back what is its own, and leaves the rest alone", () => {
    things.add(thing("a"));
    things.add(thing("b"));
    const again = open();
    again.load((record) => record.id === "a");
    expect(again.all().map((record) => record.id)).toEqual(["a"]);
    expect(store.documents.get("pods")?.size).toBe(2);
  });
});

describe("names", () => {
  it("differ for different identities, whatever characters are in them", () => {
    const name = (n: string, namespace: string) => sandboxName({ name: n, namespace, uid: "u", attempt: 0 });
    expect(name("a_b", "c")).not.toBe(name("a", "b_c"));
    expect(new Set(Array.from({ length: 100 }, newId)).size).toBe(100);
  });

  it("digests tell values apart that look alike", () => {
    const values = [
      { a: 1n },
      { a: 1 },
      { a: "1" },
      { a: ["1"] },
      { a: { b: "1" } },
      { a: Buffer.from("1") },
      { b: 1 },
      { a: "" },
    ];
    expect(new Set(values.map(digestOf)).size).toBe(values.length);
    expect(digestOf({ a: 1, b: 2 })).toBe(digestOf({ b: 2, a: 1 }));
  });
});

describe("codecs", () => {
  it("bring every field of a record back", async () => {
    using node = new FakeNode();
    await node.open();
    const pod = await node.pod({ annotations: { $bigint: "1", __x: "y" } });
    const id = await node.running(pod);
    const sandbox = node.app.sandboxes.resolve(pod);
    const container = node.app.containers.resolve(id);
    expect(sandboxCodec.decode(parse(stringify(sandboxCodec.encode(sandbox))))).toEqual(sandbox);
    expect(containerCodec.decode(parse(stringify(containerCodec.encode(container))))).toEqual(container);
    expect(container.config.envs[0]?.value).toEqual(Buffer.from([0xff, 0x41]));
  });
});

describe("freezing", () => {
  it("reaches into the depth and passes by bytes", () => {
    const config = deepFreeze(containerConfig());
    expect(Object.isFrozen(config.envs[0])).toBe(true);
    expect(config.envs[0]?.value).toEqual(Buffer.from([0xff, 0x41]));
    expect(Object.isFrozen(deepFreeze(podConfig()).labels)).toBe(true);
  });
});
