/** The `caisson` command on containers: bundles with a root made of busybox, states below a directory of their own. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LibraryPlace } from "./library-place.ts";

const top = join(import.meta.dirname, "../..");
export const command = join(top, "scripts/caisson");

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

type Json = Record<string, unknown>;

export class ContainerCli implements AsyncDisposable {
  readonly place = new LibraryPlace();
  #runs = 0;

  get root(): string {
    return this.place.stateDir;
  }

  /** A new container's id, with its bundle. `change` edits config.json. */
  bundle(args: readonly string[], change: (spec: Spec) => void = () => {}): { readonly id: string; readonly bundle: string } {
    const id = this.place.newId();
    const bundle = join(this.place.top, id);
    mkdirSync(bundle);
    const spec = this.spec(id, args);
    change(spec);
    writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
    return { id, bundle };
  }

  spec(id: string, args: readonly string[]): Spec {
    const hardened = ["nosuid", "noexec", "nodev"];
    return {
      ociVersion: "1.3.0",
      process: { user: { uid: 0, gid: 0 }, args: [...args], env: ["PATH=/bin"], cwd: "/", noNewPrivileges: true },
      root: { path: this.place.rootfs, readonly: true },
      hostname: "cli",
      annotations: { "test/note": "kept" },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
        { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
        { destination: "/sys", type: "sysfs", source: "sysfs", options: [...hardened, "ro"] },
      ],
      linux: {
        cgroupsPath: `${this.place.cgroup}/${id}`,
        namespaces: ["pid", "network", "ipc", "uts", "mount"].map((type) => ({ type })),
        resources: {},
      },
    };
  }

  /** Runs the command to its end. What it writes goes to files: containers that it leaves behind hold them as long as they like. */
  async run(...args: string[]): Promise<Ended> {
    const files = ["out", "err"].map((name) => join(this.place.top, `${name}-${this.#runs}`));
    this.#runs++;
    const fds = files.map((file) => openSync(file, "w"));
    const child = this.start(args, ["ignore", ...fds]);
    for (const fd of fds) closeSync(fd);
    const code = await new Promise<number>((resolve) => child.once("exit", (status) => resolve(status ?? -1)));
    const [out = "", err = ""] = files.map((file) => readFileSync(file, "utf8"));
    return { code, out, err };
  }

  start(
    args: readonly string[],
    stdio: readonly (number | "pipe" | "ignore" | "inherit")[] = ["ignore", "pipe", "pipe"],
    env: NodeJS.ProcessEnv = {},
  ): ChildProcess {
    return spawn(command, ["--root", this.root, ...args], {
      stdio: [...stdio],
      env: { ...process.env, ...env },
      cwd: this.place.top,
    });
  }

  async state(id: string): Promise<Json> {
    const { code, out, err } = await this.run("state", id);
    if (code !== 0) throw new Error(err);
    return JSON.parse(out) as Json;
  }

  logLines(file: string): Json[] {
    return readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Json);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.place[Symbol.asyncDispose]();
  }
}

export interface Spec extends Json {
  process: Json & { args: string[]; env: string[] };
  linux: Json & { namespaces: { type: string }[]; resources: Json };
  mounts: Json[];
}

export async function ended(child: ChildProcess): Promise<Ended> {
  let out = "";
  let err = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    out += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    err += chunk.toString();
  });
  const code = await new Promise<number>((resolve) =>
    child.once("close", (status, signal) => resolve(status ?? (signal === null ? 0 : -1))),
  );
  return { code, out, err };
}
