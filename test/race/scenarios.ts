/** What an attacker exchanges while a container is set up, and what may come of it: all went well, or one operation says that something moved. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import type { Op } from "../../src/core/plan.ts";
import { noSlot } from "../../src/core/plan-schema.ts";
import {
  attach,
  attr,
  bind,
  type Container,
  container,
  containerKinds,
  containerPlan,
  type Outcome,
  type RunOptions,
  type Scratch,
  tmpfs,
} from "../native/plan-runner.ts";

export interface Scenario {
  /** Attacks that it repeats, and what it does. */
  readonly name: string;
  /** Arguments of swap behind its counter. */
  readonly swap: readonly string[];
  /** One set-up; throws where the attacker gained something. False: the set-up was refused. */
  attempt(): Promise<boolean>;
}

const up = "../../../../../../../../../..";
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];

function demand(holds: boolean, what: string, out: Outcome): void {
  if (!holds) throw new Error(`${what}: ${JSON.stringify(out)}`);
}

/** Either nothing failed, or one of these operations did with an errno of a path that moved; what the host has was never seen. */
function judged(out: Outcome, operations: string, stdout: RegExp): boolean {
  demand(!/^host$/m.test(out.stdout + out.stderr), "what the host has was seen inside", out);
  if (out.failed === "") {
    demand(stdout.test(out.stdout), "the container is not what it should be", out);
    return true;
  }
  demand(
    new RegExp(`^failed (${operations}) errno=(1|2|11|16|17|18|19|20|22|40|116) `).test(out.failed),
    "it failed for another reason",
    out,
  );
  return false;
}

/** A root that is a directory of the host, as a shared volume is, and not an overlay of its own. */
function sharedRoot(scratch: Scratch, name: string): string {
  const root = scratch.directory(`shared-${name}`);
  execFileSync("cp", ["-a", `${join(scratch.path, "lower")}/.`, root]);
  for (const made of ["proc", "dev", "etc", "tmp"]) mkdirSync(join(root, made), { recursive: true });
  return root;
}
async function inShared(scratch: Scratch, root: string, spec: Container, options: RunOptions = {}): Promise<Outcome> {
  const plan = containerPlan(scratch, { ...spec, rootSlot: 60, open: [bind(60, root), ...(spec.open ?? [])] });
  return await scratch.run([{ cloneKinds: containerKinds, plan }], options);
}

/** Mount points of a process; none of one that has ended meanwhile. */
function mountPoints(pid: number): readonly string[] {
  try {
    const lines = readFileSync(`/proc/${pid}/mountinfo`, "utf8").split("\n");
    return lines.map((line) => line.split(" ")[4] ?? "");
  } catch {
    return [];
  }
}

function targets(scratch: Scratch, deny: string): Scenario {
  const volume = join(scratch.path, "volume");
  return {
    name: `CVE-2021-30465 CVE-2019-18837 CVE-2024-45310: targets of mounts, directories, nodes, masks, by ${deny === "" ? "openat2" : "a walk"}`,
    swap: [volume, "a", "b"],
    attempt: async () => {
      const steps = container(scratch, {
        args: sh(`ls -A ${join(scratch.path, "decoy")} /volume/a /volume/b 2>/dev/null; echo done`),
        mounts: [
          bind(4, volume),
          attach(4, "/volume"),
          ...tmpfs("/volume/a/x"),
          bind(5, scratch.file("source", "volume")),
          attach(5, "/volume/a/file"),
          { op: "mkdir", path: "/volume/a/made/deep", mode: 0o755, uid: 1, gid: 1, force: 0 },
          { op: "mknod", path: "/volume/a/null", mode: 0o020666, major: 1, minor: 3, uid: 0, gid: 0 },
        ],
        masked: ["/volume/a/made", "/volume/b/file"],
        readonly: ["/volume/a/x"],
      });
      return judged(await scratch.run(steps, { deny }), "attach|mkdir|mknod|mask|readonly", /done\n$/);
    },
  };
}

function procTarget(scratch: Scratch): Scenario {
  const root = sharedRoot(scratch, "proc");
  symlinkSync("/etc", join(root, "other"));
  return {
    name: "CVE-2019-19921 CVE-2023-27561 CVE-2023-28642: /proc of a root that another container shares",
    swap: [root, "proc", "other"],
    attempt: async () => {
      let points: readonly string[] = [];
      const out = await inShared(
        scratch,
        root,
        { args: ["/bin/cat"], withDev: false },
        {
          running: async (pid) => {
            points = mountPoints(pid);
          },
        },
      );
      demand(!points.includes("/etc"), "procfs lies over /etc", out);
      return judged(out, "attach", /^$/);
    },
  };
}

function nullDevice(scratch: Scratch): Scenario {
  const root = sharedRoot(scratch, "null");
  for (const [name, minor] of [
    ["null", "3"],
    ["zero", "5"],
  ] as const)
    execFileSync("mknod", ["-m", "666", join(root, "dev", name), "c", "1", minor]);
  symlinkSync("/etc/passwd", join(root, "dev/link"));
  scratch.file("shared-null/secret", "secret");
  let count = 0;
  return {
    name: "CVE-2025-31133 CVE-2026-88265: /dev/null as the source of masks and of stdin",
    swap: [join(root, "dev"), "null", "link", "null", "zero"],
    attempt: async () => {
      const out = await inShared(scratch, root, {
        args: sh("wc -c < /secret; stat -c %t:%T /secret; wc -c"),
        withDev: false,
        stdio: [{ op: "stdio", stdin: count++ % 2 === 0 ? noSlot : 0, stdout: 1, stderr: 2 }],
        after: [{ op: "mask", path: "/secret" }],
      });
      return judged(out, "stdio|mask", /^0\n1:3\n0\n$/);
    },
  };
}

function consolePaths(scratch: Scratch): Scenario {
  const root = sharedRoot(scratch, "console");
  mkdirSync(join(root, "dev/pts"));
  scratch.file("shared-console/dev/console", "");
  symlinkSync("/etc/passwd", join(root, "dev/file"));
  symlinkSync("/etc", join(root, "dev/directory"));
  const devpts: Op = { op: "fsmount", out: 20, type: "devpts", source: "devpts", options: ["newinstance"], attrs: attr.nosuid };
  return {
    name: "CVE-2025-52565 CVE-2026-88264: /dev/console and /dev/pts of a terminal",
    swap: [join(root, "dev"), "console", "file", "pts", "directory"],
    attempt: async () => {
      let points: readonly string[] = [];
      const out = await inShared(
        scratch,
        root,
        {
          args: sh("echo done"),
          withDev: false,
          mounts: [devpts, attach(20, "/dev/pts")],
          stdio: [{ op: "console", rows: 0, cols: 0, bindConsole: 1, export: 0 }],
          park: true,
        },
        {
          held: (event) => {
            points = mountPoints(Number(event.split(" ")[1]));
          },
        },
      );
      demand(!points.includes("/etc/passwd"), "the terminal lies over another file", out);
      // devpts itself may come to lie over /etc of this root, as the link says: that is inside.
      return judged(out, "attach|console", /^done\r\n$/);
    },
  };
}

function directoryAndProgram(scratch: Scratch): Scenario {
  const volume = scratch.directory("programs");
  scratch.file("programs/a/run", "#!/bin/sh\npwd\ncat file 2>/dev/null\ncat ../file 2>/dev/null\necho done\n", 0o755);
  symlinkSync("/proc/self/fd/3", join(volume, "b"));
  symlinkSync(`${up}${join(scratch.path, "decoy")}`, join(volume, "c"));
  return {
    name: "CVE-2024-21626: the working directory and the program",
    swap: [volume, "a", "b", "a", "c"],
    attempt: async () => {
      const steps = container(scratch, {
        args: ["/volume/a/run"],
        mounts: [bind(4, volume), attach(4, "/volume")],
        identity: [{ op: "cwd", path: "/volume/a/made", create: 1 }],
      });
      const out = await scratch.run(steps);
      // The kernel opened the script; its interpreter, inside by then, opens the path anew and may find it moved.
      const movedAfterExec =
        out.failed === "" && out.stdout === "" && /^\/bin\/sh: can't open '\/volume\/a\/run': /.test(out.stderr);
      return judged(out, "cwd|exec", movedAfterExec ? /^$/ : /^\/.*\ndone\n$/) && !movedAfterExec;
    },
  };
}

function copyOut(scratch: Scratch): Scenario {
  const image = scratch.directory("image-of-links");
  scratch.file("image-of-links/data/deep/file", "image");
  symlinkSync(`${up}${join(scratch.path, "decoy")}`, join(image, "link"));
  const into = scratch.directory("copied");
  return {
    name: "CVE-2018-15664: what is copied out of an image",
    swap: [image, "data", "link"],
    attempt: async () => {
      for (const name of readdirSync(into)) rmSync(join(into, name), { recursive: true });
      const plan: Op[] = [
        bind(3, image),
        { op: "use-root", slot: 3 },
        { op: "open-host", out: 4, path: into },
        { op: "copy-tree", path: "/data/deep", into: 4 },
        { op: "copy-tree", path: "/data", into: 4 },
      ];
      const out = await scratch.run([{ cloneKinds: containerKinds, plan }]);
      const copied = execFileSync("find", [into, "-type", "f", "-exec", "cat", "{}", "+"], { encoding: "utf8" });
      demand(/^(image)*$/.test(copied), `it copied ${copied}`, out);
      return judged(out, "copy-tree", /^$/) && copied !== "";
    },
  };
}

export const scenarios = (scratch: Scratch): readonly Scenario[] => [
  targets(scratch, ""),
  targets(scratch, "openat2"),
  procTarget(scratch),
  nullDevice(scratch),
  consolePaths(scratch),
  directoryAndProgram(scratch),
  copyOut(scratch),
];
