import { describe, expect, it } from "vitest";
import { containerLogPath } from "../../../src/cri/log-path.ts";
import { ContainerConfig } from "../../../src/gen/cri/v1/api.ts";
import { podConfig } from "./translate-fixture.ts";

const join = (logDirectory: string, logPath: string) =>
  containerLogPath(podConfig({ logDirectory }), ContainerConfig.fromPartial({ logPath }));

describe("the path of a container's log", () => {
  it("lies below the pod's log directory", () => {
    expect(join("/var/log/pods/a", "app/0.log")).toBe("/var/log/pods/a/app/0.log");
    expect(join("/var/log/pods/a/", "/app//0.log")).toBe("/var/log/pods/a/app/0.log");
  });

  it("is null when either part is missing: output is discarded", () => {
    expect(join("", "app/0.log")).toBeNull();
    expect(join("/var/log/pods/a", "")).toBeNull();
  });

  it.each([
    ["/var/log/pods/a", "../b/0.log"],
    ["/var/log/pods/a", "x/../../b/0.log"],
    ["/var/log/pods/a", "."],
    ["/var/log/pods/a", "x/"],
    ["/var/log/pods/a", "x\ny"],
    ["/var/log/pods/a", "x\0y"],
    ["logs", "0.log"],
    ["/var/../etc", "0.log"],
    ["/var/log", "x".repeat(5000)],
  ])("refuses %j with %j (CVE-2025-0750)", (directory, path) => {
    expect(() => join(directory, path)).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });
});
