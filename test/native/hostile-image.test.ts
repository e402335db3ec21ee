/** Images and volumes that try to lead the set-up of a container out of its root: the static cases, with and without openat2. */
import { execFileSync } from "node:child_process";
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Op } from "../../src/core/plan.ts";
import { attachFlag, noSlot } from "../../src/core/plan-schema.ts";
import {
  attach,
  attr,
  bind,
  buildPlanExec,
  type Container,
  container,
  containerKinds,
  type Outcome,
  Scratch,
  tmpfs,
} from "./plan-runner.ts";

let scratch: Scratch;
let image: string;
let decoy: string;
let untouched: string;
let count = 0;

/** Path, inode, mode, owner and time of everything in the directory that no container may reach. */
const manifest = (): string => execFileSync("find", [decoy, "-printf", "%P %i %m %U:%G %T@ %l\n"], { encoding: "utf8" });

beforeAll(() => {
  buildPlanExec();
  scratch = new Scratch();
});
afterAll(() => scratch[Symbol.dispose]());

beforeEach(() => {
  // An upper image of its own for each test, above busybox.
  image = scratch.directory(`image${count++}`);
  decoy = scratch.directory("decoy");
  scratch.file("decoy/file", "host");
  scratch.file("decoy/etc/passwd", "evil:x:0:0::/evil:/bin/sh\n");
  untouched = manifest();
});
afterEach(() => {
  expect(manifest()).toBe(untouched);
  rmSync(decoy, { recursive: true });
});

const link = (target: string, path: string): void => {
  mkdirSync(join(image, path, ".."), { recursive: true });
  symlinkSync(target, join(image, path));
};
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const up = "../../../../../../../../../..";
const fileBind = (): Op[] => [bind(4, scratch.file("source", "volume"))];

describe.each([["openat2"], ["a walk in user space"]])("by %s", (way) => {
  const run = async (spec: Container): Promise<Outcome> =>
    await scratch.run(
      container(scratch, spec, [`image${count - 1}`, "lower"]),
      way === "openat2" ? {} : { deny: "openat2,fchmodat2,statx_mnt_id" },
    );

  it.each([["/proc"], ["/sys"]])(
    "refuses to mount %s on a symlink or a file (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642)",
    async (path) => {
      const type = path === "/proc" ? "proc" : "sysfs";
      const mounts: Op[] = [
        { op: "fsmount", out: 20, type, source: type, options: [], attrs: attr.nosuid },
        attach(20, path, attachFlag.create | attachFlag.fresh),
      ];
      link("/etc", path);
      const linked = await run({ args: ["/bin/true"], withProc: false, withDev: false, mounts });
      expect(linked.failed).toBe(`failed attach errno=40 ${path} must be mounted on an ordinary directory`);
      rmSync(join(image, path));
      link(`${up}${decoy}`, path);
      expect((await run({ args: ["/bin/true"], withProc: false, withDev: false, mounts })).failed).toMatch(/ordinary directory$/);
      rmSync(join(image, path));
      scratch.file(`image${count - 1}${path}`, "");
      expect((await run({ args: ["/bin/true"], withProc: false, withDev: false, mounts })).failed).toMatch(
        /^failed attach errno=20 /,
      );
    },
  );

  it("keeps a mount through a link inside the root (CVE-2015-1335, CVE-2015-3627, CVE-2019-18837) #symlinked-targets", async () => {
    link(`${up}${decoy}`, "vol");
    link(decoy, "abs");
    link("abs/deep", "chain");
    const out = await run({
      args: sh(`cat /vol/x ${decoy}/x /chain/y; ls ${decoy}`),
      mounts: [...tmpfs("/vol"), ...tmpfs("/chain"), ...fileBind(), attach(4, "/vol/x"), ...fileBind(), attach(4, "/chain/y")],
    });
    expect(out.failed).toBe("");
    // Inside, the links' targets are directories of the container of the same name.
    expect(out.stdout).toBe("volumevolumevolumedeep\nx\n");
  });

  it("makes a dangling link's target inside the root (CVE-2024-45310) #symlinked-targets", async () => {
    link("/made/by/link", "dangling");
    const out = await run({
      args: sh("cat /made/by/link/file; readlink /dangling"),
      mounts: [...fileBind(), attach(4, "/dangling/file")],
    });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe("volume/made/by/link\n");
    expect(existsSync("/made")).toBe(false);
  });

  it("gives up at link loops (class-rooted-paths)", async () => {
    link("b", "a");
    link("a", "b");
    expect((await run({ args: ["/bin/true"], mounts: [...fileBind(), attach(4, "/a/x")] })).failed).toBe(
      "failed attach errno=40 /a/x",
    );
    expect(
      (await run({ args: ["/bin/true"], mounts: [{ op: "mkdir", path: "/b", mode: 0o755, uid: 0, gid: 0, force: 0 }] })).failed,
    ).toBe("failed mkdir errno=40 /b");
  });

  it("makes directories only inside, also where a link points out (CVE-2024-45310, class-rooted-paths)", async () => {
    link(`${up}${decoy}`, "out");
    const out = await run({
      args: sh(`stat -c %a:%u:%g /out/one/two; ls -d ${decoy}/one/two`),
      mounts: [{ op: "mkdir", path: "/out/one/two", mode: 0o1700, uid: 5, gid: 6, force: 0 }],
    });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe(`1700:5:6\n${decoy}/one/two\n`);
  });

  it("makes devices and links through a linked /dev inside the root only (CVE-2026-41579, CVE-2026-47766)", async () => {
    link(`${up}${decoy}`, "dev");
    const node: Op = { op: "mknod", path: "/dev/null", mode: 0o020666, major: 1, minor: 3, uid: 0, gid: 0 };
    const out = await run({
      args: sh("stat -c %t:%T:%a /dev/null; readlink /dev/ptmx"),
      withDev: false,
      mounts: [
        node,
        { op: "symlink", target: "pts/ptmx", path: "/dev/ptmx" },
        { op: "symlink", target: "pts/ptmx", path: "/dev/ptmx" },
      ],
    });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe("1:3:666\npts/ptmx\n");
  });

  it("believes no device or link that is already there (CVE-2025-31133, class-made-nodes)", async () => {
    link("/etc/passwd", "dev/null");
    link("/elsewhere", "dev/ptmx");
    const node: Op = { op: "mknod", path: "/dev/null", mode: 0o020666, major: 1, minor: 3, uid: 0, gid: 0 };
    expect((await run({ args: ["/bin/true"], withDev: false, mounts: [node] })).failed).toBe(
      "failed mknod errno=17 /dev/null exists and is something else",
    );
    expect(
      (await run({ args: ["/bin/true"], withDev: false, mounts: [{ op: "symlink", target: "pts/ptmx", path: "/dev/ptmx" }] }))
        .failed,
    ).toBe("failed symlink errno=17 /dev/ptmx exists and is something else");
    rmSync(join(image, "dev/null"));
    execFileSync("mknod", [join(image, "dev/null"), "c", "1", "5"]);
    expect((await run({ args: ["/bin/true"], withDev: false, mounts: [node] })).failed).toMatch(/something else$/);
    expect(
      (await run({ args: ["/bin/true"], withDev: false, stdio: [{ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 }] })).failed,
    ).toBe("failed stdio errno=19 /dev/null is not the null device");
  });

  it("takes no link and no other device as the source of a mask (CVE-2025-31133)", async () => {
    const masked = async (): Promise<string> =>
      (await run({ args: ["/bin/true"], withDev: false, after: [{ op: "mask", path: "/etc/passwd" }] })).failed;
    link("/etc/group", "dev/null");
    expect(await masked()).toBe("failed mask errno=19 /dev/null is not the null device");
    rmSync(join(image, "dev/null"));
    execFileSync("mknod", [join(image, "dev/null"), "c", "1", "5"]);
    expect(await masked()).toBe("failed mask errno=19 /dev/null is not the null device");
    rmSync(join(image, "dev/null"));
    // No source is no reason to leave the mask out.
    expect(await masked()).toBe("failed mask errno=2 /dev/null");
  });

  it("takes no link as a null device for stdin (CVE-2026-88265)", async () => {
    link("/etc/passwd", "dev/null");
    const out = await run({ args: ["/bin/cat"], withDev: false, stdio: [{ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 }] });
    expect(out.failed).toBe("failed stdio errno=19 /dev/null is not the null device");
  });

  it("takes no image's /dev/pts for a terminal (CVE-2025-52565)", async () => {
    link("/proc/sysrq-trigger", "dev/pts/ptmx");
    const stdio: Op[] = [{ op: "console", rows: 0, cols: 0, bindConsole: 1, export: 0 }];
    expect((await run({ args: ["/bin/true"], withDev: false, stdio })).failed).toBe(
      "failed console errno=19 /dev/pts/ptmx is not a pty multiplexer",
    );
    rmSync(join(image, "dev/pts/ptmx"));
    execFileSync("mknod", [join(image, "dev/pts/ptmx"), "c", "5", "2"]);
    expect((await run({ args: ["/bin/true"], withDev: false, stdio })).failed).toMatch(/is not a pty multiplexer$/);
  });

  it("follows no link at /dev/console (CVE-2026-88264, CVE-2025-52565)", async () => {
    const pts: Op[] = [
      { op: "fsmount", out: 20, type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"], attrs: attr.nosuid },
      attach(20, "/dev/pts"),
    ];
    link("/etc/passwd", "dev/console");
    const out = await run({
      args: ["/bin/true"],
      withDev: false,
      mounts: pts,
      stdio: [{ op: "console", rows: 0, cols: 0, bindConsole: 1, export: 0 }],
    });
    expect(out.failed).toBe("failed console errno=17 /dev/console exists and is something else");
  });

  it.each([
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/../proc/meminfo",
    "/link",
  ])("lets a file be mounted on %s", async (path) => {
    link("/proc/uptime", "link");
    if (path === "/proc/sys/kernel/ns_last_pid" && !existsSync(path)) return;
    const out = await run({ args: ["/bin/cat", path], mounts: [...fileBind(), attach(4, path)] });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe("volume");
  });

  it.each([
    "/proc/net/dev",
    "/proc/self/net/dev",
    "/proc/1/attr/current",
    "/proc/self/status",
    "/proc/sysrq-trigger",
    "/link",
    "/proc/version",
  ])("lets nothing be mounted on %s", async (path) => {
    link("/proc/sysrq-trigger", "link");
    const out = await run({ args: ["/bin/true"], mounts: [...fileBind(), attach(4, path)] });
    expect(out.failed).toMatch(/^failed attach errno=(1 \/proc\/.* cannot be mounted because it is inside \/proc|2 )/);
  });

  it("lets only procfs be mounted on /proc itself (CVE-2019-16884)", async () => {
    const over = await run({ args: ["/bin/true"], mounts: tmpfs("/proc") });
    expect(over.failed).toBe("failed attach errno=1 /proc cannot be mounted because it is not of type proc");
    const first = await run({ args: ["/bin/true"], withProc: false, mounts: tmpfs("/proc") });
    expect(first.failed).toBe("failed attach errno=1 /proc cannot be mounted because it is not of type proc");
    const sys = await run({ args: ["/bin/true"], mounts: tmpfs("/proc/sys") });
    expect(sys.failed).toBe("failed attach errno=1 /proc/sys cannot be mounted because it is inside /proc");
    expect((await run({ args: ["/bin/ls", "/proc/1/status"], mounts: [bind(4, "/proc"), attach(4, "/proc")] })).stdout).toBe(
      "/proc/1/status\n",
    );
  });

  it("mounts nothing on the root itself (CVE-2021-30465)", async () => {
    link("/", "top");
    for (const path of ["/", "/..", "/top", "/bin/.."]) {
      expect((await run({ args: ["/bin/true"], mounts: tmpfs(path) })).failed).toBe(
        `failed attach errno=16 ${path} is on the top of the root`,
      );
    }
  });

  it("masks through a link what the link names inside, and nothing of the host", async () => {
    link(`${up}/etc/hidden`, "mask-me");
    scratch.file(`image${count - 1}/etc/hidden`, "secret");
    const out = await run({ args: ["/bin/wc", "-c", "/etc/hidden"], masked: ["/mask-me"] });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe("0 /etc/hidden\n");
  });

  it("refuses a working directory outside of the container (CVE-2024-21626)", async () => {
    const made = (): readonly string[] => globSync(join(scratch.path, "c*/upper/tmp/*")).toSorted();
    const before = made();
    for (const cwd of ["/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/10", "/proc/self/fd/20"]) {
      for (const create of [0, 1]) {
        const out = await run({ args: ["/bin/pwd"], identity: [{ op: "cwd", path: cwd, create }] });
        expect(out.failed).toMatch(/^failed cwd errno=(2|20|40) /);
      }
    }
    // What the host calls the runtime's descriptors was not made inside.
    expect(made()).toEqual(before);
    link("/proc/1/root/../../..", "escape");
    const out = await run({ args: sh("pwd; ls -d /lower 2>&1"), identity: [{ op: "cwd", path: "/escape", create: 0 }] });
    expect(out.stdout).toMatch(/^\/\n/);
    expect(out.stdout).toMatch(/No such file/);
  });

  it("reads HOME from a regular passwd of the container only (CVE-2024-9676, CVE-2025-4437, class-passwd-size)", async () => {
    const spec: Container = { args: sh("echo $HOME"), identity: [{ op: "user", uid: 0, gid: 0, groups: [] }] };
    expect((await run(spec)).stdout).toBe("/root\n");
    link(`${up}${decoy}/etc/passwd`, "etc/passwd");
    expect((await run(spec)).stdout).toBe("/\n");
    rmSync(join(image, "etc/passwd"));
    execFileSync("mkfifo", [join(image, "etc/passwd")]);
    expect((await run(spec)).stdout).toBe("/\n");
    rmSync(join(image, "etc/passwd"));
    scratch.file(
      `image${count - 1}/etc/passwd`,
      `${"x".repeat(5000)}\nroot:x:0:0:${"y".repeat(3000)}:/long:/bin/sh\nroot:x:0:0::/second:/bin/sh`,
    );
    expect((await run(spec)).stdout).toBe("/second\n");
  });

  it("creates a mount point of the kind of its source", async () => {
    const out = await run({
      args: sh("stat -c %F /new/file /new/directory; touch /new/directory/x; cat /new/file"),
      open: [
        ...fileBind(),
        bind(5, scratch.directory("source-directory")),
        { op: "mount-attr", slot: 5, set: 1, clear: 0, propagation: 0, recursive: 1, userns: noSlot },
      ],
      mounts: [attach(4, "/new/file"), attach(5, "/new/directory")],
    });
    expect(out.failed).toBe("");
    expect(out.stdout).toBe("regular file\ndirectory\nvolume");
    expect(out.stderr).toMatch(/Read-only/);
  });

  it("refuses a missing target unless it may create it", async () => {
    const out = await run({ args: ["/bin/true"], mounts: [...fileBind(), attach(4, "/missing", 0)] });
    expect(out.failed).toBe("failed attach errno=2 /missing");
  });
});

it("copies no volume content through links (CVE-2018-15664)", async () => {
  link(`${up}${decoy}`, "data/link");
  const into = scratch.directory("volume-from-image");
  const out = await scratch.run([
    container(scratch, { args: [] }, [`image${count - 1}`, "lower"])[0] as never,
    {
      cloneKinds: 0,
      plan: [
        { op: "use-root", slot: 3 },
        { op: "open-host", out: 4, path: into },
        { op: "copy-tree", path: "/data", into: 4 },
      ],
    },
  ]);
  expect(out.failed).toBe("");
  expect(readdirSync(into)).toEqual(["link"]);
  expect(statSync(join(decoy, "file")).isFile()).toBe(true);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(join(scratch.path, "root"));
});

it("writes to no procfs that the container made (CVE-2025-52881, CVE-2019-16884)", async () => {
  const imitate = `busybox mount -t tmpfs fake /proc; mkdir /proc/1; busybox ln -s 1 /proc/self; busybox ln -s 1 /proc/thread-self
    busybox mkdir -p /proc/sys/kernel; echo decoy > /proc/sys/kernel/shm_rmid_forced; echo decoy > /proc/1/oom_score_adj; read x`;
  const read = `cat /proc/1/oom_score_adj /proc/sys/kernel/shm_rmid_forced
    mkdir /real; busybox mount -t proc real /real; cat /real/sys/kernel/shm_rmid_forced; read x`;
  const inner: Op[] = [
    { op: "clean-start" },
    { op: "join-process", slot: 3, kinds: containerKinds },
    { op: "oom-score-adj", value: 444n },
    { op: "sysctl", key: "kernel/shm_rmid_forced", value: "1" },
    { op: "stdio", stdin: 0, stdout: 1, stderr: 2 },
    { op: "fork" },
    { op: "exec", path: "sh", args: sh(read), env: ["PATH=/bin"] },
  ];
  let real = "";
  let decoyed = "";
  const out = await scratch.run(container(scratch, { args: sh(imitate) }), {
    running: async (pid) => {
      const covered = (): boolean => readFileSync(`/proc/${pid}/mountinfo`, "utf8").includes("tmpfs fake");
      const decoyOf = (): string => `/proc/${pid}/root/proc/1/oom_score_adj`;
      while (!covered() || !existsSync(decoyOf())) await new Promise((resolve) => setTimeout(resolve, 5));
      const joined = await scratch.run([{ cloneKinds: 0, plan: inner }], {
        pids: [pid],
        running: async (further) => {
          real = readFileSync(`/proc/${further}/oom_score_adj`, "utf8");
        },
      });
      decoyed = joined.failed + joined.stdout;
    },
  });
  expect(out.failed).toBe("");
  expect([real, decoyed]).toEqual(["444\n", "decoy\ndecoy\n1\n"]);
});

describe("a volume's SELinux label", () => {
  const labelOf = (path: string): string => {
    try {
      const args = ["-h", "--only-values", "-n", "security.selinux", path];
      return execFileSync("getfattr", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).replace(/\0$/, "");
    } catch {
      return "none";
    }
  };
  const label = "u:r:t:s0";
  const relabel = async (path: string, follow = 0) =>
    await scratch.run([{ cloneKinds: 0, plan: [{ op: "relabel", path, follow, label }] }]);

  it("is given to everything in it, links included, and to nothing that links or mounts lead to", async () => {
    const volume = scratch.directory(`volume${count}`);
    scratch.file(`volume${count}/a/b/file`, "x");
    symlinkSync(join(decoy, "file"), join(volume, "a/link"));
    symlinkSync(decoy, join(volume, "tree"));
    mkdirSync(join(volume, "mounted"));
    execFileSync("mount", ["--bind", decoy, join(volume, "mounted")]);
    try {
      expect((await relabel(volume)).failed).toBe("");
      for (const path of ["", "a", "a/b", "a/b/file", "a/link", "tree"]) expect(labelOf(join(volume, path)), path).toBe(label);
      for (const path of [decoy, join(decoy, "file")]) expect(labelOf(path)).toBe("none");
    } finally {
      execFileSync("umount", [join(volume, "mounted")]);
    }
  });

  it("is refused by a path that has become a link, but for a kubelet's descriptor", async () => {
    const volume = scratch.directory(`volume${count}`);
    const swapped = join(scratch.path, `swapped${count}`);
    symlinkSync(volume, swapped);
    expect((await relabel(swapped)).failed).toContain(swapped);
    expect(labelOf(volume)).toBe("none");
    expect((await relabel(swapped, 1)).failed).toBe("");
    expect(labelOf(volume)).toBe(label);
  });
});
