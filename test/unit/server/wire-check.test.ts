import { describe, expect, it } from "vitest";
import {
  ContainerConfig,
  CreateContainerRequest,
  ListContainersRequest,
  RunPodSandboxRequest,
} from "../../../src/gen/cri/v1/api.ts";
import { mostElements } from "../../../src/lib/wire-shape.ts";
import { wireFault } from "../../../src/server/wire-check.ts";

const fault = (message: string, ...bytes: number[]): string | undefined => wireFault(`runtime.v1.${message}`, Buffer.from(bytes));

describe("a request's bytes", () => {
  it("are fine as the generated encoder writes them", () => {
    const config = ContainerConfig.fromPartial({
      metadata: { name: "ä", attempt: 4_294_967_295 },
      envs: [{ key: "A", value: Buffer.from([0xff, 0xfe]) }],
      labels: { "": "", constructor: "x" },
      linux: {
        resources: { cpuQuota: -1n, memoryLimitInBytes: 2n ** 63n - 1n },
        securityContext: { supplementalGroups: [1n, -1n] },
      },
      stopSignal: 15,
    });
    const bytes = Buffer.from(
      CreateContainerRequest.encode(CreateContainerRequest.fromPartial({ podSandboxId: "x", config })).finish(),
    );
    expect(wireFault("runtime.v1.CreateContainerRequest", bytes)).toBeUndefined();
    expect(CreateContainerRequest.decode(bytes).config).toEqual(config);
  });

  it("may have fields that a newer release added, and lists of numbers in either form", () => {
    expect(fault("VersionRequest", 0xfa, 0x01, 1, 0x61, 0xf0, 0x01, 5, 0xf5, 0x01, 1, 2, 3, 4)).toBeUndefined();
    expect(fault("PortForwardRequest", 0x10, 80, 0x12, 2, 80, 81)).toBeUndefined();
    expect(fault("VersionRequest")).toBeUndefined();
  });

  it.each<[string, string, number[], RegExp]>([
    [
      "a field that is longer than the message",
      "VersionRequest",
      [0x0a, 5, 0x61],
      /field 1 of runtime\.v1\.VersionRequest is longer/,
    ],
    [
      "a field that is longer than the message it is in",
      "RunPodSandboxRequest",
      [0x0a, 2, 0x12, 4, 0x61, 0x61, 0x61, 0x61],
      /longer/,
    ],
    ["a length of more than the rest of the world", "VersionRequest", [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], /longer/],
    ["a number without end", "VersionRequest", [0x10, ...Array<number>(11).fill(0xff)], /64 bits/],
    ["a number that is cut off", "VersionRequest", [0x10, 0x80], /cut off/],
    ["a fixed number that is cut off", "VersionRequest", [0x15, 1, 2], /cut off/],
    ["the end of a group", "VersionRequest", [0x0c, 0x0a, 1, 0x61], /wire type 4/],
    ["a group", "VersionRequest", [0x1b, 0x1c], /wire type 3/],
    ["field number 0", "VersionRequest", [0x02, 0], /number/],
    ["a string where a number belongs", "StopContainerRequest", [0x12, 1, 5], /field 2 .* wire type 2/],
    ["a number where a string belongs", "StopContainerRequest", [0x08, 1], /field 1 .* wire type 0/],
    ["text that is no UTF-8", "VersionRequest", [0x0a, 2, 0xc3, 0x28], /UTF-8/],
  ])("with %s are refused", (_, message, bytes, text) => {
    expect(fault(message, ...bytes)).toMatch(text);
  });

  it("with a map key that JavaScript would lose are refused", () => {
    const entry = Buffer.concat([Buffer.from([0x0a, 9]), Buffer.from("__proto__"), Buffer.from([0x12, 1, 0x61])]);
    const config = Buffer.concat([Buffer.from([0x32, entry.length]), entry]);
    const request = Buffer.concat([Buffer.from([0x0a, config.length]), config]);
    expect(Object.keys(RunPodSandboxRequest.decode(request).config?.labels ?? {})).toEqual([]);
    expect(wireFault("runtime.v1.RunPodSandboxRequest", request)).toMatch(/__proto__/);
  });

  it("with so many elements that they would fill the memory are refused (class-message-size)", () => {
    const filters = (count: number): Buffer => Buffer.concat(Array<Buffer>(count).fill(Buffer.from([0x0a, 0])));
    expect(wireFault("runtime.v1.ListContainersRequest", filters(mostElements))).toBeUndefined();
    expect(wireFault("runtime.v1.ListContainersRequest", filters(mostElements + 1))).toMatch(/elements/);
    expect(ListContainersRequest.decode(filters(1)).filter).toBeDefined();
  });
});
