import { PassThrough } from "node:stream";
import { describe, expect, it } from "vitest";
import { configOf, imageOptionsOf, processOf } from "../../../src/containers/container-requests.ts";
import { copyInput, OutputCopy } from "../../../src/containers/process-streams.ts";
import {
  ContainerCreateRequest,
  type ContainerInput,
  ContainerProcess,
  type ContainerStreamResponse,
} from "../../../src/gen/caisson/v1/container.ts";

function receiver(delayMs = 0) {
  const got: ContainerStreamResponse[] = [];
  const send = async (message: ContainerStreamResponse): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    got.push(message);
  };
  return { got, send };
}

async function* inputs(...all: ContainerInput[]): AsyncGenerator<ContainerInput> {
  yield* all;
}

describe("output", () => {
  it("arrives whole at a reader who is slow after the process's end", async () => {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    const { got, send } = receiver(40);
    const copy = new OutputCopy({ stdout, stderr }, send);
    for (let i = 0; i < 20; i++) stdout.write(`${i},`);
    stderr.end("bad");
    stdout.end();
    await copy.finish();
    expect(Buffer.concat(got.flatMap((one) => (one.stdout === undefined ? [] : [one.stdout]))).toString()).toMatch(/^0,1,.*19,$/);
    expect(got.some((one) => one.stderr?.toString() === "bad")).toBe(true);
  });

  it("does not wait for others who hold the pipe and write nothing", async () => {
    const stdout = new PassThrough();
    const { got, send } = receiver();
    const copy = new OutputCopy({ stdout, stderr: undefined }, send);
    stdout.write("all");
    await copy.finish();
    expect(got).toEqual([{ stdout: Buffer.from("all") }]);
    expect(stdout.destroyed).toBe(true);
  });

  it("is cut into messages that every client takes", async () => {
    const stdout = new PassThrough({ highWaterMark: 1 << 22 });
    const { got, send } = receiver();
    const copy = new OutputCopy({ stdout, stderr: undefined }, send);
    stdout.end(Buffer.alloc(1_000_000));
    await copy.finish();
    expect(Math.max(...got.map((one) => one.stdout?.length ?? 0))).toBeLessThanOrEqual(256 << 10);
    expect(got.reduce((sum, one) => sum + (one.stdout?.length ?? 0), 0)).toBe(1_000_000);
  });

  it("fails with its reader", async () => {
    const stdout = new PassThrough();
    const copy = new OutputCopy({ stdout, stderr: undefined }, () => Promise.reject(new Error("gone")));
    stdout.write("x");
    await expect(copy.finish()).rejects.toThrow("gone");
  });
});

describe("input", () => {
  it("comes in order, and is lost where nobody takes it any more", async () => {
    const stdin = new PassThrough();
    const sizes: unknown[] = [];
    const signals: string[] = [];
    const streams = {
      stdin,
      stdout: undefined,
      stderr: undefined,
      resize: (size: unknown) => void sizes.push(size),
      signal: async (name: string) => void signals.push(name),
    };
    const said = [{ stdin: Buffer.from("a") }, { resize: { rows: 1, columns: 2 } }, { signal: "HUP" }, { closeStdin: true }];
    await copyInput(inputs(...said, { stdin: Buffer.from("late") }), streams);
    expect([stdin.read()?.toString(), sizes, signals]).toEqual(["a", [{ rows: 1, cols: 2 }], ["HUP"]]);
    await expect(copyInput(inputs({ signal: "HUP" }), { ...streams, signal: undefined })).rejects.toThrow("Signal");
    await expect(copyInput(inputs({ stdin: Buffer.from("a") }), { ...streams, stdin: undefined })).rejects.toThrow(
      "without stdin",
    );
  });
});

describe("requests", () => {
  it("describe a process in one way only", () => {
    const of = (fields: Partial<ContainerProcess>) => processOf(ContainerProcess.fromPartial(fields));
    expect(of({ args: ["sh"], user: "me", size: { rows: 3, columns: 4 } })).toEqual({
      args: ["sh"],
      env: [],
      terminal: false,
      user: "me",
      consoleSize: { rows: 3, cols: 4 },
    });
    const oci = JSON.stringify({ args: ["sh"], cwd: "/", user: { uid: 1, gid: 2 } });
    expect(of({ ociProcess: oci })).toMatchObject({ args: ["sh"], user: { uid: 1, gid: 2 } });
    expect(() => of({ ociProcess: oci, args: ["sh"] })).toThrow("leave the other fields empty");
    expect(() => of({ ociProcess: "[]" })).toThrow("no JSON object");
    expect(() => of({ ociProcess: '{"args":["sh"],"cwd":"/","commandLine":"x"}' })).toThrow("cannot be honoured");
    expect(() => processOf(undefined)).toThrow("process is missing");
  });

  it("describe a container in one way only, with a bundle where that is needed", () => {
    const of = (fields: Partial<ContainerCreateRequest>) => configOf(ContainerCreateRequest.fromPartial(fields));
    expect(of({ config: '{"rootfs":"/r"}' })).toEqual({ rootfs: "/r" });
    expect(() => of({})).toThrow("exactly one");
    expect(() => of({ ociConfig: "{}", bundle: "relative" })).toThrow("not an absolute path");
    expect(() => of({ config: "{" })).toThrow("config is no JSON");
    expect(() => imageOptionsOf(undefined)).toThrow("images.directory");
  });
});
