import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CdiDevices } from "../../../../src/core/device/cdi.ts";
import type { OciSpec } from "../../../../src/core/oci.ts";

const base: OciSpec = {
  ociVersion: "1.3.0",
  process: { user: { uid: 1000, gid: 100, additionalGids: [100] }, args: ["x"], env: ["PATH=/bin", "A=1"], cwd: "/" },
  root: { path: "/" },
  mounts: [
    { destination: "/proc", type: "proc" },
    { destination: "/usr/lib/x", type: "bind", source: "/old", options: ["bind"] },
  ],
  linux: { devices: [], resources: { devices: [{ allow: false, access: "rwm" }] } },
};
const env = (value: string) => ({ env: [value] });
const spec = (more: object = {}) => ({
  cdiVersion: "1.1.0",
  kind: "vendor.com/gpu",
  devices: [
    { name: "0", containerEdits: env("GPU=0") },
    { name: "1", containerEdits: env("GPU=1") },
  ],
  ...more,
});
const edits = (containerEdits: object, cdiVersion = "1.1.0") => spec({ cdiVersion, devices: [{ name: "d", containerEdits }] });

let scratch: string;
let problems: string[];
let looked: string[];
let cdi: CdiDevices;
const write = (path: string, content: object | string): void =>
  writeFileSync(join(scratch, path), typeof content === "string" ? content : JSON.stringify(content));
const inject = (...names: string[]) => cdi.inject(base, names);
const envOf = async (...names: string[]) => (await inject(...names)).process.env.slice(2);
const refusal = async (...names: string[]) => {
  const error = await inject(...names).then(
    () => undefined,
    (caught: unknown) => caught,
  );
  return error as { code: string; message: string };
};

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "caisson-cdi-"));
  mkdirSync(join(scratch, "static"));
  mkdirSync(join(scratch, "dynamic"));
  problems = [];
  looked = [];
  cdi = new CdiDevices({
    directories: [join(scratch, "static"), join(scratch, "dynamic"), join(scratch, "missing")],
    onProblem: (sentence) => problems.push(sentence),
    identify: async (path) => {
      looked.push(path);
      return path.includes("block") ? { type: "b", major: 7, minor: 3 } : { type: "c", major: 1, minor: 3 };
    },
  });
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

describe("names", () => {
  it("bring the edits of their devices, and those of their file once and first", async () => {
    write("static/a.json", spec({ containerEdits: env("ALL=gpus") }));
    expect(await envOf("vendor.com/gpu=1", "vendor.com/gpu=0", "vendor.com/gpu=1")).toEqual(["ALL=gpus", "GPU=0"]);
    expect(await envOf("vendor.com/gpu=1")).toEqual(["ALL=gpus", "GPU=1"]);
  });

  it("change nothing, and read nothing, when there are none", async () => {
    write("static/a.json", "broken");
    expect(await inject()).toBe(base);
    expect(problems).toEqual([]);
  });

  it("that nobody describes are all named in the error, with the files that could not be read", async () => {
    write("static/a.json", spec());
    write("dynamic/b.json", "{");
    const { code, message } = await refusal("vendor.com/gpu=0", "vendor.com/gpu=7", "other/x=y");
    expect(code).toBe("failed_precondition");
    expect(message).toMatch(/^unresolvable CDI devices: "vendor.com\/gpu=7", "other\/x=y"; specifications that cannot be used: /);
    expect(message).toContain("dynamic/b.json: ");
  });

  it.each(["gpu0", "vendor.com/gpu", "/gpu=0", "vendor.com/=0", "vendor.com/gpu=", "9v/gpu=0", "v/gpu=-0", "v/g/h=0", "v/g=a b"])(
    "like %s are refused as such",
    async (name) =>
      expect(await refusal(name)).toMatchObject({ code: "invalid_argument", message: expect.stringContaining(name) }),
  );

  it("of a later directory win, those of two files of one directory are a conflict", async () => {
    write("static/a.json", spec());
    write("dynamic/b.json", spec({ devices: [{ name: "0", containerEdits: env("GPU=dynamic") }] }));
    expect(await envOf("vendor.com/gpu=0", "vendor.com/gpu=1")).toEqual(["GPU=1"]);
    expect(await envOf("vendor.com/gpu=0")).toEqual(["GPU=dynamic"]);
    write("dynamic/c.json", spec({ devices: [{ name: "0", containerEdits: env("GPU=other") }] }));
    expect((await refusal("vendor.com/gpu=0")).message).toMatch(/"vendor.com\/gpu=0" \(both .*b\.json and .*c\.json have it\)/);
    expect(await envOf("vendor.com/gpu=1")).toEqual(["GPU=1"]);
  });
});

describe("files", () => {
  it("are read again when they change, appear and vanish", async () => {
    write("static/a.json", spec());
    expect(await envOf("vendor.com/gpu=0")).toEqual(["GPU=0"]);
    write("static/a.json", spec({ devices: [{ name: "0", containerEdits: env("GPU=changed") }] }));
    expect(await envOf("vendor.com/gpu=0")).toEqual(["GPU=changed"]);
    write("dynamic/n.json", spec({ kind: "vendor.com/net", devices: [{ name: "e", containerEdits: env("N=1") }] }));
    expect(await envOf("vendor.com/net=e")).toEqual(["N=1"]);
    rmSync(join(scratch, "static/a.json"));
    expect((await refusal("vendor.com/gpu=0")).code).toBe("failed_precondition");
  });

  it("that cannot be used are complained about once, and again when they change", async () => {
    write("static/a.json", spec());
    write("static/bad.json", "{");
    await inject("vendor.com/gpu=0");
    await inject("vendor.com/gpu=0");
    expect(problems).toEqual([expect.stringMatching(/^CDI specification .*bad\.json cannot be used: /)]);
    write("static/bad.json", "{{");
    await inject("vendor.com/gpu=0");
    expect(problems).toHaveLength(2);
  });

  it("of YAML have octal modes, unquoted numbers as names, and anchors", async () => {
    write(
      "static/a.yaml",
      `---
cdiVersion: 0.5.0
kind: vendor.com/gpu
devices:
  - name: 0
    containerEdits: &edits
      deviceNodes:
        - { path: /dev/gpu0, fileMode: 0640, type: c, major: 9, minor: 1 }
  - name: all
    containerEdits: *edits
`,
    );
    for (const name of ["0", "all"]) {
      expect((await inject(`vendor.com/gpu=${name}`)).linux.devices).toMatchObject([{ path: "/dev/gpu0", fileMode: 0o640 }]);
    }
  });

  it("of other names are left alone", async () => {
    write("static/a.json.tmp", spec());
    write("static/a.yml", spec());
    expect((await refusal("vendor.com/gpu=0")).message).toBe('unresolvable CDI devices: "vendor.com/gpu=0"');
  });

  it("that are no files, or that everybody may write, are not used", async () => {
    mkdirSync(join(scratch, "static/dir.json"));
    execFileSync("mkfifo", [join(scratch, "static/fifo.json")]);
    write("static/open.json", spec());
    chmodSync(join(scratch, "static/open.json"), 0o666);
    const { message } = await refusal("vendor.com/gpu=0");
    expect(message).toContain("open.json: everybody on the node may write it");
    expect(message).toContain("dir.json: it is not a regular file");
    expect(message).toContain("fifo.json: it is not a regular file");
  });

  it.each<[string, object | string, RegExp]>([
    ["with an unknown field", spec({ surprise: 1 }), /unknown field surprise/],
    [
      "with one deep inside",
      edits({ deviceNodes: [{ path: "/dev/x", cgroup: "rw" }] }),
      /unknown field .*deviceNodes\.0\.cgroup/,
    ],
    ["with a key twice", '{"cdiVersion":"0.3.0","cdiVersion":"0.4.0"}', /unique/],
    ["of an unknown version", spec({ cdiVersion: "2.0.0" }), /cdiVersion: is none of/],
    ["without a kind", { ...spec(), kind: undefined }, /kind is missing/],
    ["of a kind without a class", spec({ kind: "vendor.com" }), /VENDOR\/CLASS/],
    ["without devices", spec({ devices: [] }), /names no device/],
    ["with a device twice", spec({ devices: [0, 0].map(() => ({ name: "d", containerEdits: env("A=1") })) }), /d is there twice/],
    ["with a device that edits nothing", edits({ env: [] }), /edit nothing/],
    ["with a variable that is none", edits(env("=x")), /NAME=VALUE/],
    ["with a relative device", edits({ deviceNodes: [{ path: "dev/x" }] }), /not an absolute path/],
    ["with a device of an unknown type", edits({ deviceNodes: [{ path: "/dev/x", type: "s" }] }), /type/],
    ["with a wildcard number", edits({ deviceNodes: [{ path: "/dev/x", major: -1 }] }), /major/],
    ["with permissions that are none", edits({ deviceNodes: [{ path: "/dev/x", permissions: "rx" }] }), /subset of "rwm"/],
    ["with a mount of nothing", edits({ mounts: [{ hostPath: "", containerPath: "/x" }] }), /is empty/],
    ["with an unknown hook", edits({ hooks: [{ hookName: "later", path: "/bin/x" }] }), /hookName/],
    ["with a NUL in a path", edits({ mounts: [{ hostPath: "/a\0b", containerPath: "/x" }] }), /NUL/],
    ["with a class of service that is a path", edits({ intelRdt: { closID: "../x" } }), /class of service/],
    ["with annotations of no name", spec({ annotations: { "a b": "c" } }), /annotation/],
    ["that is a list", [spec()], /is a list/],
  ])("%s are not used", async (_, content, reason) => {
    write("static/a.json", content);
    const { message } = await refusal("vendor.com/gpu=d");
    expect(message).toContain("a.json: ");
    expect(message).toMatch(reason);
  });

  it.each<[string, string, object]>([
    ["0.4.0", "type of a mount", edits({ mounts: [{ hostPath: "x", containerPath: "/x", type: "tmpfs" }] })],
    ["0.5.0", "hostPath of a device node", edits({ deviceNodes: [{ path: "/dev/x", hostPath: "/dev/y" }] })],
    ["0.5.0", "the name 0", spec({ devices: [{ name: "0", containerEdits: env("A=1") }] })],
    ["0.6.0", "annotations", spec({ annotations: { a: "b" }, devices: [{ name: "d", containerEdits: env("A=1") }] })],
    ["0.6.0", "a dot in the class", spec({ kind: "v.com/g.h", devices: [{ name: "d", containerEdits: env("A=1") }] })],
    ["0.7.0", "additionalGids", edits({ additionalGids: [5] })],
    ["0.7.0", "intelRdt", edits({ intelRdt: { closID: "x" } })],
    ["1.1.0", "netDevices", edits({ netDevices: [{ hostInterfaceName: "eth9", name: "net0" }] })],
    ["1.1.0", "intelRdt.schemata", edits({ intelRdt: { schemata: ["L3:0=f"] } })],
    ["1.1.0", "intelRdt.enableMonitoring", edits({ intelRdt: { enableMonitoring: true } })],
  ])("of a version before %s cannot have %s", async (version, what, content) => {
    const versions = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
    const before = versions[versions.indexOf(version) - 1];
    write("static/a.json", { ...content, cdiVersion: before });
    expect((await refusal("vendor.com/gpu=x")).message).toContain(`cdiVersion is ${before}, but ${what} needs ${version}`);
    write("static/a.json", { ...content, cdiVersion: version });
    expect((await refusal("vendor.com/gpu=x")).message).toBe('unresolvable CDI devices: "vendor.com/gpu=x"');
  });

  it("of 1.1.0 can no longer have enableCMT", async () => {
    write("static/a.json", edits({ intelRdt: { enableCMT: true } }));
    expect((await refusal("vendor.com/gpu=d")).message).toContain("enableCMT ended with 1.0.0");
  });
});

describe("edits", () => {
  const apply = async (containerEdits: object) => {
    write("static/a.json", edits(containerEdits));
    return await inject("vendor.com/gpu=d");
  };

  it("of the environment replace variables of the same name", async () => {
    expect((await apply({ env: ["A=2", "B=x=y"] })).process.env).toEqual(["PATH=/bin", "A=2", "B=x=y"]);
  });

  it("of device nodes take what is missing from the node's own, and the container's user as owner", async () => {
    const { linux } = await apply({
      deviceNodes: [
        { path: "/dev/x" },
        { path: "/dev/y/", hostPath: "/dev/block9", permissions: "r", uid: 0, gid: 7, fileMode: 0o600 },
        { path: "/dev/z", type: "u", major: 4, minor: 0, permissions: "none" },
      ],
    });
    expect(linux.devices).toEqual([
      { path: "/dev/x", type: "c", major: 1, minor: 3, uid: 1000, gid: 100 },
      { path: "/dev/y", type: "b", major: 7, minor: 3, uid: 0, gid: 7, fileMode: 0o600 },
      { path: "/dev/z", type: "c", major: 4, minor: 0, uid: 1000, gid: 100 },
    ]);
    expect(linux.resources?.devices).toEqual([
      { allow: false, access: "rwm" },
      { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
      { allow: true, type: "b", major: 7, minor: 3, access: "r" },
    ]);
    expect(looked).toEqual(["/dev/x", "/dev/block9"]);
  });

  it("of device nodes replace a device of the same path", async () => {
    write("static/a.json", edits({ deviceNodes: [{ path: "/dev/x", type: "c", major: 4, minor: 5 }] }));
    const devices = [{ type: "b", path: "/dev/x", major: 8, minor: 0 } as const];
    const edited = await cdi.inject({ ...base, linux: { ...base.linux, devices } }, ["vendor.com/gpu=d"]);
    expect(edited.linux.devices).toMatchObject([{ type: "c", major: 4, minor: 5 }]);
  });

  it("of a device that is of another type on the node are refused", async () => {
    await expect(apply({ deviceNodes: [{ path: "/dev/x", type: "b" }] })).rejects.toThrow(/type b, but .* one of type c/);
  });

  it("of mounts replace one at the same place, come parents first, and are binds unless they say otherwise", async () => {
    const { mounts } = await apply({
      mounts: [
        { hostPath: "/opt/lib", containerPath: "/usr/lib/x/", options: ["ro", "nosuid"] },
        { hostPath: "tmpfs", containerPath: "/v", type: "tmpfs", options: ["size=1m"] },
        { hostPath: "/opt/bin", containerPath: "/usr/b", options: ["rbind", "rprivate"] },
      ],
    });
    expect(mounts).toEqual([
      { destination: "/proc", type: "proc" },
      { destination: "/v", type: "tmpfs", source: "tmpfs", options: ["size=1m"] },
      { destination: "/usr/b", type: "bind", source: "/opt/bin", options: ["rbind", "rprivate"] },
      { destination: "/usr/lib/x", type: "bind", source: "/opt/lib", options: ["bind", "ro", "nosuid"] },
    ]);
    await expect(apply({ mounts: [{ hostPath: "opt", containerPath: "/x" }] })).rejects.toThrow(
      /opt, which is not an absolute path/,
    );
  });

  it("of groups leave root's out, and name each once", async () => {
    expect((await apply({ additionalGids: [0, 44, 100, 44] })).process.user.additionalGids).toEqual([100, 44]);
  });

  it("of hooks come behind those that are there, in the order of the file", async () => {
    const hook = (path: string, more: object = {}) => ({ hookName: "createContainer", path, ...more });
    const edits = {
      hooks: [hook("/a", { args: ["a", "b"], env: ["C=d"], timeout: 5 }), hook("/e"), { ...hook("/f"), hookName: "poststop" }],
    };
    expect((await apply(edits)).hooks).toEqual({
      createContainer: [{ path: "/a", args: ["a", "b"], env: ["C=d"], timeout: 5 }, { path: "/e" }],
      poststop: [{ path: "/f" }],
    });
  });

  it("move interfaces of the node and name a class of service, the older words for measuring included", async () => {
    const netDevices = [{ hostInterfaceName: "eth9", name: "net0" }];
    expect((await apply({ netDevices })).linux.netDevices).toEqual({ eth9: { name: "net0" } });
    expect((await apply({ intelRdt: { closID: "x" } })).linux.intelRdt).toEqual({ closID: "x" });
    const twice = await apply({ netDevices: [...netDevices, ...netDevices] }).catch((caught: unknown) => caught);
    expect(twice).toMatchObject({ code: "failed_precondition", message: expect.stringContaining("eth9 a second time") });
  });
});
