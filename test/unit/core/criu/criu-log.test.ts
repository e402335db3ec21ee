import { describe, expect, it } from "vitest";
import { condenseLog } from "../../../../src/core/criu/criu-log.ts";

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
