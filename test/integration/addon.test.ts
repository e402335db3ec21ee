/** What of the addon needs root: cgroups, device programs, mounts. */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { addon } from "../../src/native/addon.ts";
import { fsType, openFlag, unmountFlag } from "../../src/native/constants.ts";
import { openDescriptors } from "../helpers/open-descriptors.ts";
import { cgroup1, cgroup2, until } from "../helpers/shim-pod.ts";

const name = `caisson-addon-${process.pid}`;
const unified = join(cgroup2, name);
let fd: number;
let before: readonly string[];

beforeAll(() => mkdirSync(unified));
afterAll(() => until("removal of the cgroup", () => remove(unified)));
beforeEach(() => {
  before = openDescriptors();
  fd = openSync(unified, openFlag.readOnly | openFlag.directory);
});
afterEach(() => {
  closeSync(fd);
  expect(openDescriptors()).toEqual(before);
});

function remove(path: string): boolean {
  try {
    rmdirSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Runs a shell script; its stdout. */
async function shell(script: string, cgroupFd: number | null, taskFiles: readonly string[] = []): Promise<string> {
  const [readEnd, writeEnd] = addon.pipe(0);
  const null_ = openSync("/dev/null", "r"); // opened here: the child may be in a cgroup that lets it open no device
  const child = addon.spawn({
    path: "/bin/sh",
    imageFd: null,
    argv: ["sh", "-c", script],
    env: ["PATH=/usr/bin:/bin"],
    cwd: null,
    fds: [null_, writeEnd, writeEnd],
    parentDeathSignal: 9,
    newSession: false,
    cgroupFd,
    taskFiles,
  });
  addon.close(writeEnd);
  closeSync(null_);
  await addon.waitChild(child.pidfd);
  addon.close(child.pidfd);
  const output = readFileSync(readEnd, "utf8");
  addon.close(readEnd);
  return output;
}

describe.each([
  { kind: "at birth", deny: [] },
  { kind: "by itself, where the kernel cannot", deny: ["clone_into_cgroup"] },
  { kind: "by itself, without clone3", deny: ["clone3"] },
])("a spawned child gets into its cgroup $kind", ({ deny }) => {
  beforeAll(() => addon.denySyscalls(deny));
  afterAll(() => addon.denySyscalls([]));

  it("on cgroup v2", async () => {
    expect(await shell("cat /proc/self/cgroup", fd)).toContain(`0::/${name}\n`);
  });
});

it.runIf(cgroup1 !== undefined)(
  "a spawned child writes itself into v1 tasks files, without the wait of cgroup.procs",
  async () => {
    const path = join(cgroup1 ?? "", name);
    mkdirSync(path);
    try {
      expect(await shell("cat /proc/self/cgroup", null, [join(path, "tasks")])).toContain(`pids:/${name}\n`);
      const times: number[] = [];
      for (let i = 0; i < 10; i++) {
        const start = process.hrtime.bigint();
        await shell("exit", null, [join(path, "tasks")]);
        times.push(Number(process.hrtime.bigint() - start) / 1e6);
      }
      expect(Math.min(...times)).toBeLessThan(8); // milliseconds; one grace period takes longer
    } finally {
      await until("removal of the cgroup", () => remove(path));
    }
  },
);

describe("attachDeviceProgram", () => {
  const move = (value: number): Buffer => instruction(0xb7, value); // r0 = value
  const exit = (): Buffer => instruction(0x95, 0);
  function instruction(code: number, immediate: number): Buffer {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt8(code, 0);
    bytes.writeInt32LE(immediate, 4);
    return bytes;
  }
  const readsNull = async (): Promise<boolean> => (await shell("head -c 0 /dev/zero && echo yes", fd)).endsWith("yes\n");

  it("decides about devices, and a later program replaces the one before", async () => {
    expect(await readsNull()).toBe(true);
    addon.attachDeviceProgram(fd, Buffer.concat([move(0), exit()]));
    expect(await readsNull()).toBe(false);
    addon.attachDeviceProgram(fd, Buffer.concat([move(1), exit()]));
    expect(await readsNull()).toBe(true);
    addon.attachDeviceProgram(fd, Buffer.concat([move(0), exit()]));
    addon.attachDeviceProgram(fd, Buffer.concat([move(1), exit()]));
    expect(await readsNull()).toBe(true); // had the denying one stayed beside it, it would decide
  });

  it("says what the verifier's refusal is, and what is no cgroup", () => {
    expect(() => addon.attachDeviceProgram(fd, exit())).toThrow(/bpf\(BPF_PROG_LOAD\)/);
    expect(() => addon.attachDeviceProgram(fd, Buffer.alloc(7))).toThrow(/whole BPF instructions/);
    const root = openSync("/", "r");
    expect(() => addon.attachDeviceProgram(root, Buffer.concat([move(1), exit()]))).toThrow(/bpf\(BPF_PROG_QUERY\)/);
    closeSync(root);
  });
});

describe("umount2", () => {
  it("unmounts", async () => {
    const directory = mkdtempSync("/tmp/caisson-addon-");
    execFileSync("mount", ["-t", "tmpfs", "caisson-addon", directory]);
    const type = (): bigint => {
      const path = openSync(directory, openFlag.path);
      try {
        return addon.fsTypeOf(path);
      } finally {
        closeSync(path);
      }
    };
    expect(type()).toBe(fsType.tmpfs);
    await addon.umount2(directory, unmountFlag.detach | unmountFlag.noFollow);
    expect(type()).not.toBe(fsType.tmpfs);
    rmSync(directory, { recursive: true });
  });
});
