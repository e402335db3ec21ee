/** caisson-unpack on real directories: what layers may do, and everything that they may not. */
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type TarEntry, tar, tarEntry, tarHeader } from "../helpers/tar.ts";
import { helperPath, listing, UnpackRun } from "../helpers/unpack-run.ts";

let run: UnpackRun;
beforeEach(() => {
  run = new UnpackRun();
});
afterEach(() => {
  expect(run.decoyUntouched()).toBe(true);
  run[Symbol.dispose]();
});

const apply = (entries: readonly TarEntry[], args: readonly string[] = [], lowers: readonly string[] = []) =>
  run.layer(tar(entries), args, lowers);
const sha = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
const xattrs = (path: string): string =>
  execFileSync("getfattr", ["-h", "-d", "-m", "-", "--absolute-names", path], { encoding: "utf8" });
const opaque = (path: string): boolean => xattrs(path).includes('trusted.overlay.opaque="y"');

it("closes what it inherited without close_range, and refuses to run less confined than it ought to", () => {
  const entries = [{ name: "f", content: "x" }];
  run.deny = "close_range,openat2";
  const { dir, result } = apply(entries);
  expect(result.ok).toBe(true);
  expect(listing(dir)).toEqual(["f file 644 0:0 x"]);
  for (const [deny, refused] of [
    ["open_tree", "cannot clone"],
    ["mount_setattr", "cannot restrict"],
    ["move_mount", "cannot attach"],
  ] as const) {
    run.deny = deny;
    expect(apply(entries).result).toMatchObject({ ok: false, kind: "system", message: expect.stringContaining(refused) });
  }
  run.deny = "nonsense";
  expect(apply(entries).result.message).toContain("CAISSON_DENY_SYSCALLS");
});

describe("entries", () => {
  it("makes files, directories, links, devices and fifos with owner, mode and time", () => {
    const { dir, result } = apply([
      { name: "d/", type: "5", mode: 0o1770, uid: 7, gid: 8, mtime: 1_600_000_000 },
      { name: "d/suid", mode: 0o6755, uid: 1000, gid: 1001, content: "x", mtime: 1_500_000_000.5 },
      { name: "d/hard", type: "1", link: "d/suid" },
      { name: "sym", type: "2", link: "/nowhere/else", uid: 3, gid: 4 },
      { name: "null", type: "3", mode: 0o666, major: 1, minor: 3 },
      { name: "pipe", type: "6", mode: 0o640, uid: 5 },
    ]);
    expect(result.ok).toBe(true);
    expect(listing(dir)).toEqual([
      "d/ 1770 7:8",
      "d/hard file 6755 1000:1001 x",
      "d/suid file 6755 1000:1001 x",
      "null char 666 0:0 259",
      "pipe fifo 640 5:0",
      "sym -> /nowhere/else",
    ]);
    expect(lstatSync(join(dir, "sym")).uid).toBe(3);
    expect(statSync(join(dir, "d/hard")).ino).toBe(statSync(join(dir, "d/suid")).ino);
    expect(statSync(join(dir, "d/suid"), { bigint: true }).mtimeNs).toBe(1_500_000_000_500_000_000n);
    expect(statSync(join(dir, "d")).mtimeMs).toBe(1_600_000_000_000);
    expect(result.inodes).toBe(5);
  });
  it("keeps nanoseconds, times before 1970, and clamps what the filesystem cannot hold", () => {
    const { dir } = apply([
      { name: "a", pax: { mtime: "1234567890.123456789" } },
      { name: "b", pax: { mtime: "-1.5" } },
      { name: "c", mtime: 2 ** 40 },
    ]);
    const ns = (name: string): bigint => statSync(join(dir, name), { bigint: true }).mtimeNs;
    expect(ns("a")).toBe(1_234_567_890_123_456_789n);
    expect(ns("b")).toBe(-1_500_000_000n);
    expect(ns("c")).toBeGreaterThan(4_000_000_000_000_000_000n);
  });
  it("reads ustar prefixes, PAX names, GNU long names, base-256 numbers and hard links to long targets", () => {
    const long = `${"d".repeat(90)}/${"e".repeat(90)}/${"f".repeat(90)}`;
    const gnu = `gnu/${"g".repeat(200)}`;
    const header = (type: string, name: string): Buffer => tarEntry({ name: "././@LongLink", type, content: `${name}\0` });
    const blob = Buffer.concat([
      tarEntry({ name: long, content: "pax", uid: 2 ** 31 }),
      header("L", gnu),
      tarEntry({ name: gnu.slice(0, 99), content: "gnu" }),
      header("K", gnu),
      tarEntry({ name: "link", type: "1", link: gnu.slice(0, 99) }),
      Buffer.alloc(1024),
    ]);
    const { dir, result } = run.layer(blob);
    expect(result.ok, result.message).toBe(true);
    expect(readFileSync(join(dir, long), "utf8")).toBe("pax");
    expect(lstatSync(join(dir, long)).uid).toBe(2 ** 31);
    expect(readFileSync(join(dir, "link"), "utf8")).toBe("gnu");
  });
  it("makes missing parents with 0755 root", () => {
    expect(listing(apply([{ name: "a/b/c", content: "x" }]).dir)).toEqual(["a/ 755 0:0", "a/b/ 755 0:0", "a/b/c file 644 0:0 x"]);
  });
  it("sets the root's attributes from its own entry", () => {
    const { dir } = apply([{ name: "./", type: "5", mode: 0o711, uid: 9 }]);
    expect(lstatSync(dir).mode & 0o7777).toBe(0o711);
    expect(lstatSync(dir).uid).toBe(9);
  });
  it("keeps a directory's content when the directory comes again, and takes its new attributes", () => {
    const { dir } = apply([
      { name: "d/f", content: "x" },
      { name: "d/", type: "5", mode: 0o700 },
    ]);
    expect(listing(dir)).toEqual(["d/ 700 0:0", "d/f file 644 0:0 x"]);
  });
  it.each([
    [
      "file over directory",
      [
        { name: "x/y/z", content: "1" },
        { name: "x", content: "2" },
      ],
      ["x file 644 0:0 2"],
    ],
    [
      "directory over symlink",
      [
        { name: "x", type: "2", link: "y" },
        { name: "x/", type: "5" },
      ],
      ["x/ 755 0:0"],
    ],
    [
      "symlink over directory",
      [
        { name: "x/f", content: "1" },
        { name: "x", type: "2", link: "y" },
      ],
      ["x -> y"],
    ],
    [
      "file over symlink",
      [
        { name: "x", type: "2", link: "t" },
        { name: "t", content: "t" },
        { name: "x", content: "n" },
      ],
      ["t file 644 0:0 t", "x file 644 0:0 n"],
    ],
    [
      "file over hard link",
      [
        { name: "a", content: "1" },
        { name: "b", type: "1", link: "a" },
        { name: "b", content: "2" },
      ],
      ["a file 644 0:0 1", "b file 644 0:0 2"],
    ],
  ] as [string, TarEntry[], string[]][])("replaces: %s", (_, entries, expected) => {
    expect(listing(apply(entries).dir)).toEqual(expected);
  });
  it("keeps user.* and security.capability and strips what could forge overlayfs's marks or labels", () => {
    const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
    const { dir, result } = apply([
      {
        name: "f",
        mode: 0o755,
        uid: 12,
        xattrs: {
          "security.capability": capability,
          "user.note": "hi",
          "trusted.overlay.redirect": "/etc",
          "trusted.overlay.opaque": "y",
          "user.overlay.opaque": "y",
          "trusted.overlay.overlay.whiteout": "",
          "security.selinux": "x",
          "trusted.other": "x",
        },
      },
    ]);
    expect(result.strippedXattrs).toBe(6);
    const text = xattrs(join(dir, "f"));
    expect(text).toContain('user.note="hi"');
    expect(text).toContain("security.capability=0s");
    expect(text).not.toMatch(/overlay|selinux|trusted/);
  });
  it("writes sparse files of all four formats as sparse files", () => {
    const size = 1 << 20;
    const data = Buffer.from("head".padEnd(512, "-"));
    const field = (n: number): Buffer => Buffer.from(`${n.toString(8).padStart(11, "0")}\0`);
    const old = tarHeader({ name: "old", type: "S" }, 512);
    Buffer.concat([field(4096), field(512)]).copy(old, 386);
    field(size).copy(old, 483);
    old.fill(" ", 148, 156).write(
      `${old
        .reduce((a, b) => a + b, 0)
        .toString(8)
        .padStart(6, "0")}\0 `,
      148,
    );
    const map = Buffer.alloc(512);
    map.write("1\n4096\n512\n");
    const blob = Buffer.concat([
      Buffer.concat([old, data]),
      tarEntry({
        name: "v00",
        content: data,
        pax: {
          "GNU.sparse.size": String(size),
          "GNU.sparse.numblocks": "1",
          "GNU.sparse.offset": "4096",
          "GNU.sparse.numbytes": "512",
        },
      }),
      tarEntry({ name: "v01", content: data, pax: { "GNU.sparse.size": String(size), "GNU.sparse.map": "4096,512" } }),
      tarEntry({
        name: "ignored",
        content: Buffer.concat([map, data]),
        pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "v10", "GNU.sparse.realsize": String(size) },
      }),
      Buffer.alloc(1024),
    ]);
    const { dir, result } = run.layer(blob);
    expect(result.ok, result.message).toBe(true);
    for (const name of ["old", "v00", "v01", "v10"]) {
      const content = readFileSync(join(dir, name));
      expect(content.length).toBe(size);
      expect(content.subarray(4096, 4608)).toEqual(data);
      expect(content.every((byte, at) => byte === 0 || (at >= 4096 && at < 4608))).toBe(true);
      expect(statSync(join(dir, name)).blocks).toBeLessThan(64);
    }
  });
});

describe("names cannot leave the layer", () => {
  it.each(["/etc/x", "../../x", "a/../../../x", "./x", "//x"])("%s lands inside", (name) => {
    const { dir, result } = apply([{ name, content: "in" }]);
    expect(result.ok).toBe(true);
    expect(listing(dir).some((line) => /x file 644 0:0 in/.test(line))).toBe(true);
  });
  it("writes through a symlinked parent only below the layer's root", () => {
    const { dir } = apply([
      { name: "abs", type: "2", link: join(run.decoy) },
      { name: "abs/file", content: "evil" },
      { name: "up", type: "2", link: "../../../../../../../../.." },
      { name: "up/tmp2/f", content: "evil" },
      { name: "p", type: "2", link: "/proc/self/root" },
      { name: "p/x", content: "evil" },
    ]);
    expect(readFileSync(join(dir, run.decoy, "file"), "utf8")).toBe("evil");
    expect(readFileSync(join(dir, "tmp2/f"), "utf8")).toBe("evil");
    expect(readFileSync(join(dir, "proc/self/root/x"), "utf8")).toBe("evil");
  });
  it("removes and whites out through a symlinked parent only below the layer's root", () => {
    const base = apply([{ name: join(run.decoy, "file") }], ["bottom"]).dir;
    const entries: TarEntry[] = [
      { name: "abs", type: "2", link: run.decoy },
      { name: "abs/.wh.file" },
      { name: "abs/sub/", type: "5" },
      { name: "abs/sub", content: "replaced" },
    ];
    const { dir, result } = apply(entries, [], [base]);
    expect(result.ok, result.message).toBe(true);
    expect(listing(join(dir, run.decoy))).toEqual(["file whiteout", "sub file 644 0:0 replaced"]);
  });
  it("follows neither for hard links: targets are rooted, a symlink is linked itself", () => {
    const { dir, result } = apply([
      { name: "s", type: "2", link: join(run.decoy, "file") },
      { name: "h", type: "1", link: "s" },
      { name: "etc/shadow", content: "ours" },
      { name: "out", type: "1", link: "../../../etc/shadow" },
    ]);
    expect(result.ok).toBe(true);
    expect(listing(dir)).toContain(`h -> ${join(run.decoy, "file")}`);
    expect(readFileSync(join(dir, "out"), "utf8")).toBe("ours");
  });
  it("changes the mode of no symlink's target (CVE-2021-32760)", () => {
    apply([
      { name: "s", type: "2", link: join(run.decoy, "file") },
      { name: "s", type: "2", link: join(run.decoy, "file"), mode: 0o4777 },
    ]);
  });
  it("resolves a link into a directory that the archive does not carry", () => {
    const { dir } = apply([
      { name: "var/run", type: "2", link: "/run" },
      { name: "var/run/lock/x", content: "1" },
    ]);
    expect(listing(dir)).toEqual([
      "run/ 755 0:0",
      "run/lock/ 755 0:0",
      "run/lock/x file 644 0:0 1",
      "var/ 755 0:0",
      "var/run -> /run",
    ]);
  });
  it.each([
    ["a symlink loop as parent", [{ name: "l", type: "2", link: "l" }, { name: "l/x" }], /symlinks/],
    ["a file as parent", [{ name: "f" }, { name: "f/x" }], /not a directory/],
    ["an empty name", [{ name: "" }], /without a name/],
    ["a NUL in a PAX name", [{ name: "x", pax: { path: "a\0b" } }], /NUL/],
    ["a component over 255 bytes", [{ name: "n".repeat(256) }], /too long/],
    ["a name over 4095 bytes", [{ name: "d/".repeat(2500) }], /longer than/],
    ["a file as root", [{ name: "/", content: "x" }], /root of the layer/],
    ["a symlink to nothing", [{ name: "x", type: "2", link: "" }], /symlink to nothing/],
    [
      "a hard link to a directory",
      [
        { name: "d/", type: "5" },
        { name: "x", type: "1", link: "d" },
      ],
      /hard link to a directory/,
    ],
    ["a hard link to nothing", [{ name: "x", type: "1", link: "gone" }], /does not exist/],
    ["a hard link to the root", [{ name: "x", type: "1", link: "/" }], /bad target/],
    ["character device 0:0", [{ name: "x", type: "3" }], /0:0/],
    ["an unknown type", [{ name: "x", type: "Z" }], /unknown entry type/],
    ["uid -1", [{ name: "x", pax: { uid: "4294967295" } }], /out of range/],
    ["a negative size", [{ name: "x", pax: { size: "-1" } }], /negative size/],
    ["a device with content", [{ name: "x", type: "6", content: "x" }], /special file with content/],
  ] as [string, TarEntry[], RegExp][])("refuses %s", (_, entries, message) => {
    const { result } = apply(entries);
    expect(result).toMatchObject({ ok: false, kind: "invalid" });
    expect(result.message).toMatch(message);
  });
});

describe("whiteouts", () => {
  it("become 0:0 devices and opaque directories, wherever they stand in the archive", () => {
    const base = apply([{ name: "d/old" }, { name: "e/old" }, { name: "gone/x" }], ["bottom"]).dir;
    const { dir } = apply(
      [{ name: "d/new" }, { name: "d/.wh..wh..opq" }, { name: "e/.wh.old" }, { name: ".wh.gone" }],
      [],
      [base],
    );
    expect(listing(dir)).toEqual(["d/ 755 0:0", "d/new file 644 0:0 ", "e/ 755 0:0", "e/old whiteout", "gone whiteout"]);
    expect(opaque(join(dir, "d"))).toBe(true);
    expect(opaque(join(dir, "e"))).toBe(false);
  });
  it("are left out where nothing lies below: overlayfs would list them in directories that it does not merge", () => {
    const base = apply([{ name: "d/old" }, { name: "f" }], ["bottom"]).dir;
    const middle = apply([{ name: ".wh.f" }], [], [base]).dir;
    const entries = [
      { name: "new/", type: "5", mtime: 99 },
      { name: "new/.wh.x" },
      { name: "d/.wh..wh..opq" },
      { name: "d/.wh.old" },
      { name: ".wh.f" },
      { name: ".wh.never" },
    ];
    const { dir } = apply(entries, [], [middle, base]);
    expect(listing(dir)).toEqual(["d/ 755 0:0", "new/ 755 0:0"]);
    expect(lstatSync(join(dir, "new")).mtimeMs).toBe(99_000);
  });
  it.each([
    ["before", [{ name: ".wh.a" }, { name: "a", content: "1" }]],
    ["after", [{ name: "a", content: "1" }, { name: ".wh.a" }]],
  ] as [string, TarEntry[]][])("an entry of the same layer stays when its whiteout comes %s it", (_, entries) => {
    expect(listing(apply(entries).dir)).toEqual(["a file 644 0:0 1"]);
  });
  it.each([
    ["a directory after its whiteout", [{ name: ".wh.a" }, { name: "a/", type: "5" }]],
    ["an implied directory after its whiteout", [{ name: ".wh.a" }, { name: "a/b" }]],
    ["a directory before its whiteout", [{ name: "a/", type: "5" }, { name: ".wh.a" }]],
    ["a directory in place of the layer's own file", [{ name: "a" }, { name: "a/", type: "5" }]],
  ] as [string, TarEntry[]][])("%s shows nothing of the layers below", (_, entries) => {
    const { dir } = apply(entries);
    expect(lstatSync(join(dir, "a")).isDirectory()).toBe(true);
    expect(opaque(join(dir, "a"))).toBe(true);
  });
  it("mean nothing in the bottom layer", () => {
    const { dir } = apply([{ name: "d/f" }, { name: "d/.wh.x" }, { name: "d/.wh..wh..opq" }, { name: ".wh.d" }], ["bottom"]);
    expect(listing(dir)).toEqual(["d/ 755 0:0", "d/f file 644 0:0 "]);
    expect(opaque(join(dir, "d"))).toBe(false);
  });
  it("of AUFS's own are ignored", () => {
    expect(
      listing(
        apply([
          { name: ".wh..wh.plnk/12.34", content: "x" },
          { name: ".wh..wh.aufs" },
          { name: "d/.wh..wh.orph/", type: "5" },
          { name: "a" },
        ]).dir,
      ),
    ).toEqual(["a file 644 0:0 "]);
  });
  it.each([".wh.", ".wh..", ".wh...", "d/.wh...", ".wh.x/y"])("refuses %s", (name) => {
    expect(apply([{ name }]).result).toMatchObject({ ok: false, kind: "invalid" });
  });
});

describe("what the layers below decide", () => {
  const below = (entries: readonly TarEntry[]): string => apply(entries, ["bottom"]).dir;
  it("gives implied directories the attributes that overlayfs would show", () => {
    const base = below([
      { name: "tmp/", type: "5", mode: 0o1777, mtime: 1000 },
      { name: "home/u/", type: "5", mode: 0o750, uid: 1000, gid: 100 },
    ]);
    const { dir } = apply([{ name: "tmp/x" }, { name: "home/u/.profile", uid: 1000 }], [], [base]);
    expect(listing(dir)).toEqual([
      "home/ 755 0:0",
      "home/u/ 750 1000:100",
      "home/u/.profile file 644 1000:0 ",
      "tmp/ 1777 0:0",
      "tmp/x file 644 0:0 ",
    ]);
    expect(lstatSync(join(dir, "tmp")).mtimeMs).toBe(1_000_000);
  });
  it("takes them from the topmost layer that has the directory, and from none below a whiteout, a file or an opaque mark", () => {
    const base = below([
      { name: "a/", type: "5", mode: 0o711 },
      { name: "b/c/", type: "5", mode: 0o711 },
      { name: "d/e/", type: "5", mode: 0o711 },
      { name: "f/", type: "5", mode: 0o711 },
    ]);
    const middle = apply(
      [
        { name: "a/", type: "5", mode: 0o722 },
        { name: ".wh.b" },
        { name: "d/", type: "5" },
        { name: "d/.wh..wh..opq" },
        { name: "f" },
      ],
      [],
      [base],
    ).dir;
    const { dir } = apply([{ name: "a/x" }, { name: "b/c/x" }, { name: "d/e/x" }, { name: "f/x" }], [], [middle, base]);
    const directories = listing(dir).filter((line) => line.includes("/ "));
    expect(directories).toEqual(["a/ 722 0:0", "b/ 755 0:0", "b/c/ 755 0:0", "d/ 755 0:0", "d/e/ 755 0:0", "f/ 755 0:0"]);
  });
  it("does not follow a symlink of a lower layer out of it", () => {
    const base = below([{ name: "d", type: "2", link: run.decoy }]);
    const { dir } = apply([{ name: "d/x" }, { name: "y", content: "1" }], [], [base]);
    expect(listing(dir)).toEqual(["d/ 755 0:0", "d/x file 644 0:0 ", "y file 644 0:0 1"]);
    const { result } = apply([{ name: "h", type: "1", link: "d/file" }], [], [base]);
    expect(result).toMatchObject({ ok: false, kind: "invalid" });
  });
  it("copies the file of a lower layer that a hard link names, attributes included, and links further ones to the copy", () => {
    const base = below([{ name: "bin/tool", mode: 0o4755, uid: 3, content: "tool", mtime: 5, xattrs: { "user.k": "v" } }]);
    const { dir, result } = apply(
      [
        { name: "d/", type: "5", mtime: 77 },
        { name: "d/alias", type: "1", link: "bin/tool" },
        { name: "d/second", type: "1", link: "d/alias" },
      ],
      [],
      [base],
    );
    expect(result.ok, result.message).toBe(true);
    expect(listing(dir)).toEqual(["d/ 755 0:0", "d/alias file 4755 3:0 tool", "d/second file 4755 3:0 tool"]);
    expect(statSync(join(dir, "d/second")).ino).toBe(statSync(join(dir, "d/alias")).ino);
    expect(xattrs(join(dir, "d/alias"))).toContain('user.k="v"');
    expect(statSync(join(dir, "d")).mtimeMs).toBe(77_000);
    expect(statSync(join(base, "bin/tool")).nlink).toBe(1);
  });
  it("links to an entry further down the archive", () => {
    const { dir } = apply([
      { name: "early", type: "1", link: "late" },
      { name: "late", content: "1" },
    ]);
    expect(statSync(join(dir, "early")).ino).toBe(statSync(join(dir, "late")).ino);
  });
  it.each([
    ["whited out in between", [{ name: ".wh.f" }]],
    ["replaced by a directory in between", [{ name: "f/", type: "5" }]],
  ] as [string, TarEntry[]][])("refuses a hard link to a lower file that was %s", (_, between) => {
    const base = below([{ name: "f", content: "x" }]);
    const middle = apply(between, [], [base]).dir;
    expect(apply([{ name: "h", type: "1", link: "f" }], [], [middle, base]).result.ok).toBe(false);
  });
});

describe("streams", () => {
  const plain = tar([{ name: "a", content: "hello" }]);
  const half = Math.floor(plain.length / 2);
  const cases: [string, Buffer][] = [
    ["plain", plain],
    ["gzip", gzipSync(plain)],
    [
      "gzip in several members",
      Buffer.concat([gzipSync(plain.subarray(0, half)), gzipSync(Buffer.alloc(0)), gzipSync(plain.subarray(half))]),
    ],
    ["zstd", zstdCompressSync(plain)],
    [
      "zstd in several frames",
      Buffer.concat([zstdCompressSync(plain.subarray(0, half)), zstdCompressSync(plain.subarray(half))]),
    ],
    [
      "zstd with skippable frames",
      Buffer.concat([
        Buffer.from("502a4d1804000000aaaaaaaa", "hex"),
        zstdCompressSync(plain),
        Buffer.from("5f2a4d1801000000bb", "hex"),
      ]),
    ],
  ];
  it.each(cases)("reads %s and hashes both sides", (_, blob) => {
    const { dir, result } = run.layer(blob);
    expect(result).toMatchObject({ ok: true, blobHex: sha(blob), tarHex: sha(plain) });
    expect(listing(dir)).toEqual(["a file 644 0:0 hello"]);
  });
  it("hashes and ignores what follows the end of the archive", () => {
    const more = Buffer.concat([plain, Buffer.alloc(10_240), Buffer.from("not a header at all")]);
    expect(run.layer(gzipSync(more)).result).toMatchObject({ ok: true, tarHex: sha(more) });
  });
  it("accepts an archive without end mark, and an empty one", () => {
    expect(run.layer(plain.subarray(0, 1024)).result.ok).toBe(true);
    expect(run.layer(Buffer.alloc(0)).result).toMatchObject({ ok: true, tarHex: sha(Buffer.alloc(0)) });
  });
  it("can hash with sha512", () => {
    expect(run.layer(plain, ["sha512"]).result.blobHex).toBe(createHash("sha512").update(plain).digest("hex"));
  });
  it.each([
    ["garbage after gzip", Buffer.concat([gzipSync(plain), Buffer.from("garbage")]), /garbage/],
    ["zeros after gzip", Buffer.concat([gzipSync(plain), Buffer.alloc(16)]), /garbage/],
    ["garbage after zstd", Buffer.concat([zstdCompressSync(plain), Buffer.from("garbage!")]), /garbage/],
    ["few bytes after zstd", Buffer.concat([zstdCompressSync(plain), Buffer.from([0x28])]), /middle|garbage/],
    ["a cut gzip stream", gzipSync(plain).subarray(0, -9), /middle/],
    ["a cut zstd stream", zstdCompressSync(plain).subarray(0, -3), /middle/],
    ["a damaged gzip stream", Buffer.from(gzipSync(plain).map((b, i) => (i === 30 ? b ^ 0xff : b))), /damaged/],
    ["bzip2", Buffer.from("BZh91AY&SY"), /bzip2/],
    ["xz", Buffer.from("fd377a585a000004", "hex"), /xz/],
    ["text", Buffer.from("no tar at all\n".repeat(100)), /not a tar archive/],
    ["a zstd window over 128 MiB", Buffer.from("28b52ffd0098010000", "hex"), /damaged|memory/],
    ["a cut file", tar([{ name: "a", content: "x".repeat(2000) }]).subarray(0, 1024), /middle/],
    ["a lone zero block", Buffer.concat([Buffer.alloc(512), plain]), /zero block/],
    [
      "an extension header without entry",
      Buffer.concat([tarEntry({ name: "x", type: "x", content: "11 path=ab\n" }), Buffer.alloc(1024)]),
      /extension/,
    ],
    ["a malformed PAX record", Buffer.concat([tarEntry({ name: "x", type: "x", content: "99 path=ab\n" }), plain]), /malformed/],
    [
      "an oversized extension header",
      Buffer.concat([tarEntry({ name: "x", type: "x", content: "", size: 2 ** 21 }), plain]),
      /larger than/,
    ],
    [
      "sparse parts that overlap",
      tar([{ name: "s", content: "x".repeat(1024), pax: { "GNU.sparse.size": "9999", "GNU.sparse.map": "0,600,500,424" } }]),
      /overlaps/,
    ],
    [
      "a sparse map that does not fit",
      tar([{ name: "s", content: "x", pax: { "GNU.sparse.size": "9999", "GNU.sparse.map": "0,600" } }]),
      /fit/,
    ],
    [
      "an endless sparse map (CVE-2025-58183)",
      tar([
        {
          name: "s",
          pax: { "GNU.sparse.size": "99999999", "GNU.sparse.map": Array.from({ length: 80_000 }, (_, i) => i).join() },
        },
      ]),
      /parts/,
    ],
  ])("refuses %s", (_, blob, message) => {
    const { result } = run.layer(blob);
    expect(result.ok).toBe(false);
    expect(result.message).toMatch(message);
  });
  it("stops at the limits on entries, bytes, ratio and names", () => {
    const many = Array.from({ length: 50 }, (_, i): TarEntry => ({ name: `f${i}` }));
    const bomb = zstdCompressSync(
      Buffer.concat([tarHeader({ name: "zeros" }, 1 << 26), Buffer.alloc(1 << 26), Buffer.alloc(1024)]),
      { params: { [constants.ZSTD_c_compressionLevel]: 1 } },
    );
    expect(apply(many, ["entries=20"]).result).toMatchObject({ ok: false, kind: "limit" });
    expect(apply([{ name: "a/".repeat(500) }], ["entries=100"]).result).toMatchObject({ ok: false, kind: "limit" });
    expect(run.layer(bomb, ["bytes=1000000"]).result).toMatchObject({ ok: false, kind: "limit" });
    expect(run.layer(bomb, ["ratio=100", "ratio-floor=1000000"]).result).toMatchObject({ ok: false, kind: "limit" });
    expect(apply([{ name: `${"d".repeat(200)}/f` }], ["names=100"]).result).toMatchObject({ ok: false, kind: "limit" });
    expect(
      apply([{ name: "s", pax: { "GNU.sparse.size": "99999999999", "GNU.sparse.map": "0,0" } }], ["bytes=1000000"]).result,
    ).toMatchObject({ ok: false, kind: "limit" });
    expect(run.layer(bomb).result.ok).toBe(true);
  });
  it("says so when the disk is full", () => {
    const mount = join(run.base, "small");
    mkdirSync(mount);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "caisson-test", mount]);
    try {
      mkdirSync(join(mount, "fs"));
      writeFileSync(join(run.base, "pending"), "");
      const result = run.run(
        ["apply"],
        tar([{ name: "big", content: Buffer.alloc(4 << 20, 1) }]),
        [join(mount, "fs")],
        join(run.base, "pending"),
      );
      expect(result).toMatchObject({ ok: false, kind: "space" });
    } finally {
      execFileSync("umount", [mount]);
    }
  });
  it("empties a directory, whatever is in it", () => {
    const { dir } = apply([
      { name: "a/b/c/d/e" },
      { name: "s", type: "2", link: run.decoy },
      { name: "n", type: "6" },
      { name: "z/", type: "5", mode: 0 },
      { name: "z/f" },
      { name: "x/".repeat(1500) },
    ]);
    expect(run.run(["clear"], Buffer.alloc(0), [dir])).toEqual({ ok: true });
    expect(listing(dir)).toEqual([]);
  });
});

describe("confinement", () => {
  it("sees the layer's directory only, with the capabilities that unpacking needs and no others", async () => {
    const dir = join(run.base, "fs");
    mkdirSync(dir);
    writeFileSync(join(run.base, "pending"), "");
    const fds = [openSync(dir, "r"), openSync(join(run.base, "pending"), "r+"), openSync("/etc/passwd", "r")];
    const child = spawn(helperPath, ["apply"], { stdio: ["pipe", "pipe", "pipe", ...fds] });
    for (const fd of fds) closeSync(fd);
    try {
      child.stdin?.write(tarHeader({ name: "f" }, 512));
      const proc = `/proc/${child.pid}`;
      const written = (): boolean => existsSync(join(dir, "f"));
      for (let tries = 0; tries < 500 && !written(); tries++) await new Promise((resolve) => setTimeout(resolve, 10));
      expect(written()).toBe(true);
      expect(readdirSync(`${proc}/root`)).toEqual(["f"]);
      expect(readlinkSync(`${proc}/ns/mnt`)).not.toBe(readlinkSync("/proc/self/ns/mnt"));
      expect(readFileSync(`${proc}/mountinfo`, "utf8").trim().split("\n")).toHaveLength(1);
      const links = readdirSync(`${proc}/fd`).map((fd) => readlinkSync(`${proc}/fd/${fd}`));
      // Its own four, the parent it keeps open, and the file it is writing.
      expect(links.filter((link) => link.startsWith("/") && link !== join(run.base, "pending")).sort()).toEqual(["/", "/", "/f"]);
      const status = readFileSync(`${proc}/status`, "utf8");
      // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, MKNOD 27, SETFCAP 31
      const kept = (2n ** 0n + 2n ** 1n + 2n ** 3n + 2n ** 4n + 2n ** 27n + 2n ** 31n).toString(16).padStart(16, "0");
      expect(status).toMatch(
        new RegExp(`CapInh:\\s+0{16}\nCapPrm:\\s+${kept}\nCapEff:\\s+${kept}\nCapBnd:\\s+${kept}\nCapAmb:\\s+0{16}`),
      );
      expect(status).toMatch(/NoNewPrivs:\s+1\nSeccomp:\s+2/);
    } finally {
      child.kill("SIGKILL");
    }
  });
});
