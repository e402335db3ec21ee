import { describe, expect, it } from "vitest";
import { parseSignal, resolveStopSignal } from "../../../src/cri/translate-signal.ts";
import { Signal } from "../../../src/gen/cri/v1/api.ts";

describe("names of signals", () => {
  it.each([
    ["SIGTERM", 15],
    ["term", 15],
    ["15", 15],
    ["SIGCLD", 17],
    ["IOT", 6],
    ["POLL", 29],
    ["SIGRTMIN", 34],
    ["RTMIN+3", 37],
    ["SIGRTMAX-1", 63],
    ["sigrtmax", 64],
  ])("%s is %d", (name, number) => {
    expect(parseSignal(name)).toBe(number);
  });

  it.each(["", "0", "65", "-1", "SIGFLY", "RTMIN-1", "RTMAX+1", "RTMIN+31", "__proto__", "constructor", "15 "])(
    "%j is none",
    (name) => {
      expect(parseSignal(name)).toBeUndefined();
    },
  );
});

describe("the stop signal", () => {
  it("is the config's, else the image's, else SIGTERM", () => {
    expect(resolveStopSignal(Signal.SIGNAL_SIGUSR1, "SIGQUIT").signal).toBe(10);
    expect(resolveStopSignal(Signal.SIGNAL_RUNTIME_DEFAULT, "SIGQUIT").signal).toBe(3);
    expect(resolveStopSignal(Signal.SIGNAL_RUNTIME_DEFAULT, "").signal).toBe(15);
  });

  it("has a number for each value of the CRI", () => {
    const numbers = Object.values(Signal)
      .filter((value) => value !== Signal.SIGNAL_RUNTIME_DEFAULT)
      .map((value) => resolveStopSignal(value, "").signal);
    expect(numbers.every((number) => number >= 1 && number <= 64)).toBe(true);
    expect(resolveStopSignal(Signal.SIGNAL_SIGRTMINPLUS15, "").signal).toBe(49);
    expect(resolveStopSignal(Signal.SIGNAL_SIGRTMAXMINUS14, "").signal).toBe(50);
    expect(resolveStopSignal(Signal.SIGNAL_SIGCLD, "").signal).toBe(17);
  });

  it("refuses a value that the CRI does not have", () => {
    expect(() => resolveStopSignal(99 as never, "")).toThrow(/unknown stop signal 99/);
  });

  it("is SIGTERM, with a note, when the image's makes no sense", () => {
    expect(resolveStopSignal(Signal.SIGNAL_RUNTIME_DEFAULT, "SIGFLY")).toEqual({
      signal: 15,
      note: expect.stringMatching(/"SIGFLY" is unknown: SIGTERM is used/),
    });
  });
});
