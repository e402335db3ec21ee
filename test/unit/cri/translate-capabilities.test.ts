import { describe, expect, it } from "vitest";
import type { OciCapabilities } from "../../../src/core/oci.ts";
import { capabilityNames } from "../../../src/core/process/capabilities.ts";
import { resolveCapabilities } from "../../../src/cri/translate-capabilities.ts";
import { Capability } from "../../../src/gen/cri/v1/api.ts";

const every = new Set<string>(capabilityNames);
const defaults = ["CHOWN", "NET_RAW"];
const give = (add: string[], drop: string[], privileged = false, held: ReadonlySet<string> = every) =>
  resolveCapabilities(Capability.fromPartial({ addCapabilities: add, dropCapabilities: drop }), privileged, defaults, held);
const bounding = (add: string[], drop: string[], privileged = false) => give(add, drop, privileged).sets.bounding;

describe("capabilities", () => {
  it("are the defaults without a word", () => {
    expect(resolveCapabilities(undefined, false, defaults, every).sets.bounding).toEqual(["CAP_CHOWN", "CAP_NET_RAW"]);
  });

  it("add and drop single ones, in any case, with or without the prefix", () => {
    expect(bounding(["sys_admin", "CAP_KILL", "cap_bpf"], ["Net_Raw"])).toEqual([
      "CAP_CHOWN",
      "CAP_KILL",
      "CAP_SYS_ADMIN",
      "CAP_BPF",
    ]);
  });

  it("drop what is added as well", () => {
    expect(bounding(["KILL"], ["KILL"])).toEqual(["CAP_CHOWN", "CAP_NET_RAW"]);
  });

  it("add ALL, drop one: all but that one", () => {
    expect(bounding(["all"], ["SYS_ADMIN"])).toEqual(capabilityNames.filter((name) => name !== "CAP_SYS_ADMIN"));
  });

  it("drop ALL, add one: only that one", () => {
    expect(bounding(["NET_BIND_SERVICE"], ["ALL"])).toEqual(["CAP_NET_BIND_SERVICE"]);
    expect(bounding([], ["ALL"])).toEqual([]);
  });

  it("drop ALL wins over add ALL", () => {
    expect(bounding(["ALL", "KILL"], ["ALL"])).toEqual(["CAP_KILL"]);
  });

  it("are all of them for a privileged container", () => {
    expect(bounding([], ["ALL"], true)).toEqual([...capabilityNames]);
  });

  it("are ambient, and so inheritable, where that is asked for and they are the container's", () => {
    const ambient = (add: string[], names: string[]): OciCapabilities =>
      resolveCapabilities(
        Capability.fromPartial({ addCapabilities: add, addAmbientCapabilities: names }),
        false,
        defaults,
        new Set([...every].filter((name) => name !== "CAP_SYS_TIME")),
      ).sets;
    const { ambient: kept, inheritable } = ambient(["KILL", "SYS_TIME"], ["kill", "SYS_TIME"]);
    expect([kept, inheritable]).toEqual([["CAP_KILL"], ["CAP_KILL"]]);
    expect(ambient([], ["ALL"]).ambient).toEqual(ambient([], []).bounding);
    expect(() => ambient([], ["SYS_ADMIN"])).toThrow(/CAP_SYS_ADMIN is not one of the container's/);
  });

  it("are the same in the three sets, and not inheritable or ambient unasked (CVE-2022-24769)", () => {
    const asked = Capability.fromPartial({ addCapabilities: ["KILL"] });
    const { sets } = resolveCapabilities(asked, false, defaults, every);
    expect(sets.effective).toEqual(sets.bounding);
    expect(sets.permitted).toEqual(sets.bounding);
    expect([sets.inheritable, sets.ambient]).toEqual([[], []]);
  });

  it("leave out what the daemon does not have, and say so", () => {
    const held = new Set(["CAP_CHOWN", "CAP_KILL"]);
    const { sets, lacking } = give(["KILL", "SYS_RESOURCE"], [], false, held);
    expect(sets.bounding).toEqual(["CAP_CHOWN", "CAP_KILL"]);
    expect(lacking).toEqual(["CAP_NET_RAW", "CAP_SYS_RESOURCE"]);
  });

  it.each(["FLY", "", "CAP_", "CAP_CAP_KILL", "KILL ", "__proto__"])("refuse the unknown name %j", (name) => {
    for (const asked of [
      [[name], []],
      [[], [name]],
    ] as const) {
      expect(() => give([...asked[0]], [...asked[1]])).toThrow(/unknown capability/);
    }
  });
});
