import {
  closeSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { addon, errnoOf } from "../../../src/native/addon.ts";
import { fsType, openFlag, resolveFlag } from "../../../src/native/constants.ts";
import { errno, errnoNameOf, errnoText } from "../../../src/native/errno.ts";
import { openDescriptors } from "../../helpers/open-descriptors.ts";

const directory = mkdtempSync(join(tmpdir(), "caisson-files-"));
afterAll(() => rmSync(directory, { recursive: true }));

const inRoot = resolveFlag.inRoot | resolveFlag.noMagicLinks;

/** The same promises must hold with the kernel's call and with the walk that replaces it. */
describe.each([
  { kind: "openat2", fallback: false },
  { kind: "the walk in user space", fallback: true },
])("opening with $kind", ({ fallback }) => {
  let root: number;
  let before: readonly string[];

  beforeAll(() => {
    addon.denySyscalls(fallback ? ["openat2"] : []);
    const top = join(directory, fallback ? "walk" : "kernel");
    mkdirSync(join(top, "root/etc/deep"), { recursive: true });
    writeFileSync(join(top, "secret"), "host");
    writeFileSync(join(top, "root/etc/passwd"), "root");
    symlinkSync("/etc/passwd", join(top, "root/absolute"));
    symlinkSync("../../../../../secret", join(top, "root/escape"));
    symlinkSync("etc/../etc/deep/../passwd", join(top, "root/winding"));
    symlinkSync("loop", join(top, "root/loop"));
    symlinkSync("etc", join(top, "root/dir"));
    symlinkSync("missing/target", join(top, "root/dangling"));
    root = openSync(join(top, "root"), openFlag.path | openFlag.directory);
    before = openDescriptors();
  });
  afterEach(() => expect(openDescriptors()).toEqual(before));
  afterAll(() => {
    addon.denySyscalls([]);
    closeSync(root);
  });

  const read = (path: string, resolve: number = inRoot, flags = 0): string => {
    const fd = addon.openat2(root, path, flags, 0, resolve);
    try {
      return fstatSync(fd).isDirectory() ? "directory" : readFileSync(fd, "utf8");
    } finally {
      closeSync(fd);
    }
  };
  const failure = (path: string, resolve: number = inRoot, flags = 0, mode = 0): string => {
    try {
      closeSync(addon.openat2(root, path, flags, mode, resolve));
      return "opened";
    } catch (error) {
      return errnoNameOf(errnoOf(error) ?? 0);
    }
  };

  it("resolves absolute and winding links inside the root", () => {
    for (const path of [
      "etc/passwd",
      "/etc/passwd",
      "absolute",
      "winding",
      "dir/passwd",
      "dir//./deep/../passwd",
      "../../etc/passwd",
    ]) {
      expect(read(path)).toBe("root");
    }
    expect(read("/")).toBe("directory");
    expect(read("dir/")).toBe("directory");
    expect(read("etc/deep/..")).toBe("directory");
  });

  it("never leaves the root", () => {
    expect(failure("escape")).toBe("ENOENT");
    expect(failure("../secret")).toBe("ENOENT");
    expect(failure("etc/../../secret", resolveFlag.beneath)).toBe("EXDEV");
    expect(failure("absolute", resolveFlag.beneath)).toBe("EXDEV");
    expect(failure("/etc/passwd", resolveFlag.beneath)).toBe("EXDEV");
    expect(read("winding", resolveFlag.beneath)).toBe("root");
  });

  it("ends loops and refuses links where none are wanted", () => {
    expect(failure("loop")).toBe("ELOOP");
    expect(failure("dir/passwd", resolveFlag.noSymlinks)).toBe("ELOOP");
    expect(failure("absolute", inRoot, openFlag.noFollow)).toBe("ELOOP");
    expect(failure("etc/passwd/x")).toBe("ENOTDIR");
    expect(failure("etc/passwd/")).toBe("ENOTDIR");
    expect(failure("etc/passwd", inRoot, openFlag.directory)).toBe("ENOTDIR");
    expect(failure("nothing")).toBe("ENOENT");
    expect(failure("")).toBe("ENOENT");
  });

  it("opens a link itself with O_PATH and O_NOFOLLOW", () => {
    const fd = addon.openat2(root, "absolute", openFlag.path | openFlag.noFollow, 0, inRoot);
    expect(fstatSync(fd).isSymbolicLink()).toBe(true);
    closeSync(fd);
  });

  it("creates a file below the root, also through a link, and not twice", () => {
    const create = openFlag.create | openFlag.exclusive | openFlag.writeOnly;
    const fd = addon.openat2(root, "dir/deep/new", create, 0o640, inRoot);
    expect(fstatSync(fd).mode & 0o777).toBe(0o640);
    expect(readlinkSync(`/proc/self/fd/${fd}`)).toMatch(/root\/etc\/deep\/new$/);
    closeSync(fd);
    expect(failure("dir/deep/new", inRoot, create, 0o600)).toBe("EEXIST");
    expect(failure("dangling", inRoot, create, 0o600)).toBe("EEXIST");
    expect(failure("nothing/new", inRoot, create, 0o600)).toBe("ENOENT");
  });

  it("does not follow magic links", () => {
    const proc = openSync("/proc/self", openFlag.path | openFlag.directory);
    const open = (path: string): string => {
      try {
        closeSync(addon.openat2(proc, path, openFlag.path, 0, resolveFlag.noMagicLinks));
        return "opened";
      } catch (error) {
        return errnoNameOf(errnoOf(error) ?? 0);
      }
    };
    expect(open("exe")).toBe("ELOOP");
    expect(open("ns/net")).toBe("ELOOP");
    expect(open("status")).toBe("opened");
    closeSync(proc);
  });

  it("does not cross a mount where that is forbidden", () => {
    const slash = openSync("/", openFlag.path | openFlag.directory);
    const fd = addon.openat2(slash, "proc/self/status", 0, 0, 0);
    closeSync(fd);
    expect(() => addon.openat2(slash, "proc/self/status", 0, 0, resolveFlag.noXdev)).toThrow(/EXDEV/);
    closeSync(slash);
  });

  it("adds close-on-exec", () => {
    const fd = addon.openat2(root, "etc/passwd", 0, 0, inRoot);
    const flags = Number.parseInt(/flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "", 8);
    closeSync(fd);
    expect(flags & openFlag.closeOnExec).toBe(openFlag.closeOnExec);
  });
});

describe("pipe", () => {
  it("has the asked size and is closed at execution", () => {
    const [readEnd, writeEnd] = addon.pipe(1 << 20);
    expect(writeSync(writeEnd, Buffer.alloc(1 << 20))).toBe(1 << 20);
    expect(readFileSync(`/proc/self/fdinfo/${readEnd}`, "utf8")).toMatch(/flags:\s*02000000/);
    closeSync(readEnd);
    closeSync(writeEnd);
  });

  it("leaves nothing open when the size is refused", () => {
    const before = openDescriptors();
    expect(() => addon.pipe(0x7fff_ffff)).toThrow(/F_SETPIPE_SZ/);
    expect(openDescriptors()).toEqual(before);
  });
});

describe("sealedMemfd", () => {
  it("holds the bytes and refuses every change", () => {
    const content = Buffer.alloc(300_000, "caisson");
    const fd = addon.sealedMemfd("test", content, false);
    expect(readFileSync(`/proc/self/fd/${fd}`).equals(content)).toBe(true);
    expect(() => writeSync(fd, "x")).toThrow(/EBADF/);
    expect(() => openSync(`/proc/self/fd/${fd}`, "w")).toThrow(/EPERM/); // truncation
    closeSync(fd);
  });
});

describe("locks, sizes and file systems", () => {
  it("takes a lock once", () => {
    const path = join(directory, "lock");
    const first = openSync(path, "w");
    const second = openSync(path, "w");
    expect(addon.tryLock(first)).toBe(true);
    expect(addon.tryLock(second)).toBe(false);
    closeSync(first);
    expect(addon.tryLock(second)).toBe(true);
    closeSync(second);
  });

  it("reserves space and says when there is none", () => {
    const fd = openSync(join(directory, "ballast"), "w");
    addon.fallocate(fd, 100_000n);
    expect(fstatSync(fd).size).toBe(100_000);
    expect(() => addon.fallocate(fd, 1n << 60n)).toThrow(/EFBIG|ENOSPC/);
    closeSync(fd);
  });

  it("knows file systems by their number", async () => {
    const proc = openSync("/proc", openFlag.path);
    expect(addon.fsTypeOf(proc)).toBe(fsType.proc);
    closeSync(proc);
    const fd = openSync(directory, "r");
    const done = addon.syncfs(fd);
    closeSync(fd); // the worker has its own
    await done;
    await expect(addon.syncfs(fd)).rejects.toThrow(/EBADF/);
  });

  it("reports a failed unmount with its path", async () => {
    await expect(addon.umount2(directory, 0)).rejects.toThrow(new RegExp(`umount2 of ${directory}: `));
  });
});

describe("datagrams", () => {
  it("are read one at a time, and a descriptor that comes along with one is closed", async () => {
    const heard: string[] = [];
    const at = openSync(directory, "r");
    const reader = addon.readPipe(
      addon.bindDatagram(at, "socket"),
      (chunk) => heard.push(chunk.toString()),
      () => {},
    );
    const [read, write] = addon.pipe(0);
    const closed = new Promise((resolve) => addon.readPipe(read, () => {}, resolve));
    addon.sendDatagram(join(directory, "socket"), Buffer.from("one"));
    addon.sendDatagram(join(directory, "socket"), Buffer.from("two"), write);
    addon.close(write);
    expect(await closed).toBe(0);
    expect(heard).toEqual(["one", "two"]);
    expect(() => addon.bindDatagram(at, "socket")).toThrow(/EADDRINUSE/);
    closeSync(at);
    reader.close();
  });

  it("says why a socket cannot be reached", () => {
    expect(() => addon.sendDatagram(join(directory, "none"), Buffer.from("READY=1"))).toThrow(/ENOENT/);
    expect(() => addon.sendDatagram("@caisson-nobody", Buffer.from("READY=1"))).toThrow(/ECONNREFUSED/);
    expect(() => addon.sendDatagram(`/${"x".repeat(200)}`, Buffer.from("READY=1"))).toThrow(/ENAMETOOLONG/);
  });
});

describe("error numbers", () => {
  it("are the C library's", () => {
    expect(errno.ENOENT).toBe(2);
    expect(errnoNameOf(40)).toBe("ELOOP");
    expect(errnoNameOf(11)).toBe("EAGAIN");
    expect(errnoText(13)).toBe("permission denied (EACCES)");
    expect(errnoText(4711)).toBe("errno 4711");
  });
});

describe("small files", () => {
  it("are read whole in one turn, in order, each problem by its number", async () => {
    writeFileSync(join(directory, "short"), "one\n");
    writeFileSync(join(directory, "long"), "x".repeat(200_000));
    writeFileSync(join(directory, "huge"), "x".repeat((1 << 20) + 1));
    writeFileSync(join(directory, "empty"), "");
    const names = ["short", "long", "missing", "empty", "huge", "short"];
    const texts = await addon.readFiles([...names.map((name) => join(directory, name)), directory]);
    expect(texts.map((text) => (typeof text === "string" ? text.length : errnoNameOf(text)))).toEqual([
      4,
      200_000,
      "ENOENT",
      0,
      "EFBIG",
      4,
      "EISDIR",
    ]);
    expect(await addon.readFiles([])).toEqual([]);
  });

  it("of the kernel come whole, whatever pieces it hands out", async () => {
    const maps = `/proc/${process.pid}/smaps`;
    const [text = ""] = await addon.readFiles([maps]);
    expect(String(text).length).toBeGreaterThan(65_536);
    expect(String(text).match(/^Size:/gm)?.length).toBe(String(text).match(/^VmFlags:/gm)?.length);
  });

  it("refuse what is no list of paths", async () => {
    await expect(addon.readFiles(["a\0b"])).rejects.toThrow("paths must be strings");
  });
});

describe("descriptors of processes", () => {
  it("are counted with the sockets among them, and a process that is gone has none", async () => {
    const before = await addon.countDescriptors([process.pid]);
    const [read, write] = addon.pipe(0);
    const after = await addon.countDescriptors([process.pid]);
    expect(after.descriptors - before.descriptors).toBe(2);
    expect(after.sockets).toBe(before.sockets);
    for (const fd of [read, write]) closeSync(fd);
    expect(await addon.countDescriptors([2 ** 30])).toEqual({ descriptors: 0, sockets: 0 });
    expect(await addon.countDescriptors([])).toEqual({ descriptors: 0, sockets: 0 });
  });
});
