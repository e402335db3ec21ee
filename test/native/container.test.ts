/** A real container root from a plan: overlay, proc, dev, masks, pivot, identity, exec. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Op } from "../../src/core/plan.ts";
import { noSlot, nsKind } from "../../src/core/plan-schema.ts";
import {
  allCaps,
  attach,
  attr,
  bind,
  buildPlanExec,
  container,
  containerKinds,
  containerPlan,
  overlayStep,
  Scratch,
} from "./plan-runner.ts";

let scratch: Scratch;
beforeAll(() => {
  buildPlanExec();
  scratch = new Scratch();
});
afterAll(() => scratch[Symbol.dispose]());

const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];
const user = (uid: number, caps = 0n): Op[] => [
  { op: "bounding-caps", set: caps },
  { op: "user", uid, gid: uid, groups: [uid, 7, 8] },
  { op: "caps", permitted: uid === 0 ? caps : 0n, effective: uid === 0 ? caps : 0n, inheritable: 0n, ambient: 0n },
  { op: "no-new-privs" },
];

it("runs a program in a root of its own", async () => {
  const out = await scratch.run(
    container(scratch, { args: sh("echo $$; ls /; ls /dev; cat /proc/self/mountinfo | wc -l; echo oops >&2; exit 3") }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout.split("\n").slice(0, 6)).toEqual(["1", "bin", "dev", "etc", "proc", "fd"]);
  expect(out.stderr).toBe("oops\n");
  expect(out.code).toBe(3);
});

it("masks files and directories, makes paths read-only and skips what is missing #masked-paths #read-only-paths", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh(
        "wc -c < /proc/uptime; ls -A /proc/fs | wc -l; ls -A /proc/tty | wc -l; touch /proc/fs/x; echo 1 > /proc/sys/kernel/hostname; stat -c %t:%T /proc/keys",
      ),
      masked: ["/proc/uptime", "/proc/fs", "/proc/tty", "/proc/keys", "/proc/nothing", "/etc/passwd/x"],
      readonly: ["/proc/sys", "/sys/nothing"],
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout).toBe("0\n0\n0\n1:3\n");
  expect(out.stderr).toMatch(/\/proc\/fs\/x.*Read-only/);
  expect(out.stderr).toMatch(/hostname: Read-only/);
});

it("becomes the user asked for, with no capability, and finds HOME in the container #user #no-new-privileges #environment", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh("id -u; id -g; id -G; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; echo $HOME; readlink /proc/self/cwd; umask"),
      identity: [{ op: "cwd", path: "/work/dir", create: 1 }, ...user(1000)],
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout.replaceAll("\t", " ").split("\n")).toEqual([
    "1000",
    "1000",
    "1000 7 8",
    ...["Inh", "Prm", "Eff", "Bnd", "Amb"].map((set) => `Cap${set}: 0000000000000000`),
    "NoNewPrivs: 1",
    "Seccomp: 0",
    "/home/user",
    "/work/dir",
    "0022",
    "",
  ]);
});

it("keeps root's capabilities as asked and HOME as given", async () => {
  const caps = 0xan;
  const out = await scratch.run(
    container(scratch, {
      args: sh("grep Cap /proc/self/status; echo $HOME"),
      env: ["PATH=/bin", "HOME=/own"],
      identity: user(0, caps),
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout.replaceAll("\t", " ")).toBe(
    `CapInh: 0000000000000000\nCapPrm: 000000000000000a\nCapEff: 000000000000000a\nCapBnd: 000000000000000a\nCapAmb: 0000000000000000\n/own\n`,
  );
});

it("raises ambient capabilities for another user #ambient", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: ["/bin/grep", "Cap", "/proc/self/status"],
      identity: [
        { op: "bounding-caps", set: 0x400n },
        { op: "user", uid: 1000, gid: 1000, groups: [] },
        { op: "caps", permitted: 0x400n, effective: 0x400n, inheritable: 0x400n, ambient: 0x400n },
      ],
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout.match(/0000000000000400/g)).toHaveLength(5);
});

it("leaves a container nothing of the runtime: descriptors, signals, scheduling, directories (class-descriptor-audit)", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh(
        "ls /proc/self/fd; grep -E '^(Sig|Cpus_allowed:|Speculation|Seccomp:)' /proc/self/status; readlink /proc/self/root; cat /proc/self/timerslack_ns /proc/self/oom_score_adj",
      ),
      before: [{ op: "oom-score-adj", value: 555n }],
      identity: user(0, allCaps()),
    }),
  );
  expect(out.failed).toBe("");
  // ls has its own descriptor of the directory as 3.
  expect(out.stdout.split("\n").slice(0, 4)).toEqual(["0", "1", "2", "3"]);
  expect(out.stdout).toMatch(/SigBlk:\s+0+\nSigIgn:\s+0+\n/);
  expect(out.stdout).toMatch(/\n\/\n50000\n555\n$/);
});

it("waits parked, holding stdio and two descriptors only, and cannot be looked into (CVE-2016-9962)", async () => {
  let fds: string[] = [];
  let facts = "";
  const out = await scratch.run(container(scratch, { args: ["/bin/true"], park: true, identity: user(1000) }), {
    held: (event) => {
      const pid = event.split(" ")[1];
      fds = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      facts = `${readFileSync(`/proc/${pid}/status`, "utf8")} owner ${statSync(`/proc/${pid}/fd`).uid} ${readlinkSync(`/proc/${pid}/cwd`)}`;
    },
  });
  expect(out.events).toContainEqual(expect.stringMatching(/^parked \d+$/));
  expect(fds).toHaveLength(5);
  expect(fds.filter((fd) => fd.startsWith("socket:") || fd.startsWith("pipe:"))).toHaveLength(3);
  expect(facts).toMatch(/CapPrm:\s+0+\n/);
  // Not dumpable: its files in procfs belong to root and not to the user it runs as.
  expect(facts).toMatch(/owner 0 \/$/);
  expect(out.code).toBe(0);
});

it("lets the host unmount a volume while a container is parked", async () => {
  const volume = scratch.directory("volume");
  execFileSync("mount", ["-t", "tmpfs", "caisson-volume", volume]);
  execFileSync("mount", ["--make-shared", volume]);
  writeFileSync(join(volume, "file"), "content");
  let unmounted = false;
  const out = await scratch.run(
    container(scratch, {
      args: ["/bin/ls", "-A", "/volume"],
      park: true,
      open: [
        bind(4, volume),
        { op: "mount-attr", slot: 4, set: 0, clear: 0, propagation: 1 << 19, recursive: 1, userns: noSlot },
      ],
      mounts: [attach(4, "/volume")],
      readonly: ["/proc/sys"],
      masked: ["/proc/uptime"],
    }),
    {
      held: () => {
        execFileSync("umount", [volume]);
        unmounted = true;
      },
    },
  );
  expect(out.failed).toBe("");
  expect(unmounted).toBe(true);
});

it("mounts volumes both ways where asked #propagation", async () => {
  const volume = scratch.directory("shared");
  execFileSync("mount", ["-t", "tmpfs", "caisson-shared", volume]);
  execFileSync("mount", ["--make-shared", volume]);
  scratch.directory("shared/a");
  let seen = "";
  const out = await scratch.run(
    container(scratch, {
      args: sh("mkdir /volume/b; exec cat"),
      open: [
        bind(4, volume, true),
        { op: "mount-attr", slot: 4, set: 0, clear: 0, propagation: 1 << 20, recursive: 1, userns: noSlot },
      ],
      mounts: [
        attach(4, "/volume"),
        { op: "fsmount", out: 20, type: "tmpfs", source: "inside", options: [], attrs: 0 },
        attach(20, "/volume/a"),
      ],
    }),
    {
      running: async () => {
        seen = readFileSync("/proc/self/mountinfo", "utf8");
      },
    },
  );
  execFileSync("umount", ["-R", volume]);
  expect(out.failed).toBe("");
  expect(seen).toMatch(new RegExp(`${volume}/a .*tmpfs inside`));
});

it("gives a terminal of the container's own devpts as controlling terminal", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh("tty; stat -c %u:%t /dev/pts/0; stat -c %t:%T /dev/console; echo hi > /dev/tty; stty size"),
      env: ["PATH=/bin"],
      mounts: [{ op: "mknod", path: "/dev/tty", mode: 0o020666, major: 5, minor: 0, uid: 0, gid: 0 }],
      stdio: [{ op: "console", rows: 24, cols: 80, bindConsole: 1, export: 0 }],
      identity: user(1000),
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout.replaceAll("\r", "")).toMatch(/^\/dev\/pts\/0\n1000:88\n88:0\nhi\n/);
});

it("replaces an absent stdin by the container's null device (class-null-owner)", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh("readlink /proc/self/fd/0; wc -c"),
      stdio: [{ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 }],
      identity: user(1000),
    }),
  );
  expect(out.stdout).toBe("/dev/null\n0\n");
  expect(statSync("/dev/null").uid).toBe(0);
});

it("says which program was not found and why", async () => {
  scratch.file("lower/bin/data", "x", 0o644);
  scratch.file("lower/bin/broken", "#!/no/such/interpreter\n", 0o755);
  const failure = async (...args: string[]): Promise<string> => (await scratch.run(container(scratch, { args }))).failed;
  expect(await failure("nothing")).toBe('failed exec errno=2 exec: "nothing": executable file not found in $PATH');
  expect(await failure("/nothing")).toBe("failed exec errno=2 /nothing");
  expect(await failure("/bin/data")).toBe("failed exec errno=13 /bin/data");
  expect(await failure("data")).toBe("failed exec errno=13 /bin/data");
  expect(await failure("broken")).toBe("failed exec errno=2 /bin/broken");
  expect(await failure("/bin")).toBe("failed exec errno=13 /bin");
});

it("gives a session keyring of its own (class-keyring) #keyring", async () => {
  const out = await scratch.run(
    container(scratch, { args: ["/bin/cat", "/proc/keys"], identity: [{ op: "keyring", name: "_ses.test" }, ...user(1000)] }),
  );
  expect(out.failed).toBe("");
  // Owner search (08) is added to what the kernel gives: the user may find its own keys.
  expect(out.stdout).toMatch(/ 3f1b0000 .*keyring +_ses.test|3f3f0000 .*_ses.test|_ses.test/);
  expect(out.stdout.match(/_ses/g)).toHaveLength(1);
});

it("stops at the first failure and names the operation", async () => {
  const out = await scratch.run([
    {
      cloneKinds: 0,
      plan: [
        { op: "clean-start" },
        { op: "open-tree", out: 5, path: "/no/such/source", flags: 1 },
        { op: "hostname", name: "never" },
      ],
    },
  ]);
  expect(out.failed).toBe("failed open-tree errno=2 /no/such/source");
  expect(out.code).toBe(127);
});

it("sets limits, names, sysctls and the loopback interface in its namespaces only", async () => {
  const out = await scratch.run(
    container(scratch, {
      args: sh(
        "ulimit -n; hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced; cat /sys/class/net/lo/flags; cat /proc/sys/kernel/domainname",
      ),
      before: [
        { op: "hostname", name: "inside" },
        { op: "domainname", name: "example" },
        { op: "loopback-up" },
        { op: "sysctl", key: "net/ipv4/ip_forward", value: "1" },
        { op: "sysctl", key: "kernel/shm_rmid_forced", value: "1" },
      ],
      mounts: [
        { op: "fsmount", out: 20, type: "sysfs", source: "sysfs", options: [], attrs: attr.rdonly },
        attach(20, "/sys", 3),
      ],
      identity: [{ op: "rlimit", resource: 7, soft: 33n, hard: 44n }],
    }),
  );
  expect(out.failed).toBe("");
  expect(out.stdout).toBe("33\ninside\n1\n1\n0x9\nexample\n");
});

it("refuses a sysctl that leads out of its tree (class-procfs-paths)", async () => {
  for (const key of ["../x", "kernel/../../x", "", "/kernel/hostname", "kernel//hostname"]) {
    const out = await scratch.run([{ cloneKinds: 0, plan: [{ op: "sysctl", key, value: "1" }] }]);
    expect(out.events.at(-1)).toBe("refused op=0 errno=74 not a sysctl key");
  }
});

it("copies an image's directory into a volume with owners, modes and links", async () => {
  scratch.file("lower/data/sub/file", "content", 0o640);
  execFileSync("chown", ["12:34", join(scratch.path, "lower/data/sub/file")]);
  execFileSync("ln", ["-sf", "/etc/passwd", join(scratch.path, "lower/data/link")]);
  execFileSync("mkfifo", [join(scratch.path, "lower/data/fifo")]);
  const into = scratch.directory("filled");
  const out = await scratch.run([
    overlayStep(scratch, "copy"),
    {
      cloneKinds: 0,
      plan: [
        { op: "use-root", slot: 3 },
        { op: "open-host", out: 4, path: into },
        { op: "copy-tree", path: "/data", into: 4 },
        { op: "copy-tree", path: "/not/there", into: 4 },
      ],
    },
  ]);
  expect(out.failed).toBe("");
  const listed = execFileSync("find", [into, "-printf", "%P %y %m %U:%G %l\n"], { encoding: "utf8" }).split("\n").sort();
  expect(listed.filter((line) => line !== "")).toEqual(
    [" d 755 0:0 ", "fifo p 644 0:0 ", "link l 777 0:0 /etc/passwd", "sub d 755 0:0 ", "sub/file f 640 12:34 "].sort(),
  );
  expect(readFileSync(join(into, "sub/file"), "utf8")).toBe("content");
});

it("waits at barriers until it may go on", async () => {
  const out = await scratch.run(
    [
      {
        cloneKinds: nsKind.uts,
        plan: [{ op: "clean-start" }, { op: "barrier", number: 7 }, { op: "hostname", name: "x" }, { op: "barrier", number: 9 }],
      },
    ],
    { held: () => undefined },
  );
  expect(out.events).toEqual(["barrier 7", "barrier 9", expect.stringMatching(/^runs/), "exit 0"]);
});

it("puts itself into a cgroup, and refuses a file that is not a cgroup's (class-cgroup-path) #cgroupfs", async () => {
  const hierarchy = "/sys/fs/cgroup/pids/caisson-native-test";
  execFileSync("mkdir", ["-p", hierarchy]);
  const before: Op[] = [{ op: "cgroup-attach", path: `${hierarchy}/tasks` }];
  const out = await scratch.run(container(scratch, { args: ["/bin/grep", "pids", "/proc/self/cgroup"], before }));
  expect(out.failed).toBe("");
  expect(out.stdout).toMatch(/\/caisson-native-test$/m);
  await expect.poll(() => readFileSync(`${hierarchy}/tasks`, "utf8")).toBe("");
  execFileSync("rmdir", [hierarchy]);
  const decoy = scratch.file("tasks", "");
  const refused = await scratch.run([{ cloneKinds: 0, plan: [{ op: "cgroup-attach", path: decoy }] }]);
  expect(refused.failed).toBe(`failed cgroup-attach errno=18 ${decoy} is not on a cgroup filesystem`);
});

it("loads a seccomp filter before the program", async () => {
  const filter = Buffer.alloc(4 * 8);
  // ld nr; jeq mkdir -> errno; ret allow
  for (const [i, [code, yes, no, k]] of (
    [
      [0x20, 0, 0, 0],
      [0x15, 0, 1, 83],
      [0x06, 0, 0, 0x0005_0001],
      [0x06, 0, 0, 0x7fff_0000],
    ] as const
  ).entries()) {
    filter.writeUInt16LE(code, i * 8);
    filter.writeUInt8(yes, i * 8 + 2);
    filter.writeUInt8(no, i * 8 + 3);
    filter.writeUInt32LE(k, i * 8 + 4);
  }
  const out = await scratch.run(
    container(scratch, {
      args: sh("grep Seccomp: /proc/self/status; mkdir /x"),
      identity: [...user(0), { op: "seccomp", flags: 0, program: filter }],
    }),
  );
  expect(out.stdout).toMatch(/Seccomp:\s+2/);
  expect(out.stderr).toMatch(/Operation not permitted/);
});

it("executes in an existing container by its pidfd, at once or namespace by namespace", async () => {
  const kinds = containerKinds;
  const exec: Op[] = [
    { op: "clean-start" },
    { op: "oom-score-adj", value: 7n },
    { op: "join-process", slot: 3, kinds },
    { op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 },
    { op: "cwd", path: "/etc", create: 1 },
    ...user(1000),
    { op: "fork" },
    {
      op: "exec",
      path: "sh",
      args: sh("hostname; pwd; echo $HOME; id -u; readlink /proc/self/fd/0; ls /proc/self/fd; cat /proc/$$/oom_score_adj"),
      env: ["PATH=/bin"],
    },
  ];
  const results: string[] = [];
  const plan = containerPlan(scratch, { args: ["/bin/cat"], before: [{ op: "hostname", name: "joined" }] });
  const out = await scratch.run([overlayStep(scratch, "exec"), { cloneKinds: containerKinds, plan }], {
    running: async (pid) => {
      for (const deny of ["setns_pidfd,openat2,private_proc,close_range", "setns_pidfd", undefined]) {
        const inner = await scratch.run([{ cloneKinds: 0, plan: exec }], {
          pids: [pid],
          ...(deny === undefined ? {} : { deny }),
        });
        results.push(inner.failed + inner.stderr + inner.stdout);
      }
    },
  });
  expect(out.failed).toBe("");
  expect(results).toEqual(Array(3).fill("joined\n/etc\n/home/user\n1000\n/dev/null\n0\n1\n2\n3\n7\n"));
});
