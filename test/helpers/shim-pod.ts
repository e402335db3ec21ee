/** A pod's shim for tests, with a scratch image, cgroups of its own and the plan of a small container. */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Op, Plan } from "../../src/core/plan.ts";
import { noSlot, nsKind } from "../../src/core/plan-schema.ts";
import { connectShim } from "../../src/core/shim/connect.ts";
import type { ExitRecord } from "../../src/core/shim/events.ts";
import { type ExecOutput, execWithOutput } from "../../src/core/shim/exec-output.ts";
import type { ProcessHandle } from "../../src/core/shim/process-handle.ts";
import type { Shim } from "../../src/core/shim/shim.ts";
import { loadShimImage, type ShimImage, startShim } from "../../src/core/shim/start.ts";
import type { RuntimeError } from "../../src/lib/errors.ts";
import { addon } from "../../src/native/addon.ts";
import { type Container, containerPlan, overlayStep, Scratch, top } from "../native/plan-runner.ts";

export const podId = "c0ffee00".repeat(8);
/** The v2 hierarchy, alone or beside v1. */
export const cgroup2 = existsSync("/sys/fs/cgroup/unified/cgroup.procs") ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup";
/** A v1 hierarchy, where there is one. */
export const cgroup1 = existsSync("/sys/fs/cgroup/pids/tasks") ? "/sys/fs/cgroup/pids" : undefined;

export interface Variant {
  readonly protocol: number;
  readonly minProtocol: number;
  readonly build: string;
}

/** The shim as another version would be built; undefined: as it is. */
export function buildShim(variant?: Variant): string {
  const make = ["-C", join(top, "native"), "-s", `NODE=${process.execPath}`];
  if (variant === undefined) {
    execFileSync("make", [...make, "shim"], { stdio: "inherit" });
    return join(top, "build/native/caisson-shim");
  }
  const out = join(top, `build/native-tests/shim-${variant.build}`);
  const defines = [`-DPROTOCOL_VERSION_OVERRIDE=${variant.protocol}`, `-DMIN_PROTOCOL_VERSION_OVERRIDE=${variant.minProtocol}`];
  execFileSync("make", [...make, "shim", `OUT=${out}`, `BUILD=${variant.build}`, `DEFINES=${defines.join(" ")}`], {
    stdio: "inherit",
  });
  return join(out, "caisson-shim");
}

/** Waits until `look` gives something; fails after ten seconds. */
export async function until<T>(what: string, look: () => T | undefined | false): Promise<T> {
  for (let i = 0; i < 1000; i++) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    await sleep(10);
  }
  throw new Error(`${what}: not within ten seconds`);
}

export interface ContainerOptions extends Container {
  readonly cgroups?: boolean;
  readonly flags?: number;
  readonly deadlineMs?: number;
  readonly onBarrier?: (number: number, pid: number) => Promise<void>;
  readonly signal?: AbortSignal;
}

export class ShimPod implements AsyncDisposable {
  readonly scratch: Scratch;
  readonly runDir: string;
  readonly exits: ExitRecord[] = [];
  readonly lost: RuntimeError[] = [];
  readonly process: ProcessHandle;
  shim: Shim;
  readonly #image: ShimImage;
  readonly #cgroups: readonly string[];

  private constructor(scratch: Scratch, image: ShimImage, cgroups: readonly string[], shim: Shim, process: ProcessHandle) {
    this.scratch = scratch;
    this.runDir = join(scratch.path, "pod");
    this.shim = shim;
    this.process = process;
    this.#image = image;
    this.#cgroups = cgroups;
  }

  static async start(binary: string, env: readonly string[] = []): Promise<ShimPod> {
    const scratch = new Scratch();
    const runDir = scratch.directory("pod");
    const name = `caisson-shimtest-${process.pid}`;
    const cgroups = [join(cgroup2, name), ...(cgroup1 === undefined ? [] : [join(cgroup1, name)])];
    for (const path of cgroups) mkdirSync(path, { recursive: true });
    const image = await loadShimImage(binary);
    const heard: { pod?: ShimPod } = {};
    try {
      const { shim, process: child } = await startShim({
        podId,
        runDir,
        image,
        cgroup: { directory: cgroups[0] ?? null, taskFiles: cgroups.slice(1).map((path) => join(path, "tasks")) },
        softNofile: null,
        stderrFd: 2,
        env,
        listeners: { onExit: (exit) => heard.pod?.exits.push(exit), onLost: (error) => heard.pod?.lost.push(error) },
      });
      heard.pod = new ShimPod(scratch, image, cgroups, shim, child);
      return heard.pod;
    } catch (error) {
      image[Symbol.dispose]();
      await removeAll(scratch, cgroups);
      throw error;
    }
  }

  /** As a daemon that comes back. */
  async reconnect(): Promise<void> {
    this.shim = await connectShim({
      podId,
      runDir: this.runDir,
      expected: this.process.identity,
      listeners: { onExit: (exit) => this.exits.push(exit), onLost: (error) => this.lost.push(error) },
    });
  }

  /** Where containers of this pod may live. */
  get cgroup(): string {
    return this.#cgroups[0] ?? "";
  }

  logPath(id: string): string {
    return join(this.scratch.path, `${id}.log`);
  }

  /** Text of the log's lines, by stream. */
  log(id: string): { readonly stdout: string; readonly stderr: string } {
    const lines = existsSync(this.logPath(id)) ? readFileSync(this.logPath(id), "utf8").split("\n") : [];
    const of = (stream: string): string =>
      lines.flatMap((line) => (line.split(" ")[1] === stream ? [line.split(" ").slice(3).join(" ")] : [])).join("\n");
    return { stdout: of("stdout"), stderr: of("stderr") };
  }

  async create(id: string, options: ContainerOptions): Promise<number> {
    const { cloneKinds, plan } = overlayStep(this.scratch, id);
    const { fds } = await this.shim.run({ plan, cloneKinds, deadlineMs: 5000, what: "overlay" });
    const cgroup = options.cgroups === true ? join(this.cgroup, id) : "";
    if (cgroup !== "") mkdirSync(cgroup, { recursive: true });
    try {
      const { pid } = await this.shim.create({
        id,
        plan: containerPlan(this.scratch, {
          park: true,
          stdio: [{ op: "stdio", stdin: noSlot, stdout: 1, stderr: 2 }],
          ...options,
        }),
        fds,
        flags: options.flags ?? 0,
        cloneKinds: nsKind.mnt | nsKind.pid | nsKind.net | nsKind.ipc | nsKind.uts,
        cgroup,
        killPaths: cgroup === "" ? [] : [cgroup],
        oomPath: "",
        logPath: this.logPath(id),
        logLineBytes: 16384,
        deadlineMs: options.deadlineMs ?? 5000,
        signal: options.signal,
        ...(options.onBarrier === undefined ? {} : { onBarrier: options.onBarrier }),
      });
      return pid;
    } finally {
      for (const fd of fds) closeSync(fd);
    }
  }

  async run(id: string, ...args: string[]): Promise<number> {
    const pid = await this.create(id, { args });
    await this.shim.start(id);
    return pid;
  }

  /** Runs a command in a container's namespaces. */
  async exec(
    id: string,
    initPid: number,
    args: readonly string[],
    options: { timeoutMs?: number; maxOutputBytes?: number; drainMs?: number; signal?: AbortSignal } = {},
  ): Promise<ExecOutput> {
    const pidfd = addon.pidfdOpen(initPid);
    try {
      const request = {
        id,
        execId: `exec-${this.#execs++}`,
        plan: execPlan(args),
        cloneKinds: 0,
        cgroup: "",
        timeoutMs: options.timeoutMs ?? 0,
        signal: options.signal,
      };
      const limits = { maxOutputBytes: options.maxOutputBytes ?? 1 << 20, drainMs: options.drainMs ?? 500 };
      return await execWithOutput(this.shim, request, limits, [pidfd]);
    } finally {
      addon.close(pidfd);
    }
  }
  #execs = 0;

  async exitOf(id: string): Promise<ExitRecord> {
    return await until(`exit of ${id}`, () => this.exits.find((exit) => exit.id === id));
  }

  /** Acknowledges the exit and drops the container. */
  async finish(id: string): Promise<ExitRecord> {
    const exit = await this.exitOf(id);
    await this.shim.ackExit(id);
    await this.shim.forget(id);
    return exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.shim.connected) await this.shim.shutdown().catch(() => {});
    this.shim.disconnect();
    this.process.kill(9);
    await this.process.waitEnded();
    this.process[Symbol.dispose]();
    this.#image[Symbol.dispose]();
    await removeAll(this.scratch, this.#cgroups);
  }
}

/** Processes that were just killed hold both for a moment. */
async function removeAll(scratch: Scratch, cgroups: readonly string[]): Promise<void> {
  for (const path of cgroups) await until(`removal of ${path}`, () => removeCgroup(path));
  await until("unmount", () => {
    try {
      scratch[Symbol.dispose]();
      return true;
    } catch {
      return false;
    }
  });
}

function removeCgroup(path: string): boolean {
  try {
    const children = execFileSync("find", [path, "-mindepth", "1", "-depth", "-type", "d"], { encoding: "utf8" });
    for (const child of children.split("\n")) if (child !== "") rmdirSync(child);
    rmdirSync(path);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "ENOENT";
  }
}

export function execPlan(args: readonly string[], before: readonly Op[] = []): Plan {
  return [
    { op: "clean-start" },
    ...before,
    { op: "join-process", slot: 3, kinds: nsKind.mnt | nsKind.pid | nsKind.net | nsKind.ipc | nsKind.uts },
    { op: "stdio", stdin: 0, stdout: 1, stderr: 2 },
    { op: "fork" },
    { op: "exec", path: args[0] ?? "", args, env: ["PATH=/bin"] },
  ];
}
