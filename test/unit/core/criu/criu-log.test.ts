import { describe, expect, it } from "vitest";
import { condenseLog, lastDescriptor, runawayConnection } from "../../../../src/core/criu/criu-log.ts";

describe("condenseLog", () => {
  it("tells what could not be saved, once, without places and times", () => {
    const log = `(00.062714) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.1) Warn  (criu/x.c:1): nothing
(00.2) Error (criu/sk-unix.c:10): unix: Unix socket 12 not found
(00.2)      1: Error (criu/sk-unix.c:10): unix: Unix socket 12 not found
(00.3) Error (criu/cr-dump.c:1690): Dump files (pid: 21485) failed with -1
(00.4) Error (criu/cr-dump.c:2111): Dumping FAILED.
`;
    expect(condenseLog(log)).toBe("unix: Unix socket 12 not found");
  });

  it("falls back on what CRIU says last", () => {
    expect(condenseLog("(00.4) Error (criu/cr-dump.c:2111): Dumping FAILED.\n")).toBe("Dumping FAILED.");
    expect(condenseLog("all is well\n")).toBe("");
  });
});

describe("lastDescriptor", () => {
  const rule = "(00.07) ----------------------------------------";
  const files = ["(00.05) Dumping opened files (pid: 40)", rule, "(00.07) 40 fdinfo 0: pos: 0 flags: 0/0"];
  const failed = "(00.08) Error (criu/sk-inet.c:200): inet: Connected TCP socket";

  it("is the one that CRIU was at, or none when it had got none", () => {
    const second = "(00.07) 40 fdinfo 7: pos: 0 flags: 2/0x1";
    expect(lastDescriptor([...files, second, failed, rule].join("\n"))).toEqual({ pid: 40, fd: 7 });
    expect(lastDescriptor([...files.slice(0, 2), failed].join("\n"))).toEqual({ pid: 40, fd: undefined });
  });

  it("is nobody's when descriptors were not the matter", () => {
    expect(lastDescriptor([...files, rule, failed].join("\n"))).toBeUndefined();
    expect(lastDescriptor("all is well\n")).toBeUndefined();
  });
});

describe("runawayConnection", () => {
  it("is the one that ends outside, with the processes that may hold it", () => {
    const log = [
      "(00.05) Dumping opened files (pid: 40)",
      "(00.06) Dumping opened files (pid: 41)",
      "(00.08) unix: \tRunaway socket: ino 7 peer_ino 9 family    1 type    1 state  1 name ",
      "(00.08) Error (criu/sk-unix.c:900): unix: External socket is used. Consider using --ext-unix-sk option.",
    ];
    expect(runawayConnection(log.join("\n"))).toEqual({ ends: ["7", "9"], pids: [40, 41] });
    expect(runawayConnection("all is well\n")).toBeUndefined();
  });
});
