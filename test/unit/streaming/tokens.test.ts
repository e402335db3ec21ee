import { describe, expect, it } from "vitest";
import { Tokens } from "../../../src/streaming/tokens.ts";

function tokens(mostPending = 3): { all: Tokens<string>; pass: (ms: number) => void } {
  let now = 0;
  const all = new Tokens<string>({ ttlMs: 1000, mostPending }, () => now);
  return {
    all,
    pass: (ms) => {
      now += ms;
    },
  };
}

describe("tokens", () => {
  it("stand for something once", () => {
    const { all } = tokens();
    const token = all.issue("a");
    expect(all.redeem(token)).toBe("a");
    expect(all.redeem(token)).toBeUndefined();
    expect(all.redeem("nonsense")).toBeUndefined();
  });

  it("are too old from their time on, to the millisecond", () => {
    const { all, pass } = tokens();
    const [early, late] = [all.issue("early"), all.issue("late")];
    pass(999);
    expect(all.redeem(early)).toBe("early");
    pass(1);
    expect(all.redeem(late)).toBeUndefined();
  });

  it("are bounded in number; used and old ones make room (class-stream-tokens)", () => {
    const { all, pass } = tokens();
    const first = all.issue("1");
    for (const value of ["2", "3"]) all.issue(value);
    expect(() => all.issue("4")).toThrow(expect.objectContaining({ code: "resource_exhausted" }));
    all.redeem(first);
    all.issue("4");
    expect(() => all.issue("5")).toThrow(/3 streaming requests wait/);
    pass(1000);
    for (const value of ["5", "6", "7"]) all.issue(value);
  });

  it("are 192 random bits, fit for a path", () => {
    const { all } = tokens(1000);
    const issued = Array.from({ length: 1000 }, (_, i) => all.issue(String(i)));
    expect(new Set(issued).size).toBe(1000);
    for (const token of issued) expect(token).toMatch(/^[\w-]{32}$/);
  });
});
