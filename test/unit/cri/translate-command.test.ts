import { describe, expect, it } from "vitest";
import { resolveArgs, resolveEnvironment, resolveWorkingDir } from "../../../src/cri/translate-command.ts";
import { bytesOfText } from "../../../src/lib/raw-text.ts";

const image = { entrypoint: ["/entry", "-x"], cmd: ["run"] };

describe("the command", () => {
  it.each([
    [["/bin/a"], ["1"], ["/bin/a", "1"]],
    [["/bin/a"], [], ["/bin/a"]],
    [[], ["1"], ["/entry", "-x", "1"]],
    [[], [], ["/entry", "-x", "run"]],
  ])("of command %j and args %j is %j", (command, args, expected) => {
    expect(resolveArgs({ command, args }, image)).toEqual(expected);
  });

  it("is an error when nobody names one", () => {
    expect(() => resolveArgs({ command: [], args: [] }, { entrypoint: [], cmd: [] })).toThrow(/no command specified/);
  });

  it("may not contain a NUL", () => {
    expect(() => resolveArgs({ command: ["/bin/a", "b\0c"], args: [] }, image)).toThrow(/argument 1 .* NUL/);
  });
});

describe("the environment", () => {
  const env = (ofImage: string[], envs: [string, string][], tty = false): string[] =>
    resolveEnvironment({ envs: envs.map(([key, value]) => ({ key, value: Buffer.from(value) })), tty }, { env: ofImage }, "web");

  it("starts with PATH and HOSTNAME", () => {
    expect(env([], [])).toEqual(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=web"]);
  });

  it("has TERM with a terminal", () => {
    expect(env(["PATH=/bin"], [], true)).toEqual(["PATH=/bin", "HOSTNAME=web", "TERM=xterm"]);
  });

  it("lets the image win over defaults, the config over the image, and later entries over earlier ones", () => {
    const result = env(
      ["PATH=/bin", "A=image", "B=image"],
      [
        ["A", "first"],
        ["C", "c=d"],
        ["A", "last"],
        ["HOSTNAME", "mine"],
      ],
    );
    expect(result).toEqual(["PATH=/bin", "HOSTNAME=mine", "A=last", "B=image", "C=c=d"]);
  });

  it("leaves out image entries without a value and keeps empty values", () => {
    expect(env(["PATH=/bin", "BARE"], [["EMPTY", ""]])).toEqual(["PATH=/bin", "HOSTNAME=web", "EMPTY="]);
  });

  it("keeps newlines, spaces and other alphabets in values", () => {
    expect(env(["PATH=/bin"], [["A", "x\ny ü"]])).toContain("A=x\ny ü");
  });

  it.each([
    ["", "v"],
    ["A=B", "v"],
    ["A\0", "v"],
    ["A", "v\0w"],
  ])("refuses name %j with value %j", (key, value) => {
    expect(() => env([], [[key, value]])).toThrow(expect.objectContaining({ code: "invalid_argument" }));
  });

  it("refuses a NUL in the image's variables", () => {
    expect(() => env(["A=b\0c"], [])).toThrow(/NUL/);
  });

  it("keeps bytes that are no text", () => {
    const envs = [{ key: "A", value: Buffer.from([0xff, 0x3d, 0xfe]) }];
    const last = resolveEnvironment({ envs, tty: false }, { env: [] }, "web").at(-1) ?? "";
    expect(bytesOfText(last)).toEqual(Buffer.from([0x41, 0x3d, 0xff, 0x3d, 0xfe]));
  });
});

describe("the working directory", () => {
  it.each([
    ["/a//b/", "/img", "/a/b"],
    ["", "/img/", "/img"],
    ["", "", "/"],
    ["/", "/img", "/"],
  ])("of config %j and image %j is %j", (workingDir, ofImage, expected) => {
    expect(resolveWorkingDir({ workingDir }, { workingDir: ofImage })).toBe(expected);
  });

  it.each([
    ["rel", ""],
    ["", "rel"],
    ["/a/../../b", ""],
    ["/a\0", ""],
  ])("refuses config %j and image %j", (workingDir, ofImage) => {
    expect(() => resolveWorkingDir({ workingDir }, { workingDir: ofImage })).toThrow(
      expect.objectContaining({ code: "invalid_argument" }),
    );
  });
});
