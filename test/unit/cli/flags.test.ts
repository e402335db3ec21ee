import { describe, expect, it } from "vitest";
import { linesOf } from "../../../src/cli/container/container-ps.ts";
import { parseDuration } from "../../../src/cli/container/events.ts";
import { descriptorsToPass } from "../../../src/cli/container/passed-descriptors.ts";
import { parseSize } from "../../../src/cli/container/resource-flags.ts";
import { type FlagTable, parseFlags } from "../../../src/cli/flags.ts";
import { mergeResources } from "../../../src/core/library/merge-resources.ts";

const table = {
  all: { short: "a", about: "" },
  quiet: { short: "q", about: "" },
  env: { short: "e", value: "X", about: "" },
} satisfies FlagTable;
const parse = (line: string, until: "first" | "end" = "end") => parseFlags(line === "" ? [] : line.split(" "), table, until);

describe("flags", () => {
  it("takes values behind a blank, behind =, and those that begin with a dash", () => {
    expect(parse("--env a --env=b -e c -e=d --env -1").flags.all("env")).toEqual(["a", "b", "c", "d", "-1"]);
    expect(parse("--env a=b=c").flags.one("env")).toBe("a=b=c");
  });

  it("takes switches alone, several in a word, with a value, and with one dash too few", () => {
    const on = (line: string) => [parse(line).flags.has("all"), parse(line).flags.has("quiet")];
    expect([on("--all"), on("-aq"), on("--all=false -q"), on("-all --quiet=true"), on("")]).toEqual([
      [true, false],
      [true, true],
      [false, true],
      [true, true],
      [false, false],
    ]);
  });

  it("leaves to a command of the caller's what follows its name", () => {
    expect(parse("-a id sh -c --env", "first").rest).toEqual(["id", "sh", "-c", "--env"]);
    expect(parse("id -a -- --env").rest).toEqual(["id", "--env"]);
    expect(parse("-").rest).toEqual(["-"]);
  });

  it.each(["--none", "-x", "-ax", "--env", "--all=perhaps", "-ae", "--constructor"])("refuses %s", (line) => {
    expect(() => parse(line)).toThrow(/no flag|wants a value|is a switch/);
  });
});

describe("values", () => {
  it("reads sizes and times", () => {
    expect(["64m", "1g", "100", "-1", "1.5k", "10MiB"].map(parseSize)).toEqual([64 << 20, 2 ** 30, 100, -1, 1536, 10 << 20]);
    for (const text of ["", "m", "-5m", "1x"]) expect(() => parseSize(text)).toThrow("is no size");
    expect(["5s", "500ms", "1m30s"].map(parseDuration)).toEqual([5000, 500, 90_000]);
    for (const text of ["", "5", "0s", "5s!"]) expect(() => parseDuration(text)).toThrow("is no time above 0");
  });

  it("lays limits over former ones field by field, and leaves device rules alone", () => {
    const former = {
      memory: { limit: 1, swap: 2 },
      devices: [{ type: "a", major: -1, minor: -1, allow: false }],
      unified: { a: "1" },
    } as const;
    const asked = { memory: { limit: 5 }, devices: [], pids: { limit: 3 }, unified: { b: "2" } };
    expect(mergeResources(former, asked)).toEqual({
      memory: { limit: 5, swap: 2 },
      devices: former.devices,
      pids: { limit: 3 },
      unified: { a: "1", b: "2" },
    });
  });

  it("finds the lines of processes by the column of pids", () => {
    const listing = "UID   PID COMMAND\nroot    7 a\nroot   17 b 7\n";
    expect(linesOf(listing, new Set([7]))).toEqual(["UID   PID COMMAND", "root    7 a"]);
    expect(() => linesOf("COMMAND\na\n", new Set([7]))).toThrow("couldn't find PID field in ps output");
  });

  it("passes no descriptors that were meant for another process", () => {
    expect(descriptorsToPass(0, { LISTEN_FDS: "3", LISTEN_PID: "1" })).toEqual({ fds: [], env: [] });
    expect(descriptorsToPass(0, {})).toEqual({ fds: [], env: [] });
    expect(() => descriptorsToPass(-1, {})).toThrow("--preserve-fds cannot be negative");
    expect(() => descriptorsToPass(900, {})).toThrow("is not open");
  });
});
