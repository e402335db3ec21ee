import { describe, expect, it } from "vitest";
import { capabilitiesOf, capabilityBits, capabilityNames, capabilitySets } from "../../../../src/core/process/capabilities.ts";
import { ownLimits } from "../../../../src/core/process/own-limits.ts";
import { environmentOf } from "../../../../src/core/process/process-plan.ts";
import { processSettings } from "../../../../src/core/process/process-settings.ts";
import { parseHardLimits, resourceLimits, unlimited } from "../../../../src/core/process/resource-limits.ts";

const everything = (1n << 41n) - 1n;
const withoutResource = everything & ~capabilityBits(["CAP_SYS_RESOURCE"]);
const limitsText = `Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 20000                files     
Max locked memory         8388608              8388608              bytes     
Max nice priority         0                    0                    
`;

describe("capabilities", () => {
  it("have the kernel's numbers", () => {
    expect(capabilityBits(["CAP_CHOWN"])).toBe(1n);
    expect(capabilityBits(["CAP_SYS_ADMIN"])).toBe(1n << 21n);
    expect(capabilityBits(["cap_checkpoint_restore"])).toBe(1n << 40n);
    expect(capabilityNames).toHaveLength(41);
    expect(capabilitiesOf(5n)).toEqual(["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]);
  });

  it("are refused when nobody knows them", () => {
    expect(() => capabilityBits(["CAP_SYS_ADMlN"])).toThrow(/CAP_SYS_ADMlN/);
  });

  it("are cut to what the daemon has", () => {
    const names = ["CAP_SYS_RESOURCE", "CAP_CHOWN"];
    expect(capabilitySets({ bounding: names, permitted: names, effective: names }, withoutResource)).toEqual({
      bounding: 1n,
      permitted: 1n,
      effective: 1n,
      inheritable: 0n,
      ambient: 0n,
    });
  });

  it("are never effective or ambient without being permitted", () => {
    const sets = capabilitySets({ effective: ["CAP_KILL"], ambient: ["CAP_KILL"], inheritable: ["CAP_KILL"] }, everything);
    expect([sets.effective, sets.ambient]).toEqual([0n, 0n]);
  });

  it("are none without a word", () => {
    expect(Object.values(capabilitySets(undefined, everything)).every((bits) => bits === 0n)).toBe(true);
  });
});

describe("resource limits", () => {
  const ceiling = { hard: parseHardLimits(limitsText), mayRaise: false };

  it("are read from procfs", () => {
    expect(ceiling.hard.get(7)).toBe(20_000n);
    expect(ceiling.hard.get(0)).toBe(unlimited);
    expect(ceiling.hard.get(13)).toBe(0n);
  });

  it("always set the number of open files, which Node raises for itself", () => {
    expect(resourceLimits([], ceiling)).toEqual([{ resource: 7, soft: 1024n, hard: 20_000n }]);
  });

  it("are lowered to the daemon's own where they cannot be raised", () => {
    const asked = [{ type: "RLIMIT_NOFILE", soft: 65_536, hard: 1_048_576 }];
    expect(resourceLimits(asked, ceiling)).toEqual([{ resource: 7, soft: 20_000n, hard: 20_000n }]);
    expect(resourceLimits(asked, { ...ceiling, mayRaise: true })).toEqual([{ resource: 7, soft: 65_536n, hard: 1_048_576n }]);
  });

  it("know infinity in a JSON number", () => {
    expect(resourceLimits([{ type: "RLIMIT_CORE", soft: 2 ** 64, hard: -1 }], ceiling)).toContainEqual({
      resource: 4,
      soft: unlimited,
      hard: unlimited,
    });
  });

  it("are refused when they make no sense", () => {
    expect(() => resourceLimits([{ type: "RLIMIT_X", soft: 1, hard: 1 }], ceiling)).toThrow(/RLIMIT_X/);
    expect(() => resourceLimits([{ type: "RLIMIT_CORE", soft: 2, hard: 1 }], ceiling)).toThrow(/above/);
    const twice = { type: "RLIMIT_CORE", soft: 1, hard: 1 };
    expect(() => resourceLimits([twice, twice], ceiling)).toThrow(/twice/);
  });
});

describe("what the daemon has", () => {
  const status = (bits: bigint) =>
    `Name:\tnode\nCapPrm:\t${bits.toString(16).padStart(16, "0")}\nCapBnd:\t${bits.toString(16).padStart(16, "0")}\n`;

  it("is nothing to tell about when it is everything", () => {
    expect(ownLimits(status(everything), limitsText, "-500\n")).toMatchObject({ leastOomScoreAdj: -1000, sentences: [] });
  });

  it("is told in sentences when something is missing", () => {
    const own = ownLimits(status(withoutResource), limitsText, "-3\n");
    expect(own.leastOomScoreAdj).toBe(-3);
    expect(own.sentences.join("\n")).toMatch(/CAP_SYS_RESOURCE[\s\S]*oom_score_adj cannot go below -3/);
  });

  it("bounds the settings of a process, but not of one in a user namespace", () => {
    const own = ownLimits(status(withoutResource), limitsText, "0\n");
    const process = {
      user: { uid: 0, gid: 0 },
      args: [],
      env: [],
      cwd: "/",
      oomScoreAdj: -998,
      capabilities: { bounding: ["CAP_SYS_RESOURCE"] },
    };
    expect(processSettings(process, own, false, undefined)).toMatchObject({ oomScoreAdj: 0, capabilities: { bounding: 0n } });
    expect(processSettings(process, own, true, undefined).capabilities.bounding).toBe(1n << 24n);
  });

  it("says which limits only the host's root can raise", () => {
    const own = ownLimits(status(everything), limitsText, "0\n");
    const process = {
      user: { uid: 0, gid: 0 },
      args: [],
      env: [],
      cwd: "/",
      rlimits: [{ type: "RLIMIT_NOFILE", soft: 1, hard: 30_000 }],
    };
    expect(processSettings(process, own, true, undefined).raises).toEqual(new Set([7]));
  });
});

describe("the environment", () => {
  it("has the last value of each name and drops what names nothing", () => {
    expect(environmentOf(["A=1", "B=2", "=x", "none", "A=3=4"])).toEqual(["A=3=4", "B=2"]);
  });
});
