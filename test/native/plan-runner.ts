/** Runs real plans with build/native/plan-exec in a scratch directory, and knows the plan of a small container. */
import { execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { encodePlan, type Op, type Plan } from "../../src/core/plan.ts";
import { attachFlag, noSlot, nsKind, openTreeFlag } from "../../src/core/plan-schema.ts";

export const top = join(import.meta.dirname, "../..");
export const attr = { rdonly: 1, nosuid: 2, nodev: 4, noexec: 8 } as const;
export const msRecSlave = 0x4000 | (1 << 19);
export const allCaps = (): bigint => BigInt(`0x${/CapBnd:\s*([0-9a-f]+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]}`);

export interface Step {
  readonly cloneKinds: number;
  readonly plan: Plan;
}
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly events: readonly string[];
  /** The failed event, or an empty string. */
  readonly failed: string;
}
export interface RunOptions {
  readonly deny?: string;
  readonly stdin?: string;
  /** Processes whose pidfds are the slots from 3 on. */
  readonly pids?: readonly number[];
  /** Called with each "parked PID" or "barrier N" event before it goes on. */
  readonly held?: (event: string) => void | Promise<void>;
  /** Called when the last plan's program runs; its stdin ends afterwards. */
  readonly running?: (pid: number) => Promise<void>;
}

export function buildPlanExec(): void {
  execFileSync("make", ["-C", join(top, "native"), "-s", `NODE=${process.execPath}`, "plan-exec"], { stdio: "inherit" });
}

/** A directory with an image made of busybox, and room for overlays. On a tmpfs: an overlay's upper may not lie on an overlay. */
export class Scratch implements Disposable {
  readonly path: string;
  readonly #plans: string;
  #count = 0;

  constructor() {
    this.path = mkdtempSync("/tmp/caisson-native-");
    execFileSync("mount", ["-t", "tmpfs", "caisson-native", this.path]);
    this.#plans = this.directory("plans");
    const bin = this.directory("lower/bin");
    copyFileSync("/bin/busybox", join(bin, "busybox"));
    chmodSync(join(bin, "busybox"), 0o755);
    for (const name of [
      "sh",
      "cat",
      "ls",
      "id",
      "stat",
      "sleep",
      "true",
      "env",
      "tty",
      "readlink",
      "touch",
      "mkdir",
      "grep",
      "hostname",
      "pwd",
      "dd",
      "head",
      "umount",
      "wc",
      "ip",
      "kill",
    ]) {
      symlinkSync("busybox", join(bin, name));
    }
    this.file("lower/etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
  }

  directory(name: string): string {
    const path = join(this.path, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  file(name: string, content: string, mode = 0o644): string {
    const path = join(this.path, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, content);
    chmodSync(path, mode);
    return path;
  }

  /** Lines of our own mountinfo that have to do with this directory. */
  mounts(): string {
    return readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(this.path))
      .join("\n");
  }

  /** Steps run one after another, each in a child; exports of earlier ones are the slots from 3 on of later ones. */
  async run(steps: readonly Step[], options: RunOptions = {}): Promise<Outcome> {
    const files = steps.map(({ cloneKinds, plan }) => {
      const path = join(this.#plans, `${this.#count++}`);
      writeFileSync(path, encodePlan(plan));
      return `${path}:${cloneKinds}`;
    });
    const output = join(this.#plans, `${this.#count++}.out`);
    const errors = join(this.#plans, `${this.#count++}.err`);
    const fds = [openSync(output, "a"), openSync(errors, "a")];
    const args = [
      ...(options.deny === undefined ? [] : ["-d", options.deny]),
      ...(options.held === undefined ? [] : ["-h"]),
      ...(options.pids ?? []).flatMap((pid) => ["-p", `${pid}`]),
      ...files,
    ];
    const child = spawn(join(top, "build/native/plan-exec"), args, { stdio: ["pipe", fds[0], fds[1], "pipe", "pipe"] });
    for (const fd of fds) closeSync(fd);
    // A test may kill it.
    for (const stream of child.stdio) stream?.on("error", () => undefined);
    if (options.running === undefined) child.stdin?.end(options.stdin ?? "");
    const events: string[] = [];
    let text = "";
    let work = Promise.resolve();
    child.stdio[3]?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        events.push(line);
        work = work.then(async () => {
          if (/^(parked|barrier) /.test(line) && options.held !== undefined) {
            await options.held(line);
            (child.stdio[4] as NodeJS.WritableStream).write("\n");
          }
          if (line.startsWith("runs ")) await options.running?.(Number(line.slice(5))).finally(() => child.stdin?.end());
        });
        work.catch(() => child.stdin?.end());
      }
    });
    const code = await new Promise<number>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (status, signal) => resolve(status ?? (signal === null ? -1 : 128)));
    });
    await work;
    return {
      code,
      stdout: readFileSync(output, "utf8"),
      stderr: readFileSync(errors, "utf8"),
      events,
      failed: events.find((event) => event.startsWith("failed ")) ?? "",
    };
  }

  [Symbol.dispose](): void {
    execFileSync("umount", [this.path]);
    rmSync(this.path, { recursive: true });
  }
}

/** An overlay of the scratch image with a fresh upper layer, as the export of its own step. */
export function overlayStep(scratch: Scratch, name: string, lowers: readonly string[] = ["lower"], idmap = noSlot): Step {
  return {
    cloneKinds: 0,
    plan: [
      {
        op: "overlay",
        out: 10,
        lowers: lowers.map((lower) => scratch.directory(lower)),
        upper: scratch.directory(`${name}/upper`),
        work: scratch.directory(`${name}/work`),
        options: [],
        attrs: 0,
        idmap,
      },
      { op: "export", slot: 10 },
    ],
  };
}

export interface Container {
  readonly args: readonly string[];
  readonly env?: readonly string[];
  /** Between /dev and the masks. */
  readonly mounts?: readonly Op[];
  /** Opened while the tree is still the host's. */
  readonly open?: readonly Op[];
  readonly masked?: readonly string[];
  readonly readonly?: readonly string[];
  /** Instead of stdio, after the pivot. */
  readonly stdio?: readonly Op[];
  readonly before?: readonly Op[];
  /** After the pivot, before the identity changes. */
  readonly after?: readonly Op[];
  readonly identity?: readonly Op[];
  readonly park?: boolean;
  readonly withDev?: boolean;
  readonly withProc?: boolean;
  readonly rootSlot?: number;
}

export const attach = (slot: number, path: string, flags: number = attachFlag.create | attachFlag.procRule): Op => ({
  op: "attach",
  slot,
  path,
  flags,
});
export const tmpfs = (path: string, ...options: string[]): Op[] => [
  { op: "fsmount", out: 20, type: "tmpfs", source: "tmpfs", options, attrs: attr.nosuid },
  attach(20, path),
];
export const bind = (slot: number, from: string, recursive = false): Op => ({
  op: "open-tree",
  out: slot,
  path: from,
  flags: openTreeFlag.clone | (recursive ? openTreeFlag.recursive : 0),
});
export const procMount: Op[] = [
  { op: "fsmount", out: 21, type: "proc", source: "proc", options: [], attrs: attr.nosuid | attr.nodev | attr.noexec },
  attach(21, "/proc", attachFlag.create | attachFlag.fresh),
];
const nodes: Op[] = (
  [
    ["null", 3],
    ["zero", 5],
    ["full", 7],
    ["random", 8],
    ["urandom", 9],
  ] as const
).map(([name, minor]) => ({
  op: "mknod",
  path: `/dev/${name}`,
  mode: 0o020666,
  major: 1,
  minor,
  uid: 0,
  gid: 0,
}));
export const devMounts: Op[] = [
  ...tmpfs("/dev", "mode=755"),
  {
    op: "fsmount",
    out: 20,
    type: "devpts",
    source: "devpts",
    options: ["newinstance", "ptmxmode=0666", "mode=0620"],
    attrs: attr.nosuid | attr.noexec,
  },
  attach(20, "/dev/pts"),
  ...nodes,
  { op: "symlink", target: "/proc/self/fd", path: "/dev/fd" },
  { op: "symlink", target: "pts/ptmx", path: "/dev/ptmx" },
];

/** The plan of a container without a user namespace, in the order that the runtime uses. */
export function containerPlan(scratch: Scratch, container: Container): Plan {
  return [
    { op: "parent-death-signal", signal: 9 },
    { op: "clean-start" },
    ...(container.before ?? []),
    ...(container.open ?? []),
    { op: "root-propagation", flags: msRecSlave },
    { op: "attach-root", slot: container.rootSlot ?? 3, path: join(scratch.path, "root") },
    ...(container.withProc === false ? [] : procMount),
    ...(container.withDev === false ? [] : devMounts),
    ...(container.mounts ?? []),
    ...(container.masked ?? []).map((path): Op => ({ op: "mask", path })),
    ...(container.readonly ?? []).map((path): Op => ({ op: "readonly", path })),
    { op: "pivot" },
    ...(container.stdio ?? [{ op: "stdio", stdin: 0, stdout: 1, stderr: 2 }]),
    ...(container.after ?? []),
    ...(container.identity ?? []),
    ...(container.park ? [{ op: "park" } as const] : []),
    { op: "parent-death-signal", signal: 0 },
    { op: "exec", path: container.args[0] ?? "", args: container.args, env: container.env ?? ["PATH=/bin"] },
  ];
}

export const containerKinds = nsKind.mnt | nsKind.pid | nsKind.net | nsKind.ipc | nsKind.uts;

let uppers = 0;
/** Overlay and container as two steps. */
export function container(scratch: Scratch, spec: Container, lowers?: readonly string[]): readonly Step[] {
  return [overlayStep(scratch, `c${uppers++}`, lowers), { cloneKinds: containerKinds, plan: containerPlan(scratch, spec) }];
}
